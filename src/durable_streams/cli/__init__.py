"""The command ``durable-streams``. `ending` lists the exit codes."""

from __future__ import annotations

import sys

import typer

from durable_streams.cli.append import append
from durable_streams.cli.ending import EXIT_CODES, INTERRUPTED
from durable_streams.cli.manage import close, create, delete, head
from durable_streams.cli.read import read, tail
from durable_streams.cli.serve import serve

# Tracebacks with local variables would show secrets.
app: typer.Typer = typer.Typer(
    help="Durable, append-only streams over HTTP.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (serve, create, append, read, tail, head, close, delete):
    app.command(epilog=EXIT_CODES)(_command)


@app.callback()
def _common() -> None:
    pass


def main() -> None:
    """Run the command line; never returns."""
    try:
        app(prog_name="durable-streams")
    except KeyboardInterrupt:  # where the command line's library does not see it
        sys.exit(INTERRUPTED)
