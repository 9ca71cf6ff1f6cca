"""What people see: a live table on a terminal, lines elsewhere, and the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from ds_gateway.demo.audit import DeviceAudit
    from ds_gateway.demo.report import Report

_MAX_READING: Final = 40
_MAX_NUMBERS: Final = 10
_LINES: Final = 12
"""How many lines of progress a run prints where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Row:
    """One device."""

    device: str
    last_reading: Mapping[str, Any] | None
    sent: int
    accepted: int
    in_journal: int
    in_stream: int

    @property
    def counts(self) -> str:
        """Its numbers in words."""
        return (
            f"sent {self.sent}, accepted {self.accepted}, in the journal {self.in_journal}, "
            f"in the stream {self.in_stream}"
        )


@dataclass(frozen=True, slots=True)
class View:
    """Everything at one instant."""

    rows: tuple[Row, ...]
    elapsed_seconds: float
    seconds: int
    doing: str
    """What is being done to it right now."""


class Show(Protocol):
    """Where the demo tells what happens; a context manager."""

    def say(self, text: str) -> None:
        """Something happened."""
        ...  # pragma: no cover

    def update(self, view: View) -> None:
        """How it is now; called several times a second."""
        ...  # pragma: no cover

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LiveShow:
    """A table that changes in place; what happened scrolls by above it."""

    def __init__(self, console: Console) -> None:
        # Refreshed by `update` alone: no thread of its own.
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print above the table."""
        self._live.console.print(Text(text))

    def update(self, view: View) -> None:
        """Draw anew."""
        self._live.update(render(view), refresh=True)


class PlainShow:
    """Lines of progress, now and then."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._next_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """Print a line."""
        self._output.write(f"{text}\n")
        self._output.flush()

    def update(self, view: View) -> None:
        """Print the sums when it is time."""
        if view.elapsed_seconds < self._next_at:
            return
        self._next_at += view.seconds / _LINES
        self.say(summary(view))


def summary(view: View) -> str:
    """The sums in one line."""
    rows = view.rows
    sums = Row(
        device="all",
        last_reading=None,
        sent=sum(row.sent for row in rows),
        accepted=sum(row.accepted for row in rows),
        in_journal=sum(row.in_journal for row in rows),
        in_stream=sum(row.in_stream for row in rows),
    )
    return f"{view.elapsed_seconds:5.1f} s: {sums.counts}"


def render(view: View) -> RenderableType:
    """The live table."""
    table = Table(expand=False)
    for column in ("device", "last reading"):
        table.add_column(column)
    for column in ("sent", "accepted", "in the journal", "in the stream"):
        table.add_column(column, justify="right")
    for row in view.rows:
        waiting = Text(str(row.in_journal), style="yellow" if row.in_journal else "")
        table.add_row(
            Text(row.device),
            Text(_reading(row.last_reading)),
            str(row.sent),
            str(row.accepted),
            waiting,
            str(row.in_stream),
        )
    left = max(view.seconds - view.elapsed_seconds, 0.0)
    now = Text(f"{left:3.0f} s left   ", style="dim") + Text(view.doing, style="bold")
    return Group(table, now)


def _reading(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return "-"
    return ", ".join(f"{key} {value}" if key != "value" else str(value) for key, value in data.items())[
        :_MAX_READING
    ]


def result(report: Report) -> RenderableType:
    """The audit, and what was done."""
    table = Table(title="read back from the streams", title_justify="left", title_style="bold", expand=False)
    table.add_column("device")
    for column in ("sent", "in the stream", "lost", "duplicated", "out of order"):
        table.add_column(column, justify="right")
    for device in report.devices:
        table.add_row(
            Text(device.device),
            str(device.sent),
            str(device.in_stream),
            *(_wrong(numbers) for numbers in (device.lost, device.duplicated, device.out_of_order)),
        )
    if len(report.devices) > 1:
        sums = report.document()
        table.add_section()
        table.add_row(
            "all", *(str(sums[key]) for key in ("sent", "in_stream", "lost", "duplicated", "out_of_order"))
        )
    verdict = (
        Text("Exactly once, in order.", style="bold green") if report.ok else Text("NOT EXACT.", style="bold red")
    )
    return Group(table, *(Text(line) for line in (*_done(report), *_details(report))), verdict)


def _wrong(numbers: tuple[int, ...]) -> Text:
    return Text(str(len(numbers)), style="bold red" if numbers else "green")


def _done(report: Report) -> list[str]:
    done = report.done
    lines = [
        f"kill -9 of the gateway: {_times(done.kills)}" if done.kills else "",
        f"stream server killed and away: {done.server_outage_seconds:.1f} s" if done.server_outage_seconds else "",
        f"broker restarted: {_times(done.broker_restarts)}" if done.broker_restarts else "",
    ]
    said = [line for line in lines if line] or ["nothing was done to it"]
    said += [f"command {command.name} to the scale: {command.told}" for command in report.commands]
    return said if report.broker else [*said, "without a broker and MQTT sensors: there was no mosquitto"]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _details(report: Report) -> list[str]:
    lines = [f"{device.device}: {line}" for device in report.devices for line in _numbers(device)]
    return [*lines, *report.all_problems]


def _numbers(device: DeviceAudit) -> list[str]:
    kinds = {
        "lost": device.lost,
        "duplicated": device.duplicated,
        "out of order": device.out_of_order,
        "in the stream and never sent": device.never_sent,
    }
    return [
        f"{kind}: {', '.join(map(str, numbers[:_MAX_NUMBERS]))}{' ...' if len(numbers) > _MAX_NUMBERS else ''}"
        for kind, numbers in kinds.items()
        if numbers
    ]
