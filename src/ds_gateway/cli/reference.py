"""Every command's own help as a page of the documentation: generated, so that it cannot be wrong.

python -m ds_gateway.cli.reference > docs/options.md
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, Final

import typer

import durable_streams.cli
from ds_gateway import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = {"ds-gateway": cli.app, "durable-streams": durable_streams.cli.app}
_WIDTH: Final = 100
"""Characters a line, whatever the terminal of whoever makes the page."""

_HEAD: Final = """\
# Every command and option

What `--help` prints, command by command. What they are for, with examples: [command-line.md](command-line.md),
[trying.md](trying.md), [commands.md](commands.md), [quarantine.md](quarantine.md),
[when-a-stream-stops.md](when-a-stream-stops.md). This page is generated.
"""


def commands() -> dict[str, Any]:
    """Return every command of both programs, by the words that call it, in the order of ``--help``."""
    return {
        path: command
        for program, app in PROGRAMS.items()
        for path, command in _below(program, typer.main.get_command(app))
    }


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, stand_in in getattr(command, "commands", {}).items():
        if not stand_in.hidden:
            # The command itself is imported only when it is asked for like this.
            _, each, _ = command.resolve_command(typer.Context(command), [name])
            yield from _below(f"{path} {name}", each)


def markdown() -> str:
    """Return the page."""
    parts = [_HEAD]
    for path, command in commands().items():
        context = typer.Context(command, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH)
        text = inspect.cleandoc(command.get_help(context)).rstrip()
        parts.append(f"## {path}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(markdown())
