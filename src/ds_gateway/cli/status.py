"""``ds-gateway status``: what the running gateway says about itself."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ds_gateway import control
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import count, ledgered, print_json
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_GOOD: Final = frozenset({"connected", "open", "idle", "sending"})
_BAD: Final = frozenset({"halted", "parked", "failed", "refused"})
_MAX_READING: Final = 60
_LOSSES: Final[Mapping[str, str]] = {
    "shed_oldest": "the journal was full, and the oldest records gave way",
    "shed_newest": "there was no room, and what came then was not kept",
    "max_age": "not sent within journal.max_age",
    "quarantined": "refused by the server and kept aside, or deleted from the full quarantine",
    "skipped": "skipped by an operator, kept aside",
    "corrupt": "rows of the journal could not be read any more",
    "server_lost": "the server lost what it had confirmed",
    "session_lost": "the broker forgot the session",
    "id_gap": "the broker skipped packet ids",
    "qos0": "QoS 0 messages that found no room",
    "serial_overrun": "readings or bytes of a serial port that nobody could take in time",
}
_PIPED_COLUMNS: Final = 400
_WAY_OUT: Final = (
    "for a service, `systemctl status ds-gateway` shows whether it runs, and `journalctl -u ds-gateway` why not"
)
WATCH_SECONDS: Final = 1.0


def status(
    watch: Annotated[  # noqa: FBT002 - an option, not an argument
        bool, typer.Option("--watch", "-w", help="Show it over and over, every second, until Ctrl-C.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show sources, devices, streams and the journal of the running gateway."""
    data_dir, sockets = find_control_sockets(config, os.environ)
    if watch:
        if json or not sys.stdout.isatty():
            raise typer.BadParameter("--watch is for a terminal: programs ask for `status --json` when they like")
        _watch(partial(ask, data_dir, sockets, "status"))
        return
    result = ask(data_dir, sockets, "status")
    if json:
        print_json(result)
    else:
        # Into a pipe a line stays a line, so that grep finds what it looks for.
        width = None if sys.stdout.isatty() else _PIPED_COLUMNS
        Console(width=width).print(render(result, datetime.now(UTC)))


def _watch(ask_again: Callable[[], Mapping[str, Any]]) -> None:
    """Over and over until Ctrl-C. A gateway that is away is waited for: it may be starting anew."""
    with Live(screen=True, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            live.update(view(ask_again, datetime.now(UTC), live.console), refresh=True)
            time.sleep(WATCH_SECONDS)


def view(ask_again: Callable[[], Mapping[str, Any]], now: datetime, screen: Console) -> RenderableType:
    """What is shown now: as much of the status as this screen has room for, or why there is none."""
    head = Text(f"{now.astimezone():%H:%M:%S}, every {WATCH_SECONDS:g} s; Ctrl-C ends", style="dim")
    try:
        result = ask_again()
    except ControlError as error:
        return Group(head, _safe(str(error), "bold red"))
    return fitting(lambda rows: Group(head, render(result, now, rows)), screen)


def fitting(render_with: Callable[[int], RenderableType], screen: Console) -> RenderableType:
    """With as many rows a table as leave room for all tables, and for the lines around them; one at least.

    How many lines a row takes depends on all others: it is tried.
    """

    def fits(rows: int) -> bool:
        return len(screen.render_lines(render_with(rows), pad=False)) <= screen.height

    fewest, most = 1, screen.height
    while fewest < most:
        middle = (fewest + most + 1) // 2
        fewest, most = (middle, most) if fits(middle) else (fewest, middle - 1)
    return render_with(fewest)


def ask(
    data_dir: str, sockets: Sequence[Path], verb: str, timeout_seconds: float = 5.0, **arguments: Any
) -> dict[str, Any]:
    """The answer of the first gateway that listens. Raises `ControlError`."""
    for path in sockets:
        try:
            return control.call(path, verb, timeout_seconds, **arguments)
        except control.NobodyThereError as error:
            nobody = error
    if len(sockets) == 1:
        raise ControlError(f"{nobody}; {_WAY_OUT}")
    tried = " or ".join(str(path) for path in sockets)
    raise ControlError(f"no gateway is running on {data_dir} (no control socket at {tried}); {_WAY_OUT}")


def render(result: Mapping[str, Any], now: datetime, rows: int | None = None) -> RenderableType:
    """The answer as tables. Whatever is missing in it shows as a hyphen.

    ``rows``: so many of each table at most, those first that need somebody. None: all, as they are.
    """
    gateway, server = _mapping(result, "gateway"), _mapping(result, "server")
    head = _safe(
        f"gateway {_text(gateway, 'id')}, version {_text(gateway, 'version')}, pid {_text(gateway, 'pid')}, "
        f"up {_seconds(gateway.get('uptime_seconds'))}, server {_text(server, 'url')}"
    )
    return Group(
        head,
        *_refused(_mapping(gateway, "config_refused")),
        *_clock(_mapping(result, "clock")),
        *_certificates(result.get("certificates")),
        *_page(_mapping(result, "page")),
        *_embedded(_mapping(result, "embedded")),
        *_table(
            "sources",
            result,
            rows,
            ("name", "kind", "state", "reason", "received", "lost"),
            {"reason": _reason},
        ),
        *_table(
            "devices",
            result,
            rows,
            ("name", "last reading", "age", "accepted", "repeated", "rejected"),
            {
                "last reading": lambda row: _reading(row.get("last_data"), _mapping(row, "units")),
                "age": lambda row: _age(row.get("last_time"), now),
                "accepted": lambda row: _text(row, "count"),
                "rejected": _rejected,
            },
        ),
        *_table(
            "streams",
            result,
            rows,
            ("name", "state", "accepted", "in journal", "in stream", "lost", "last error / what to do"),
            {
                "in journal": lambda row: _text(row, "in_journal"),
                "in stream": lambda row: _text(row, "in_stream"),
                "last error / what to do": _trouble,
            },
        ),
        *_downlink(_mapping(result, "downlink"), result.get("sources")),
        _journal(_mapping(result, "journal")),
        *_losses(_mapping(_mapping(result, "journal"), "losses")),
    )


def _reason(row: Mapping[str, Any]) -> str:
    """Why it is as it is; what is wrong with what it brings, where the source itself is well."""
    alarms = row.get("alarms")
    return "; ".join(map(str, alarms)) if isinstance(alarms, list) and alarms else _text(row, "reason")


def _refused(refused: Mapping[str, Any]) -> list[Text]:
    """Nothing, unless the last valid configuration runs instead of the file."""
    problems = refused.get("problems")
    if not isinstance(problems, list):
        return []
    more = (refused.get("count") or 0) - len(problems)
    lines = [
        f"THE CONFIGURATION IS INVALID. The last valid one runs, of {_text(refused, 'saved_at')}:",
        *(f"  {problem}" for problem in problems),
        *([f"  and {more} more: ds-gateway check tells all"] if more > 0 else []),
    ]
    return [Text(_safe(line).plain, style="bold red") for line in lines]


def _clock(clock: Mapping[str, Any]) -> list[Text]:
    """Nothing while it is well, and was never set."""
    lines: list[Text] = []
    if clock.get("synchronised") is False:
        lines.append(
            _safe(
                "the clock is not synchronised: records say so, and commands wait; set up a time server, or "
                "gateway.clock: trusted"
            )
        )
    step = _mapping(clock, "last_step")
    if step:
        lines.append(_safe(f"the clock was set by {_text(step, 'seconds')} s at {_text(step, 'time')}"))
    return lines


def _table(
    title: str,
    result: Mapping[str, Any],
    limit: int | None,
    columns: Sequence[str],
    cells: Mapping[str, Callable[[Mapping[str, Any]], str]],
) -> list[RenderableType]:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for column in columns:
        is_number = column in {"received", "lost", "accepted", "repeated", "in journal", "in stream", "age"}
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    rows = _rows(result.get(title))
    chosen = rows if limit is None else sorted(rows, key=_is_well)[:limit]
    for row in chosen:
        shown = [cells.get(column, lambda row, column=column: _text(row, column))(row) for column in columns]
        table.add_row(*(_coloured(column, text) for column, text in zip(columns, shown, strict=True)))
    more = len(rows) - len(chosen)
    left_out = f"and {count(more, f'more {title[:-1]}', f'more {title}')}: ds-gateway status shows all"
    return [table, *([Text(left_out, style="dim")] if more else [])]


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _is_well(row: Mapping[str, Any]) -> bool:
    return row.get("state", "idle") in _GOOD and not any(row.get(key) for key in ("alarms", "rejected", "reason"))


def _coloured(column: str, text: str) -> Text:
    style = ""
    if column == "state":
        style = "green" if text in _GOOD else "red" if text in _BAD else "yellow"
    return _safe(text, style)


def _safe(text: str, style: str = "") -> Text:
    """Names and readings come from outside: nothing in them is markup or a command to the terminal."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text), style=style)


def _certificates(certificates: Any) -> list[Text]:
    """Nothing of those that are well."""
    lines: list[Text] = []
    for each in _rows(certificates):
        if each.get("problem"):
            named = ", ".join(str(each[key]) for key in ("name", "subject") if each.get(key))
            left = each.get("days_left")
            has_time = isinstance(left, int | float) and left >= 0
            lines.append(_safe(f"certificate {named}: {each['problem']}", "yellow" if has_time else "red"))
    return lines


def _page(page: Mapping[str, Any]) -> list[Text]:
    """Nothing, unless it is wanted and cannot be opened."""
    if page.get("state") != "unheard":
        return []
    return [_safe(f"the status page cannot be opened: {_text(page, 'reason')}", "red")]


def _embedded(embedded: Mapping[str, Any]) -> list[Text]:
    if not embedded:
        return []
    parts = [
        f"embedded server {_text(embedded, 'state')}, streams in {_text(embedded, 'directory')}",
        f"{_bytes(embedded.get('bytes'))} of {_bytes(embedded.get('max_bytes'))} used",
        f"{_bytes(embedded.get('free_bytes'))} free on the disk",
    ]
    reason = str(embedded.get("reason") or "")
    return [_safe(": ".join(filter(None, (", ".join(parts), reason))), "red" if reason else "")]


def _downlink(downlink: Mapping[str, Any], sources: Any) -> list[Text]:
    if not downlink:
        return []

    def total(key: str) -> int:
        return sum(row[key] for row in _rows(sources) if isinstance(row.get(key), int))

    waiting, unacknowledged = total("orders_waiting"), total("orders_unacknowledged")
    parts = [
        f"commands {_text(downlink, 'state')}, {_text(downlink, 'open')} open",
        f"{waiting} {'waits' if waiting == 1 else 'wait'} for their broker or port",
        f"{unacknowledged} {'is' if unacknowledged == 1 else 'are'} sent and not acknowledged",
    ]
    reason = str(downlink.get("reason") or "")
    return [_safe(": ".join(filter(None, (", ".join(parts), reason))), "red" if reason else "")]


def _journal(journal: Mapping[str, Any]) -> Text:
    parts = [
        f"journal {_bytes(journal.get('bytes'))} of {_bytes(journal.get('max_bytes'))} used",
        f"{_bytes(journal.get('free_bytes'))} free on the disk",
    ]
    why = f" ({journal['why_full']})" if journal.get("why_full") else ""
    if journal.get("full") is True:
        parts.append(f"NO ROOM: sources wait{why}")
    elif journal.get("shedding"):
        which = "oldest" if journal["shedding"] == "shed_oldest" else "newest"
        parts.append(f"NO ROOM: the {which} records are lost{why}")
    parts += [f"{name} {journal[name]}" for name in ("quarantined", "lost") if journal.get(name)]
    aside = journal.get("set_aside")
    if isinstance(aside, list) and aside:
        names = ", ".join(map(str, aside))
        parts.append(f"DAMAGED, what was readable went on, kept beside it (delete when done with it): {names}")
    return _safe(
        ", ".join(parts), "red" if journal.get("full") is True or journal.get("shedding") or aside else ""
    )


def _losses(losses: Mapping[str, Any]) -> list[Text]:
    """A line for each cause: what is known to be missing, or may be."""
    return [_safe(f"{ledgered(cause, _mapping(losses, cause))}: {_LOSSES.get(cause, 'lost')}") for cause in losses]


def _trouble(row: Mapping[str, Any]) -> str:
    # What is over is history, and stays in the JSON only: an operator would take it for the present.
    keys = ("reason",) if row.get("state") in _GOOD else ("reason", "last_error")
    said = [str(row[key]) for key in keys if row.get(key)]
    return "; ".join(dict.fromkeys(said)) or "-"


def _rejected(row: Mapping[str, Any]) -> str:
    why = f": {row['last_rejection']}" if row.get("last_rejection") else ""
    return f"{row['rejected']}{why}" if row.get("rejected") else "-"


def _mapping(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = result.get(key)
    return value if isinstance(value, dict) else {}


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "-" if value is None or value == "" else str(value)


def _reading(data: Any, units: Mapping[str, Any]) -> str:
    if not isinstance(data, dict):
        return "-" if data is None else str(data)[:_MAX_READING]
    text = ", ".join(f"{key} {value} {units.get(key, '')}".rstrip() for key, value in data.items())
    return text if len(text) <= _MAX_READING else f"{text[:_MAX_READING]}..."


def _age(moment: Any, now: datetime) -> str:
    try:
        return _seconds(max((now - datetime.fromisoformat(moment)).total_seconds(), 0.0))
    except (TypeError, ValueError):
        return "-"


def _seconds(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"


def _bytes(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value >= 2**power:
            return f"{value / 2**power:.1f} {unit}"
    return f"{value} B"
