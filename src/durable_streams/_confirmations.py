"""Who waits for which message to be confirmed by the server. Used from several threads.

What is confirmed is told in spans: every message up to a position is in the stream, before an offset. A span knows
the one behind it and nobody knows the spans before: what no acknowledgement can ask for any more is gone.
"""

from __future__ import annotations

import heapq
import threading
from typing import TYPE_CHECKING

from durable_streams._outcome import Outcome
from durable_streams._types import IdempotentAppendResult

if TYPE_CHECKING:
    from durable_streams.errors import DurableStreamError


class Span:
    """Messages that were confirmed together; the last one of the chain is still open."""

    __slots__ = ("behind", "offset", "position")

    def __init__(self) -> None:
        self.position: int = -1
        self.offset: str | None = None
        self.behind: Span | None = None


class Confirmations:
    """What is confirmed, and who waits for more."""

    def __init__(self) -> None:
        self.open_span: Span = Span()
        """Where to begin to look for a message that is stored from now on."""
        self._lock = threading.Lock()
        self._position = 0
        self._waiting: dict[int, Outcome[IdempotentAppendResult]] = {}
        """By the message's position: whoever asks again and again for one waits for the same."""
        self._positions: list[int] = []
        """A heap of these, and maybe of some that nobody waits for."""
        self._stopped: DurableStreamError | None = None

    def begin(self, position: int) -> None:
        """The store was opened, and everything up to the position is in the stream."""
        with self._lock:
            self._position = position

    def resolved(self, position: int, offset: str | None) -> None:
        """Every message up to the position is in the stream, before the offset, if that is known."""
        with self._lock:
            span = self.open_span
            span.position, span.offset, span.behind = position, offset, Span()
            self.open_span = span.behind
            self._position = position
            reached = []
            while self._positions and self._positions[0] <= position:
                reached.append(self._waiting.pop(heapq.heappop(self._positions), None))
        result = IdempotentAppendResult(offset, duplicate=False)
        for outcome in reached:
            if outcome is not None:
                outcome.set_result(result)

    def stop(self, error: DurableStreamError) -> None:
        """Nothing more will be confirmed, for now: whoever waits is told why."""
        with self._lock:
            self._stopped = error
            waiting, self._waiting, self._positions = self._waiting, {}, []
        for outcome in waiting.values():
            outcome.set_exception(error)

    def resume(self) -> None:
        """Confirmations go on."""
        with self._lock:
            self._stopped = None

    def result(self, begin: Span, position: int) -> IdempotentAppendResult | None:
        """The confirmation of a message, if there is one; ``begin`` was the open span before it was stored."""
        span = begin
        while span.behind is not None:
            if position <= span.position:
                return IdempotentAppendResult(span.offset, duplicate=False)
            span = span.behind
        return None

    def settled(self, begin: Span, position: int) -> bool:
        """Whether `wait` would answer at once."""
        return self._stopped is not None or self.result(begin, position) is not None

    def wait(self, begin: Span, position: int) -> Outcome[IdempotentAppendResult]:
        """The confirmation of a message, once it comes, or what stopped the producer before."""
        with self._lock:
            result, error = self.result(begin, position), self._stopped
            if result is None and error is None:
                return self._confirmation(position)
        outcome: Outcome[IdempotentAppendResult] = Outcome()
        if result is not None:
            outcome.set_result(result)
        elif error is not None:
            outcome.set_exception(error)
        return outcome

    def reached(self, position: int) -> Outcome[IdempotentAppendResult]:
        """As `wait`, for everything up to a position, wherever it was stored."""
        with self._lock:
            begin = self.open_span if position > self._position else None
        if begin is None:
            outcome: Outcome[IdempotentAppendResult] = Outcome()
            outcome.set_result(IdempotentAppendResult(None, duplicate=False))
            return outcome
        return self.wait(begin, position)

    def _confirmation(self, position: int) -> Outcome[IdempotentAppendResult]:
        outcome = self._waiting.get(position)
        if outcome is None:
            outcome = Outcome()
            heapq.heappush(self._positions, position)  # before the other: what is not in the heap is never told
            self._waiting[position] = outcome
        return outcome
