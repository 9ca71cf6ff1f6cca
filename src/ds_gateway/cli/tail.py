"""``ds-gateway tail``: records as they pass through the running gateway. Exit status 0, 1, 2, or 130 by Ctrl-C."""

from __future__ import annotations

import difflib
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from ds_gateway.cli.options import ConfigOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import count
from ds_gateway.cli.status import ask
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.following import MAX_LAST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

POLL_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 30.0
_NOBODY_READS: Final = 141
_MAX_NAMES: Final = 8
_GATEWAY: Final = "@gateway"
"""The device of records that are about the gateway itself."""


def tail(  # noqa: PLR0917 - typer's options
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Names of devices; without one, all.")
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option("--stream", help="Only of this stream; may be given more than once.", show_default=False),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", help="Begin with so many that passed before.", min=0, max=MAX_LAST)
    ] = 0,
    records: Annotated[int | None, typer.Option("--records", help="End after so many records.", min=1)] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="End after so many seconds.", min=0.0)] = None,
    every: Annotated[  # noqa: FBT002 - an option, not an argument
        bool, typer.Option("--all", help="Control records, too: births, losses, descriptions of devices.")
    ] = False,
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print each record as JSON, one a line.")] = False,  # noqa: FBT002
) -> None:
    """Show records as the running gateway accepts them: when, which device, what it says."""
    data_dir, sockets = find_control_sockets(config, os.environ)
    request: dict[str, Any] = {"last": last, "streams": stream or [], "devices": devices or [], "control": every}
    ends_at = None if seconds is None else time.monotonic() + seconds
    after: Mapping[str, Any] | None = None
    told = 0
    if devices or stream:
        for hint in _hints(ask(data_dir, sockets, "status"), devices or [], stream or []):
            sys.stderr.write(f"ds-gateway: {_safe(hint)}\n")
    try:
        while True:
            answer = ask(data_dir, sockets, "tail", _ANSWER_SECONDS, **request, after=after)
            after = answer["after"]
            for row in answer["records"]:
                if records is not None and told >= records:
                    return
                sys.stdout.write(f"{orjson.dumps(row['record']).decode() if json else line(row)}\n")
                told += 1
            sys.stdout.flush()
            if answer["unseen"]:
                sys.stderr.write(
                    f"ds-gateway: {count(answer['unseen'], 'record')} passed unseen: sent, and not kept here any "
                    "more (journal.retain_bytes)\n"
                )
            if records is not None and told >= records:
                return
            left = POLL_SECONDS if ends_at is None else ends_at - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_SECONDS))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its flush at exit fails, too
        raise typer.Exit(_NOBODY_READS) from None


def _hints(status: Mapping[str, Any], devices: Sequence[str], streams: Sequence[str]) -> Iterator[str]:
    """About names that there are not: they may come later, or be misspelt."""
    heard = [row["name"] for row in status["devices"]]
    for name in devices:
        if name not in {*heard, _GATEWAY}:
            yield f"no device {name!r} was heard since the gateway started: waiting for it; {_near(name, heard)}"
    known = [row["name"] for row in status["streams"]]
    for name in streams:
        if name not in known:
            yield f"there is no stream {name!r} in the journal yet: waiting for it; {_near(name, known)}"


def _near(name: str, names: Sequence[str]) -> str:
    if not names:
        return "there is none so far"
    found = difflib.get_close_matches(name, names, 3) or names
    more = len(found) - _MAX_NAMES
    shown = ", ".join(found[:_MAX_NAMES])
    return f"there are {shown} and {more} more: see ds-gateway status" if more > 0 else f"there are {shown}"


def line(row: Mapping[str, Any]) -> str:
    """A record for people, in one line."""
    record = row["record"]
    moment = str(record.get("time", "-"))
    what = f"{record['kind']}: {_shown(record.get('info'))}" if "kind" in record else _shown(record.get("data"))
    unsynced = " (clock not synchronised)" if record.get("clock") == "unsynced" else ""
    return _safe(f"{moment}{unsynced}  {record.get('device', '-')}  {what}")


def _shown(data: Any) -> str:
    if not isinstance(data, dict):
        return orjson.dumps(data).decode()
    return " ".join(f"{key}={_value(value)}" for key, value in data.items())


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not any(c.isspace() or c in '="' for c in value):
        return value
    return orjson.dumps(value).decode()


def _safe(text: str) -> str:
    """What devices said is in it: no commands to the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
