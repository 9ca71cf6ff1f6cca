"""``ds-gateway run``: the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ds_gateway import logs
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.options import ConfigOption  # noqa: TC001 - read by typer
from ds_gateway.config import last_valid
from ds_gateway.gateway import Gateway
from ds_gateway.logs import event, logger
from ds_gateway.notify import Notifier
from ds_gateway.reloading import can_be_taken_up

if TYPE_CHECKING:
    from ds_gateway.config.last_valid import Refused

_log = logger("gateway")


def run(
    config: ConfigOption = None,
    dry_run_commands: Annotated[  # noqa: FBT002 - an option, not an argument
        bool,
        typer.Option("--dry-run-commands", help="Deliver no command: its receipt says what would have been sent."),
    ] = False,
    strict: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--strict",
            help="Exit with 2 if the configuration is invalid, also as a service: otherwise a service runs the "
            "last valid one, and says so.",
        ),
    ] = False,
) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C."""
    load = partial(load_configuration, config)
    refused: Refused | None = None
    if strict or not last_valid.is_service(os.environ, os.getpid()):
        loaded = load()
    else:
        loaded, refused = last_valid.load(config, os.environ, load)
    logs.setup(loaded.settings.log.level, loaded.settings.log.format)
    if refused is not None:
        _tell(refused)

    def keep() -> None:
        if refused is None:
            last_valid.keep(loaded, os.environ)

    async def main() -> int:
        notifier = Notifier.from_environ(os.environ)
        while True:
            gateway = Gateway(
                loaded, notifier, load=load, dry_run_commands=dry_run_commands, refused=refused, on_started=keep
            )
            status = await gateway.run()
            # It stopped with a file that was right; by now another one may be there.
            if not gateway.starts_anew or can_be_taken_up(loaded, load):
                break
            logs.setup(loaded.settings.log.level, loaded.settings.log.format)  # what is told again is no repeat
        # Everything is committed and closed. Leaving the loop would wait for threads that resolve a name, for as
        # long as the resolver likes, and a second signal would turn a clean end into a killed process.
        logging.shutdown()
        sys.stdout.flush()
        if gateway.starts_anew:
            notifier.watchdog()  # its next one comes when the start is over
            _start_anew()
            status = 1
        os._exit(status)

    asyncio.run(main())


def _tell(refused: Refused) -> None:
    """Loudly: whoever wrote the file believes that it runs."""
    for problem in refused.problems:
        event(_log, "error", "gateway.config.invalid", problem=str(problem))
    event(
        _log,
        "error",
        "gateway.config.last_valid",
        problems=len(refused.problems),
        running=str(refused.kept.at),
        saved_at=refused.kept.saved_at,
        way_out="correct the file, check it with ds-gateway check, and restart the service",
    )


def _start_anew() -> None:
    """Execute this program again with the arguments and the environment that it was started with.

    The process stays, so that the service manager keeps it; its threads end, and no descriptor outlives it but the
    standard ones. Returns if there is no such program any more.
    """
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - itself
    except OSError as error:
        sys.stderr.write(f"ds-gateway: {sys.executable} cannot be executed anew: {error.strerror}\n")
