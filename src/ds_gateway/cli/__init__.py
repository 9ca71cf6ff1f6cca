"""The command ``ds-gateway``. Exit status: 0 fine, 1 failed, 2 configuration (or a wrong command line)."""

from __future__ import annotations

import pkgutil
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from ds_gateway import __version__
from ds_gateway.errors import ConfigError, GatewayError

_COMMANDS: Final = {
    "run": ("run:run", "Run the gateway in the foreground until SIGTERM or Ctrl-C."),
    "check": ("check:check", "Check the configuration: tell every mistake with file, line and way out."),
    "try": (
        "try_:try_",
        "Show what the gateway would make of a payload or a capture: frames, fields, record, stream, or why not.",
    ),
    "capture": ("capture:capture", "Record what a port or a broker sends, to a file for ds-gateway try."),
    "demo": (
        "demo:demo",
        "Run sensors, a scale, a broker, a gateway and a stream server; do things to them; audit what arrived.",
    ),
    "status": ("status:status", "Show sources, devices, streams and the journal of the running gateway."),
    "tail": ("tail:tail", "Show records as the running gateway accepts them: when, which device, what it says."),
    "resolve": (
        "resolve:resolve",
        "Show why a stream is halted and what each choice would do, or do one of them.",
    ),
    "audit": ("audit:audit", "Read the streams back and prove that every accepted record is there once."),
    "send": ("send:send", "Send a command to a device of a gateway, and wait for what becomes of it."),
    "commands": (
        "commands:commands",
        "Show the commands that the running gateway has taken and not finished: where they are, and since when.",
    ),
    "schema": (
        "schema:schema",
        "Print the JSON Schema (2020-12) of the configuration: editors complete and check with it.",
    ),
    "diag": (
        "diag:diag",
        "Put status, configuration, versions, log and a list of the journal into one archive, without secrets.",
    ),
    "journal": ("journal:app", "Show what is in the journal, or move what was not sent elsewhere."),
    "identity": ("identity:app", "Show who the journal belongs to, or give it to another gateway id."),
    "quarantine": ("quarantine:app", "Show what did not become a record and why, try it again, or export it."),
}
"""Where each command is, and its help in the list of all.

Its module is imported when it is called or explains itself: all of them together take seconds on a small machine,
which a watchdog's restart or somebody who asks for the status would wait for.
"""


class _Commands(TyperGroup):
    """The commands of the table, by stand-ins until one of them is needed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name in _COMMANDS else command, rest


def _load(name: str) -> Any:
    """The command itself, as the library calls it."""
    where, _ = _COMMANDS[name]
    found = pkgutil.resolve_name(f"{__name__}.{where}")
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
        found.command(name)(function)
    return typer.main.get_command(found)


# Tracebacks with local variables would show secrets.
app = typer.Typer(
    name="ds-gateway",
    help="MQTT and serial telemetry into durable streams, exactly once and in order.",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _stand_in() -> None:
    """Never called."""


for _name, (_, _help) in _COMMANDS.items():
    app.command(_name, help=_help)(_stand_in)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - called by typer
    if wanted:
        sys.stdout.write(f"ds-gateway {__version__}\n")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[  # noqa: FBT002 - an option, not an argument
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; never returns."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem}\n")
        sys.exit(2)
    except GatewayError as error:
        sys.stderr.write(f"ds-gateway: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:  # where the command line's library does not see it
        sys.exit(130)
