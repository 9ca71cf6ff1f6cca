"""``ds-gateway commands``: what is pending in the running gateway, where, and since when."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import print_json
from ds_gateway.cli.status import ask
from ds_gateway.config.loader import find_control_sockets

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS: Final = ("number", "command", "device", "state", "since", "expires in", "reason")
_PIPED_COLUMNS: Final = 400


def commands(config: ConfigOption = None, json: JsonOption = False) -> None:  # noqa: FBT002 - an option, not an argument
    """Show the commands that the running gateway has taken and not finished: where they are, and since when."""
    data_dir, sockets = find_control_sockets(config, os.environ)
    result = ask(data_dir, sockets, "commands")
    if json:
        print_json(result)
        return
    width = None if sys.stdout.isatty() else _PIPED_COLUMNS
    Console(width=width).print(render(result, datetime.now(UTC)))


def render(result: Mapping[str, Any], now: datetime) -> RenderableType:
    """The answer for people. Whatever is missing in it shows as a hyphen."""
    downlink = result.get("downlink")
    pending = [row for row in _list(result.get("commands")) if isinstance(row, dict)]
    parts: list[RenderableType] = [_head(downlink if isinstance(downlink, dict) else {}, len(pending))]
    if pending:
        table = Table(title="pending", title_justify="left", title_style="bold", expand=False)
        for column in _COLUMNS:
            table.add_column(column, justify="right" if column in {"number", "since"} else "left", overflow="fold")
        for row in pending:
            cells = {
                **{key: _shown(row.get(key)) for key in ("number", "command", "device", "state", "reason")},
                "since": _distance(row.get("since"), now, sign=-1),
                "expires in": _distance(row.get("deadline"), now, sign=1),
            }
            table.add_row(*(_safe(cells[column]) for column in _COLUMNS))
        parts.append(table)
    return Group(*parts)


def _head(downlink: Mapping[str, Any], pending: int) -> Text:
    state, reason = _shown(downlink.get("state")), downlink.get("reason")
    text = f"commands from {_shown(downlink.get('stream'))}: {state}" + (f": {reason}" if reason else "")
    if downlink.get("number") is not None:
        text += f"; all before number {downlink['number']} are finished"
    if downlink.get("up_to_date") is False:
        text += "; not at the end of the stream yet"
    text += f"; {pending} pending"
    counts = downlink.get("counts")
    if isinstance(counts, dict) and counts:
        text += "; " + ", ".join(f"{status} {count}" for status, count in counts.items())
    return _safe(text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)


def _distance(moment: Any, now: datetime, *, sign: int) -> str:
    """How long ago, or how long until."""
    try:
        seconds = max((datetime.fromisoformat(moment) - now).total_seconds() * sign, 0.0)
    except (TypeError, ValueError):
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _safe(text: str) -> Text:
    """Names and reasons come from outside: nothing in them is markup or a command to the terminal."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
