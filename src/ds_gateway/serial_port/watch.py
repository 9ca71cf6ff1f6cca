"""What one port's thread tells of its line beside the readings: alarms, once each, and what the driver dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ds_gateway.logs import event, logger
from ds_gateway.records import Rejected
from ds_gateway.serial_port.health import Health
from ds_gateway.serial_port.overrun import Overrun
from ds_gateway.serial_port.uart import UartCounters, read_counters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.serial_port.overrun import ItemSink

_log = logger("serial_port")

_COUNT_SECONDS: Final = 1.0
"""How often the driver is asked what it has counted, at most."""


class Watch:
    """Of one port, in its thread. ``now`` is on the monotonic clock, in seconds."""

    def __init__(
        self,
        source: str,
        intake: ItemSink,
        *,
        silent_after_seconds: float | None,
        monotonic: Callable[[], float],
        now_ns: Callable[[], int],
        read_counters: Callable[[int], UartCounters | None] = read_counters,
    ) -> None:
        self.health = Health(silent_after_seconds)
        self.alarms: tuple[str, ...] = ()
        self.is_silent = self.is_unreadable = False
        self.counters: UartCounters | None = None
        """Since the start; None where the driver does not count."""
        self._source = source
        self._overrun = Overrun(source, intake, monotonic, is_certain=False)
        self._now_ns = now_ns
        self._read_counters = read_counters
        self._seen: UartCounters | None = None
        self._next_count = 0.0

    def opened(self, now: float, descriptor: int) -> None:
        """The port is open. What its driver counted before was another's."""
        self.health.opened(now)
        self._seen = self._read_counters(descriptor)
        self._next_count = now + _COUNT_SECONDS

    def closed(self) -> None:
        """It is told why the port is closed, which is more than any alarm says."""
        self.health.closed()
        self.alarms = ()
        self.is_silent = self.is_unreadable = False

    def took(
        self,
        now: float,
        *,
        payloads: Sequence[object],
        has_frames: bool,
        has_answers: bool,
    ) -> None:
        """What the frames became that were read."""
        if has_frames:
            self.health.heard(now)
        for payload in payloads:
            if isinstance(payload, Rejected):
                self.health.bad(1, payload.reason)
            else:
                self.health.good(now)
        if has_answers:
            self.health.good(now)

    def turn(self, now: float, descriptor: int, troubles: Sequence[str]) -> None:
        """Look after everything; ``troubles`` are those of the polls."""
        if now >= self._next_count:
            self._next_count = now + _COUNT_SECONDS
            self._count(descriptor)
        self._overrun.tell()
        silence, unreadable = self.health.silence(now), self.health.unreadable
        self.is_silent, self.is_unreadable = bool(silence), bool(unreadable)
        alarms = tuple(filter(None, (silence, unreadable, *troubles)))
        for alarm in alarms:
            if alarm not in self.alarms:
                last = self.health.last_reason if alarm == unreadable else ""
                event(_log, "warning", "serial.port.alarm", source=self._source, reason=alarm, last_frame=last)
        for alarm in self.alarms:
            if alarm not in alarms:
                event(_log, "info", "serial.port.recovered", source=self._source, reason=alarm)
        self.alarms = alarms

    def ended(self) -> None:
        """The last chance to tell."""
        self._overrun.tell(at_once=True)

    def _count(self, descriptor: int) -> None:
        counted = self._read_counters(descriptor)
        if counted is None:
            return
        new = counted.since(self._seen or UartCounters())
        self._seen = counted
        self.counters = (self.counters or UartCounters()).plus(new)
        dropped = new.overrun + new.buffer_overrun
        if dropped:
            self._overrun.add(dropped, self._now_ns())
