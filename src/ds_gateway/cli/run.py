"""``ds-gateway run``: the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Annotated

import typer

from ds_gateway import logs
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.options import ConfigOption  # noqa: TC001 - read by typer
from ds_gateway.gateway import Gateway
from ds_gateway.notify import Notifier


def run(
    config: ConfigOption = None,
    dry_run_commands: Annotated[  # noqa: FBT002 - an option, not an argument
        bool,
        typer.Option("--dry-run-commands", help="Deliver no command: its receipt says what would have been sent."),
    ] = False,
) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C."""
    loaded = load_configuration(config)
    logs.setup(loaded.settings.log.level, loaded.settings.log.format)

    async def main() -> int:
        status = await Gateway(loaded, Notifier.from_environ(os.environ), dry_run_commands=dry_run_commands).run()
        # Everything is committed and closed. Leaving the loop would wait for threads that resolve a name, for as
        # long as the resolver likes, and a second signal would turn a clean end into a killed process.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)

    asyncio.run(main())
