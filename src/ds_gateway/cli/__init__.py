"""The command ``ds-gateway``. Exit status: 0 fine, 1 failed, 2 configuration (or a wrong command line)."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ds_gateway import __version__
from ds_gateway.cli.audit import audit
from ds_gateway.cli.capture import capture
from ds_gateway.cli.check import check
from ds_gateway.cli.commands import commands
from ds_gateway.cli.demo import demo
from ds_gateway.cli.quarantine import app as quarantine
from ds_gateway.cli.resolve import resolve
from ds_gateway.cli.run import run
from ds_gateway.cli.schema import schema
from ds_gateway.cli.send import send
from ds_gateway.cli.status import status
from ds_gateway.cli.try_ import try_
from ds_gateway.errors import ConfigError, GatewayError

# Tracebacks with local variables would show secrets.
app = typer.Typer(
    name="ds-gateway",
    help="MQTT and serial telemetry into durable streams, exactly once and in order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(check)
app.command("try")(try_)
app.command()(capture)
app.command()(demo)
app.command()(status)
app.command()(resolve)
app.command()(audit)
app.command()(send)
app.command()(commands)
app.command()(schema)
app.add_typer(quarantine, name="quarantine")


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
