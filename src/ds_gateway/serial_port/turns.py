"""Whose turn it is to write to a line: what was ordered, or what the port asks by itself. Without I/O.

Commands go first. Nothing comes between a request and its answer, or between its retries; between two requests
of one poll a command may. But a poll that has waited for a whole interval goes before the next command, one each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.framing import Framer
    from ds_gateway.serial_port.orders import Orders
    from ds_gateway.serial_port.polls import Polls
    from ds_gateway.serial_port.silence import Silence


class Turns:
    """What is written to one line. Not thread-safe. Times are on the monotonic clock, in seconds."""

    def __init__(self, orders: Orders, polls: Polls, silence: Silence) -> None:
        self._orders = orders
        self._polls = polls
        self._silence = silence
        self._poll_was_last = False

    def _holder(self) -> Orders | Polls:
        """Who writes, or listens for an answer, or else may begin."""
        return self._polls if self._polls.is_busy or not self._orders.is_busy else self._orders

    @property
    def is_draining(self) -> bool:
        """Whether the driver has taken all bytes of a request, and has to be asked when the last left it."""
        return self._holder().is_draining

    @property
    def is_writing(self) -> bool:
        """Whether a request was begun that has not left the driver yet."""
        return self._holder().is_writing

    @property
    def unwritten(self) -> bytes:
        """What the port has to be given now; empty if nothing."""
        return self._holder().unwritten

    @property
    def framer(self) -> Framer | None:
        """What cuts the bytes that come now; None: what cuts all others."""
        return self._polls.framer

    def opened(self, now: float, *, settle_seconds: float) -> None:
        """The port is open; ``settle_seconds`` nothing is written."""
        self._silence.opened(now, settle_seconds)

    def closed(self) -> None:
        """The port vanished, or is closed."""
        self._silence.closed()
        self._orders.closed()
        self._polls.closed()

    def received(self, now: float) -> None:
        """Bytes came: the line was not silent."""
        self._silence.broken(now)

    def advance(self, now: float) -> None:
        """Give up what has waited long enough, and take the next order if it is its turn."""
        self._polls.advance(now)
        self._orders.advance(now, may_take=self._may_take(now))

    def wants_to_begin(self, now: float) -> bool:
        """Whether a request is to be written from its first byte now: see `begin`."""
        return self._holder().wants_to_begin(now)

    def begin(self, now: float) -> None:
        """Begin what `wants_to_begin`."""
        holder = self._holder()
        self._poll_was_last = holder is self._polls
        holder.begin(now)

    def wrote(self, count: int, now: float) -> None:
        """The driver took so many of the `unwritten` bytes."""
        self._holder().wrote(count, now)

    def drained(self, now: float, begun_bytes: int) -> None:
        """The last byte left the driver, while the framer held so many of a frame under way."""
        self._holder().drained(now, begun_bytes)

    def heard(self, frames: Sequence[bytes], begun_bytes: int, now: float) -> list[bytes]:
        """Those frames that answer nothing; the framer holds so many bytes of a next one."""
        if self._polls.is_busy:
            return self._polls.heard(frames, begun_bytes, now)
        return self._orders.heard(frames, begun_bytes)

    def due(self, now: float) -> float:
        """When to call `advance` again, or to ask whether something begins, if nothing happens before."""
        if self._orders.is_busy and not self._polls.is_busy:
            return self._orders.due()
        return min(self._polls.due(), self._orders.due(may_take=self._may_take(now)))

    def take_discard(self) -> bool:
        """Whether the driver still holds bytes of what was given up, which must not leave any more."""
        of_orders, of_polls = self._orders.take_discard(), self._polls.take_discard()
        return of_orders or of_polls

    def _may_take(self, now: float) -> bool:
        polls = self._polls
        if polls.is_busy:
            return False
        return self._poll_was_last or not (polls.is_overdue(now) and polls.wants_to_begin(now))
