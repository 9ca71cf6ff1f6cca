"""Who waits for which message to be confirmed by the server. Used from several threads.

What is confirmed is told in spans: every message up to a position is in the stream, before an offset. A span knows
the one behind it and nobody knows the spans before: what no acknowledgement can ask for any more is gone.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

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
        self._waiting: list[tuple[int, int, Future[IdempotentAppendResult]]] = []
        self._tickets = itertools.count()
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
            done = []
            while self._waiting and self._waiting[0][0] <= position:
                done.append(heapq.heappop(self._waiting)[2])
        result = IdempotentAppendResult(offset, duplicate=False)
        for future in done:
            future.set_result(result)

    def stop(self, error: DurableStreamError) -> None:
        """Nothing more will be confirmed, for now: whoever waits is told why."""
        with self._lock:
            self._stopped = error
            waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            future.set_exception(error)

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

    def wait(self, begin: Span, position: int) -> Future[IdempotentAppendResult]:
        """The confirmation of a message, once it comes, or what stopped the producer before."""
        future: Future[IdempotentAppendResult] = Future()
        with self._lock:
            result = self.result(begin, position)
            if result is None and self._stopped is None:
                heapq.heappush(self._waiting, (position, next(self._tickets), future))
                return future
            error = self._stopped
        if result is not None:
            future.set_result(result)
        else:
            future.set_exception(error)
        return future

    def reached(self, position: int) -> Future[IdempotentAppendResult]:
        """As `wait`, for everything up to a position, wherever it was stored."""
        with self._lock:
            begin = self.open_span if position > self._position else None
        if begin is None:
            future: Future[IdempotentAppendResult] = Future()
            future.set_result(IdempotentAppendResult(None, duplicate=False))
            return future
        return self.wait(begin, position)
