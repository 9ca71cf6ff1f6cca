"""``ds-gateway journal``: what is in the journal, and moving it to another gateway. Exit status 0, 1 or 2."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ds_gateway.cli import moving
from ds_gateway.cli.asking import ask_journal
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import count, ledgered, print_json
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.inspecting import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIPED_COLUMNS: Final = 400
_COLUMNS: Final = (
    "name",
    "accepted",
    "in stream",
    "in journal",
    "in flight",
    "lost",
    "exported",
    "bytes",
    "kept bytes",
)

app = typer.Typer(
    help="Show what is in the journal, or move what was not sent elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


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
        console.print(_safe(ledgered(cause, counted)))
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


@app.command()
def export(  # noqa: PLR0917 - typer's options
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File to write, as on a stick.", dir_okay=False, show_default=False),
    ] = None,
    streams: Annotated[
        list[str] | None, typer.Argument(metavar="[STREAM]...", help="Names of streams; without one, all.")
    ] = None,
    cancel: Annotated[  # noqa: FBT002
        bool, typer.Option("--cancel", help="Give up an export that did not get into its file.")
    ] = False,
    files_are_deleted: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--files-are-deleted",
            help="With --cancel: no file of it is left, also no copy, and none was imported.",
        ),
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Move what was not sent into a file, for `journal import` at another gateway. It is not sent from here then.

    What is on its way stays: only the server knows whether it has it. After a failure run it again: what was
    begun is written anew.
    """
    if cancel == (output is not None):
        raise typer.BadParameter("name the file to write by --output, or give --cancel")
    if files_are_deleted and not cancel:
        raise typer.BadParameter("--files-are-deleted belongs to --cancel")
    if str(output) == "-":
        raise typer.BadParameter("--output is a file: it is read back before anything is forgotten here")
    if cancel:
        with moving.opened(config) as ask:
            answer = ask({"action": "export-cancel", "files_are_deleted": files_are_deleted})
        told = f"taken back: {', '.join(answer['cancelled'])}; its records are sent from here\n"
    else:
        assert output is not None, "it was looked at above"
        with moving.opened(config, settles=True) as ask:
            answer = moving.export(ask, output, streams or [])
        told = _told_export(answer, output)
    if json:
        print_json(answer)
    else:
        sys.stdout.write(told)


def _told_export(answer: Mapping[str, Any], output: Path) -> str:
    verb = "is" if answer["records"] == 1 else "are"
    import_it = f"ds-gateway journal import {shlex.quote(str(output))}"
    lines = [
        f"{_moved(answer)} {verb} in {output}, export {answer['export']}, and not in this journal any more",
        f"import it once, at a gateway that reaches the server: {import_it}",
    ]
    lines += [
        f"stays: {count(each['records'], 'record')} of {each['stream']}: {each['why']}" for each in answer["stays"]
    ]
    if answer["resumed"]:
        lines.insert(0, "an export that was begun before was finished; what came since is not in it")
    return "".join(f"{_safe(line).plain}\n" for line in lines)


def _moved(answer: Mapping[str, Any]) -> str:
    return f"{count(answer['records'], 'record')} of {count(answer['streams'], 'stream')}"


@app.command("import")
def import_(
    file: Annotated[
        Path | None,
        typer.Argument(help="File that journal export wrote.", dir_okay=False, exists=True, show_default=False),
    ] = None,
    cancel: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--cancel", help="Give up imports that did not get to their end: nothing of them was sent."),
    ] = False,
    other_server: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--other-server", help="It is for another server: send it to this one."),
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Take what another gateway exported into this journal, to be sent from here: once, under its own ids.

    The file is checked as a whole first. After a failure run it again: it goes on where it ended.
    """
    if cancel == (file is not None):
        raise typer.BadParameter("name the file to import, or give --cancel")
    with moving.opened(config) as ask:
        if file is None:
            answer = ask({"action": "import-cancel"})
        else:
            answer = moving.import_(ask, file, other_server=other_server)
    if json:
        print_json(answer)
    elif file is None:
        sys.stdout.write(
            f"given up: {', '.join(answer['cancelled'])}; its file may be imported elsewhere, or here\n"
        )
    else:
        verb = "is" if answer["records"] == 1 else "are"
        told = (
            f"{_moved(answer)}, exported by {answer['gateway']}, {verb} in this journal, and {verb} sent from here"
        )
        sys.stdout.write(f"{_safe(told).plain}; delete {_safe(str(file)).plain} and its copies\n")


def _safe(text: str) -> Text:
    """Names come from outside: nothing in them is markup or a command to the terminal."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
