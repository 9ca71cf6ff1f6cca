"""``ds-gateway journal``: what is in the journal, and moving it to another gateway. Exit status 0, 1 or 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ds_gateway import control
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import print_json
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.inspecting import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANSWER_SECONDS: Final = 60.0
_PIPED_COLUMNS: Final = 400
_COLUMNS: Final = ("name", "accepted", "in stream", "in journal", "in flight", "lost", "bytes", "kept bytes")

app = typer.Typer(help="Show what is in the journal, or move what was not sent elsewhere.", no_args_is_help=True)


@app.command()
def ls(config: ConfigOption = None, json: JsonOption = False) -> None:  # noqa: FBT002 - an option, not an argument
    """List the journal's streams: what was accepted, what is in the stream, and what waits here."""
    # Read beside whoever has it open, so that it also helps where a gateway does not answer.
    data_dir, _ = find_control_sockets(config, os.environ)
    answer = inspect(Path(data_dir), {"action": "ls"})
    if json:
        print_json(answer)
        return
    title = f"journal of {answer['gateway']} in {answer['data_dir']}, {answer['bytes']:,} bytes"
    table = Table(title=_safe(title), title_justify="left", title_style="bold", expand=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "name" else "right", overflow="fold")
    for row in answer["streams"]:
        cells = [str(row[column.replace(" ", "_")]) for column in _COLUMNS]
        table.add_row(*map(_safe, cells))
    console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
    console.print(table)
    for cause, counted in answer["losses"].items():
        console.print(_safe(f"loss ledger: {cause} {counted['records']}, in {counted['entries']} entries"))
    for told in answer["damaged"]:
        console.print(Text(f"damaged: {_safe(told).plain}", style="red"))


@app.command()
def show(
    stream: Annotated[str, typer.Argument(help="Name of a stream, as ls shows it.")],
    kept: Annotated[  # noqa: FBT002
        bool, typer.Option("--kept", help="Also those that are in the stream, and kept here for repair.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many, the oldest first.", min=1)] = None,
    config: ConfigOption = None,
    json: Annotated[  # noqa: FBT002
        bool, typer.Option("--json", help="Print each record with position and state, one object a line.")
    ] = False,
) -> None:
    """Show the records of a stream that wait in the journal: one a line, as they are going to be sent."""
    told = 0
    after: int | None = 0
    damaged: list[str] = []
    while after is not None and (limit is None or told < limit):
        answer = ask_journal(config, {"action": "show", "stream": stream, "after": after})
        after = answer["next"]
        damaged += answer["damaged"]
        for row in answer["records"]:
            if row["state"] == "kept" and not kept:
                continue
            if limit is not None and told >= limit:
                break
            sys.stdout.write(f"{orjson.dumps(row if json else row['record']).decode()}\n")
            told += 1
    for each in damaged:
        sys.stderr.write(f"ds-gateway: {_safe(each).plain}\n")
    if damaged:
        raise typer.Exit(1)


def ask_journal(config: Path | None, request: Mapping[str, Any]) -> dict[str, Any]:
    """The running gateway's answer about its journal; without one, what the journal itself says."""
    data_dir, sockets = find_control_sockets(config, os.environ)
    for path in sockets:
        try:
            return control.call(path, "journal", _ANSWER_SECONDS, **request)
        except control.NobodyThereError:
            continue
    return inspect(Path(data_dir), request)


def _safe(text: str) -> Text:
    """Names come from outside: nothing in them is markup or a command to the terminal."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
