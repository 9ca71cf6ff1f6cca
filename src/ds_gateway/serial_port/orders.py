"""The orders of one port, without I/O: which is next, when it is given up, and what is told of it.

One at a time, as they came. An order that was begun keeps the line to its end, and across a port that vanishes:
`at_least_once` is written again when the port is there again, `at_most_once` only if no byte of it can have left.

| the order | while no byte of it can have left | after that |
|---|---|---|
| its deadline passes | `expired`, also in the queue or behind a closed port | does not matter any more |
| it cannot be written in time | `failed` | `unknown` |
| the port vanishes | waits for it | `at_most_once`: `unknown`; else waits for it |
| it has to wait (the port, a silent line) | until its deadline | `CONFIRM_SECONDS`, if its deadline is not later |
| no answer | - | written again while retries are left (`at_least_once`), then `unknown` |
| the source stops | `expired` | `unknown` |

A deadline ends the waiting, never an attempt: an attempt has limits of its own, see `exchange`.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ds_gateway.commands import Progress, SerialMessage
from ds_gateway.serial_port.exchange import Exchange, Request, pattern_matcher
from ds_gateway.serial_port.silence import Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.commands import Order

CONFIRM_SECONDS: Final = 60.0
"""How long at least an order may still be written again, counted from when it was written first."""
WRITE_SECONDS: Final = 5.0
"""How long a port may take nothing; what the line needs for the bytes themselves comes on top."""
_BITS_PER_BYTE: Final = 12
"""At most: start, eight data bits, parity and two stop bits."""


def writing_seconds(size_bytes: int, baudrate: int) -> float:
    """How long the writing of so many bytes may take before the port is given up."""
    return WRITE_SECONDS + size_bytes * _BITS_PER_BYTE / baudrate


_Status = Literal["published", "acknowledged", "failed", "expired", "unknown"]


@dataclass(slots=True)
class _Open:
    """An order without a final progress."""

    order: Order
    on_progress: Callable[[Progress], None]
    exchange: Exchange
    first_begun_at: float | None = None
    is_published: bool = False

    @property
    def may_be_done(self) -> bool:
        return self.exchange.may_have_left


class Orders:
    """The orders of one port. Not thread-safe. Times are on the monotonic clock, in seconds.

    The port is closed at first. What has to be told is taken by `take_told` and told by the caller.
    """

    def __init__(self, baudrate: int, silence: Silence | None = None) -> None:
        self.answers = 0
        """Frames that were answers, since the start."""
        self._baudrate = baudrate
        self._queue: OrderedDict[int, _Open] = OrderedDict()
        self._deadlines: list[tuple[float, int]] = []
        """Of all that are queued, earliest first, and of some that are not any more."""
        self._added = 0
        self._current: _Open | None = None
        self._told: list[tuple[Callable[[Progress], None], Progress]] = []
        self._silence = Silence() if silence is None else silence
        self._must_discard = False

    def add(self, order: Order, on_progress: Callable[[Progress], None]) -> None:
        """Queue an order with a `SerialMessage`."""
        exchange = Exchange(self._request(order))
        self._added += 1
        self._queue[self._added] = _Open(order, on_progress, exchange)
        heapq.heappush(self._deadlines, (order.deadline, self._added))

    @property
    def waiting(self) -> int:
        """How many were not begun, or wait to be written again. Any thread."""
        current = self._current
        return len(self._queue) + (current is not None and current.exchange.phase == "waiting")

    @property
    def unacknowledged(self) -> int:
        """How many are being written, or wait for their answer. Any thread."""
        current = self._current
        return int(current is not None and current.exchange.phase != "waiting")

    @property
    def is_busy(self) -> bool:
        """Whether an order has the line, or waits for it as the next."""
        return self._current is not None

    @property
    def is_draining(self) -> bool:
        """Whether the driver has taken all bytes of a request, and has to be asked when the last left it."""
        return self._current is not None and self._current.exchange.phase == "draining"

    @property
    def is_writing(self) -> bool:
        """Whether a request was begun that has not left the driver yet."""
        return self._current is not None and self._current.exchange.phase in {"writing", "draining"}

    def opened(self, now: float, *, settle_seconds: float = 0.0) -> None:
        """The port is open; nobody knows whether it was silent before. ``settle_seconds`` nothing is written."""
        self._silence.opened(now, settle_seconds)

    def closed(self) -> None:
        """The port vanished, or is closed."""
        self._silence.closed()
        if self._current is None:
            return
        self._current.exchange.interrupted()
        if self._current.may_be_done and self._current.order.delivery == "at_most_once":
            self._end("unknown", "the port vanished after its first byte, and it must not be sent twice")

    def received(self, now: float) -> None:
        """Bytes came: the line was not silent."""
        self._silence.broken(now)

    def heard(self, frames: Sequence[bytes], begun_bytes: int) -> list[bytes]:
        """Those frames that are readings; the framer holds so many bytes of a next one."""
        if self._current is None:
            return list(frames)
        exchange = self._current.exchange
        others = exchange.heard(frames, begun_bytes)
        if exchange.answer is not None:
            self.answers += 1
            if exchange.answer.is_error:
                self._end("failed", "the device refused it", exchange.answer.text)
            else:
                self._end("acknowledged", reply=exchange.answer.text)
        return others

    def advance(self, now: float, *, may_take: bool = True) -> None:
        """Give up what has waited long enough, and take the next order if there is none and it may be taken."""
        self._expire(now)
        if self._current is not None:
            self._check(self._current, now)
        while may_take and self._current is None and self._queue:
            _, self._current = self._queue.popitem(last=False)
            self._check(self._current, now)

    def wants_to_begin(self, now: float) -> bool:
        """Whether a request is to be written from its first byte now: see `begin`."""
        return self._begins_at() <= now

    def begin(self, now: float) -> None:
        """Begin what `wants_to_begin`."""
        if self._current is None:
            raise RuntimeError("there is no order to begin")
        self._current.exchange.begin(now)
        self._silence.after_seconds = self._current.exchange.request.turnaround_seconds

    @property
    def unwritten(self) -> bytes:
        """What the port has to be given now; empty if nothing."""
        return self._current.exchange.unwritten if self._current is not None else b""

    def wrote(self, count: int, now: float) -> None:
        """The driver took so many of the `unwritten` bytes."""
        if self._current is None:
            raise RuntimeError("there is no order that is being written")
        self._current.exchange.wrote(count)
        self._note_begun(self._current, now)
        self._silence.broken(now)

    def drained(self, now: float, begun_bytes: int) -> None:
        """The last byte left the driver, while the framer held so many of a frame under way."""
        if self._current is None:
            raise RuntimeError("there is no order that is being written")
        current = self._current
        current.exchange.drained(now, begun_bytes)
        self._note_begun(current, now)
        self._silence.broken(now)
        if current.exchange.phase == "ended":
            self._end("published")
        elif not current.is_published:
            current.is_published = True
            self._told.append((current.on_progress, Progress("published", is_final=False)))

    def due(self, *, may_take: bool = True) -> float:
        """When to call `advance` again, or to ask whether one `wants_to_begin`, if nothing happens before."""
        due = self._deadlines[0][0] if self._deadlines else math.inf
        if self._current is None:
            due = -math.inf if self._queue and may_take else due
        else:
            due = min(due, self._limit(self._current), self._current.exchange.until, self._begins_at())
        return due

    def take_told(self) -> list[tuple[Callable[[Progress], None], Progress]]:
        """What is to be told, oldest first; it is not returned again."""
        told, self._told = self._told, []
        return told

    def take_discard(self) -> bool:
        """Whether the driver still holds bytes of an order that was given up, which must not leave any more."""
        must_discard, self._must_discard = self._must_discard, False
        return must_discard

    def stop(self) -> None:
        """End all orders."""
        while self._current is not None or self._queue:
            if self._current is None:
                _, self._current = self._queue.popitem(last=False)
            self._end("unknown" if self._current.may_be_done else "expired", "the gateway stops")

    @staticmethod
    def _note_begun(current: _Open, now: float) -> None:
        if current.first_begun_at is None and current.may_be_done:
            current.first_begun_at = now

    def _begins_at(self) -> float:
        current = self._current
        if current is None or current.exchange.phase != "waiting":
            return math.inf
        return self._silence.lasts_until(current.exchange.request.turnaround_seconds)

    def _limit(self, current: _Open) -> float:
        """Until when it may wait to be written, the first time or again."""
        if not current.may_be_done:
            return current.order.deadline
        if current.exchange.phase != "waiting":
            return math.inf
        begun_at = current.first_begun_at
        assert begun_at is not None, "noted with the first byte"
        return max(current.order.deadline, begun_at + CONFIRM_SECONDS)

    def _check(self, current: _Open, now: float) -> None:
        exchange = current.exchange
        was_writing = self.is_writing
        size_bytes, unwritten_bytes = len(exchange.request.data), len(exchange.unwritten)
        exchange.check(now)
        if exchange.end == "stuck":
            self._must_discard = True
            took = f"took {size_bytes - unwritten_bytes} of {size_bytes} bytes, and has not sent them all"
            reason = f"the port {took}, after {exchange.request.write_seconds:g} s: is it held by flow control?"
            self._end("unknown" if current.may_be_done else "failed", reason)
        elif exchange.end == "unanswered":
            self._end("unknown", f"no answer within {exchange.request.timeout_seconds:g} s")
        elif now >= self._limit(current):
            self._must_discard = self._must_discard or was_writing
            if current.may_be_done:
                self._end("unknown", f"it was sent, but not confirmed in time, and now {self._obstacle()}")
            else:
                self._end("expired", f"its time was over: {self._obstacle()}")

    def _obstacle(self) -> str:
        if not self._silence.is_open:
            return "the port is not open"
        if self.is_writing:
            return "the port takes no byte"
        return "the line is not silent for long enough"

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            expired = self._queue.pop(number, None)
            if expired is not None:
                obstacle = "others were before it" if self._silence.is_open else "the port is not open"
                reason = f"its time was over: {obstacle}"
                self._told.append((expired.on_progress, Progress("expired", is_final=True, reason=reason)))
        # Orders that were taken leave their deadlines behind, which may be days away.
        if len(self._deadlines) > 2 * len(self._queue) + 64:
            self._deadlines = [(each.order.deadline, number) for number, each in self._queue.items()]
            heapq.heapify(self._deadlines)

    def _end(self, status: _Status, reason: str = "", reply: str | None = None) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._told.append((current.on_progress, Progress(status, is_final=True, reason=reason, reply=reply)))

    def _request(self, order: Order) -> Request:
        message = order.message
        if not isinstance(message, SerialMessage):
            raise TypeError(f"the order {order.command_id} for {order.device} is not for a serial port")
        data, reply = message.data, message.reply
        return Request(
            data,
            matcher=pattern_matcher(reply.pattern, reply.error) if reply is not None else None,
            turnaround_seconds=message.turnaround_seconds,
            timeout_seconds=reply.timeout_seconds if reply is not None else 0.0,
            retries=reply.retries if reply is not None and order.delivery == "at_least_once" else 0,
            write_seconds=writing_seconds(len(data), self._baudrate),
        )
