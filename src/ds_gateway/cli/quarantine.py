"""``ds-gateway quarantine``: what did not become a record, and trying it again. Exit status 0, 1 or 2."""

from __future__ import annotations

import base64
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ds_gateway import assembly, control
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.open_journal import opened_journal
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.output import writing
from ds_gateway.cli.printing import count, print_json
from ds_gateway.cli.progress import Progress
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.errors import ControlError
from ds_gateway.quarantine import COMMIT_SECONDS, DEFAULT_LIMIT, MAX_LIMIT, Quarantine, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ANSWER_SECONDS: Final = 60.0
_MAX_SHOWN: Final = 4096
"""Bytes that ``show`` prints; --json has all."""
_PIPED_COLUMNS: Final = 400
_COLUMNS: Final = ("number", "time", "source", "device", "bytes", "reason")

app = typer.Typer(
    help="Show what did not become a record and why, try it again, or export it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

SourceOption = Annotated[str, typer.Option("--source", help="Only of this source.", show_default=False)]
DeviceOption = Annotated[str, typer.Option("--device", help="Only of this device.", show_default=False)]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Only with these words in the reason.", show_default=False)
]
NumbersArgument = Annotated[
    list[int] | None, typer.Argument(help="Numbers, as ls shows them; default: all.", show_default=False, min=1)
]


@app.command()
def ls(  # noqa: PLR0917 - typer's options
    limit: Annotated[
        int, typer.Option("--limit", help="How many, the newest first.", min=1, max=MAX_LIMIT)
    ] = DEFAULT_LIMIT,
    source: SourceOption = "",
    device: DeviceOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002 - an option, not an argument
) -> None:
    """List what is in the quarantine, the newest first: number, time, source, device, size and reason."""
    answer = _ask(config, {**_wanted(None, source, device, reason), "action": "ls", "limit": limit})
    if json:
        print_json(answer)
        return
    table = Table(title=_head(answer), title_justify="left", title_style="bold", expand=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in {"number", "bytes"} else "left", overflow="fold")
    for row in answer["payloads"]:
        table.add_row(*(_safe(str(row[column])) for column in _COLUMNS))
    Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS).print(table)


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="Number, as ls shows it.", min=1)],
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show one payload: where it came from, why it is here, and its bytes as hex and text."""
    answer = _ask(config, {"action": "show", "number": number})
    if json:
        print_json(answer)
        return
    raw = base64.b64decode(answer["raw"])
    lines = [
        f"{key:7} {answer[key]}" for key in ("number", "time", "source", "device", "topic", "reason", "bytes")
    ]
    lines += list(hex_lines(raw[:_MAX_SHOWN]))
    if len(raw) > _MAX_SHOWN:
        lines.append(f"... {len(raw) - _MAX_SHOWN} bytes more: --json has all, in base64")
    sys.stdout.write("".join(f"{_safe(line).plain}\n" for line in lines))


@app.command()
def retry(  # noqa: PLR0917
    numbers: NumbersArgument = None,
    source: SourceOption = "",
    device: DeviceOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Read it once more with the present configuration: what becomes a record goes into its stream.

    Records have the time when the payload came. They come late: behind what was accepted meanwhile.
    """
    request = {**_wanted(numbers, source, device, reason), "action": "retry"}
    total: dict[str, Any] = {"accepted": 0, "not_reported": 0, "no_room": 0, "kept": [], "impossible": []}
    with _asker(config, for_retry=True) as ask, Progress("reading again", unit="payloads") as progress:
        tried = 0
        for answer in steps(lambda after: ask({**request, "after": after})):
            for key in total:
                total[key] += answer[key]
                tried += len(answer[key]) if isinstance(answer[key], list) else answer[key]
            progress.show(tried)
    if json:
        print_json(total)
    else:
        _tell_retried(total)
    if total["no_room"]:
        raise typer.Exit(1)


@app.command()
def export(  # noqa: PLR0917
    output: Annotated[
        Path,
        typer.Option("--output", help="File to write; - is standard output.", dir_okay=False, allow_dash=True),
    ],
    numbers: NumbersArgument = None,
    source: SourceOption = "",
    device: DeviceOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Write payloads to a file, the oldest first: one JSON object a line, the bytes in base64 as raw.

    The quarantine keeps them.
    """
    request = {**_wanted(numbers, source, device, reason), "action": "page"}
    written = 0
    with _asker(config) as ask, writing(output) as file, Progress("writing", unit="payloads") as progress:
        for answer in steps(lambda after: ask({**request, "after": after})):
            for row in answer["payloads"]:
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                written += 1
            progress.show(written)
            for told in answer["damaged"]:
                sys.stderr.write(f"{_safe(told).plain}\n")
    if str(output) != "-":
        sys.stdout.write(f"{count(written, 'payload')} in {output}\n")


def _wanted(numbers: list[int] | None, source: str, device: str, reason: str) -> dict[str, Any]:
    return {"numbers": numbers or [], "source": source, "device": device, "reason": reason}


def _head(answer: Mapping[str, Any]) -> str:
    shown, total = len(answer["payloads"]), answer["count"]
    text = f"quarantine: {count(total, 'payload')}, {count(answer['bytes'], 'byte')}"
    if shown < total:
        text += f"; the newest {shown} (--limit for more)"
    if answer["damaged"]:
        text += f"; damaged: {count(len(answer['damaged']), 'row')}"
    return text


def _tell_retried(total: Mapping[str, Any]) -> None:
    kept, impossible = total["kept"], total["impossible"]
    lines = [
        f"{total['accepted']} became records: they are in the journal, and come late in their streams",
        *([f"{total['not_reported']} were read, and are not reported"] if total["not_reported"] else []),
        *([f"{total['no_room']} found no room in the journal: try again"] if total["no_room"] else []),
        f"{len(kept)} cannot be read now, either",
        *(f"  {row['number']} {row['device']}: {row['reason']}" for row in kept[:DEFAULT_LIMIT]),
        *([f"{len(impossible)} cannot be tried again"] if impossible else []),
        *(f"  {row['number'] or '-'} {row['device']}: {row['reason']}" for row in impossible[:DEFAULT_LIMIT]),
    ]
    sys.stdout.write("".join(f"{_safe(line).plain}\n" for line in lines))


def hex_lines(raw: bytes) -> Iterator[str]:
    """The bytes as hex and as text, 16 a line."""
    for start in range(0, len(raw), 16):
        part = raw[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{start:08x}  {part.hex(' '):47}  {text}"


# -- whom to ask


def _ask(config: Path | None, request: Mapping[str, Any]) -> dict[str, Any]:
    with _asker(config) as ask:
        return ask(request)


@contextmanager
def _asker(
    config: Path | None, *, for_retry: bool = False
) -> Iterator[Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """The running gateway; without one its journal itself."""
    data_dir, sockets = find_control_sockets(config, os.environ)
    for path in sockets:
        ask = partial(_call, path)
        try:
            ask({"action": "ls", "limit": 1, **_wanted(None, "", "", "")})
        except control.NobodyThereError:
            continue
        yield ask
        return
    if for_retry:
        with _journal(config) as quarantine:
            yield quarantine.do
    else:
        yield Quarantine(Path(data_dir), dict, _refuse).do


def _call(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    return control.call(path, "quarantine", COMMIT_SECONDS + _ANSWER_SECONDS, **request)


def _refuse(**_options: object) -> NoReturn:
    raise ControlError("nothing is tried again without an open journal")  # never: only a retry makes an intake


@contextmanager
def _journal(config: Path | None) -> Iterator[Quarantine]:
    """The quarantine of a journal that no gateway has open. Raises `JournalLockedError`: one has."""
    settings = load_configuration(config).settings
    with opened_journal(settings) as (journal, _):
        yield assembly.quarantine(settings, journal)


def _safe(text: str) -> Text:
    """Names and reasons come from outside: nothing in them is markup or a command to the terminal."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
