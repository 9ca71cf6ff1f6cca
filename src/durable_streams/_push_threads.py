"""Drives a producer's window with threads: the engine of `SyncIdempotentProducer`.

Each request in flight has a thread of its own; the first one asks the window what is due, and starts another one
when there is more. All share one lock, which is never held during a request.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from durable_streams import _http, _operations, _reactions
from durable_streams._messages import encoder
from durable_streams._push_async import as_producer_error, report
from durable_streams._types import CloseResult
from durable_streams.errors import ProducerFullError, StreamClosedError

if TYPE_CHECKING:
    from durable_streams._batches import Batch, Flight
    from durable_streams._http_sync import SyncCarrier
    from durable_streams._types import IdempotentAppendResult, ProducerErrorHandler
    from durable_streams._window import Window
    from durable_streams._wire import Answer
    from durable_streams.errors import DurableStreamError


class SyncAcknowledgement:
    """The server's confirmation of one message."""

    __slots__ = ("_batch", "_changed")

    def __init__(self, batch: Batch, changed: threading.Condition) -> None:
        self._batch = batch
        self._changed = changed

    @property
    def settled(self) -> bool:
        """Whether the message is confirmed or has failed."""
        return self._batch.settled

    def result(self, timeout_seconds: float | None = None) -> IdempotentAppendResult:
        """Wait for the confirmation. Raises what went wrong, and TimeoutError when it takes too long."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._batch.settled, timeout_seconds):
                raise TimeoutError(f"no confirmation within {timeout_seconds} s")
        return self._batch.outcome()


class ThreadedEngine:
    """Messages from callers into the window, flights out of it."""

    def __init__(self, carrier: SyncCarrier, window: Window, *, on_error: ProducerErrorHandler | None) -> None:
        self.window = window
        self.first_error: DurableStreamError | None = None
        self._carrier = carrier
        self._encode = encoder(window.settings.content_type)
        self._policy = _http.default_policy()
        self._on_error = on_error
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._stopping = False
        self._ended: str | None = None
        self._closing: Batch | None = None
        """The last batch, which closes the stream."""

    def append(self, data: Any, *, wait: bool) -> SyncAcknowledgement:
        """Take a message, or raise; without room wait for it, or raise `ProducerFullError`."""
        message = self._encode(data)
        limit = self.window.settings.buffer_bytes
        with self._changed:
            while self.window.pending_bytes + len(message) > limit and self.window.pending_bytes:
                if not wait:
                    count = self.window.pending_count
                    raise ProducerFullError(
                        f"{count} messages wait for confirmation", records=(message,), url=self.window.settings.url
                    )
                self._changed.wait()
            self._check_open()
            batch = self.window.add(message, self._policy.monotonic())
            if len(batch.messages) == 1:
                self._call_a_thread()
            return SyncAcknowledgement(batch, self._changed)

    def close_stream(self, data: Any) -> CloseResult:
        """Close the stream behind everything taken so far, with a last message if there is one."""
        with self._changed:
            if self._closing is None:
                self._check_open()
                self._closing = self._end(data)
            elif data is not None:
                self._check_open()
            batch = self._closing
            self._changed.wait_for(lambda: batch.settled)
            if batch.error is not None:
                self._closing = self._ended = None  # after a `restart` it can be tried again
        offset = batch.outcome().offset
        if offset is None:
            offset = self._carrier.run(_operations.head(self.window.settings.url, self._policy)).offset
        return CloseResult(offset)

    def _end(self, data: Any) -> Batch:
        now = self._policy.monotonic()
        batch = self.window.end(now) if data is None else self.window.add(self._encode(data), now, closing=True)
        self._ended = "the stream is closed"
        self._call_a_thread()
        return batch

    def drain(self) -> None:
        """Wait until everything taken so far is confirmed or has failed."""
        with self._changed:
            batches = self.window.flush()
            self._call_a_thread()
            self._changed.wait_for(lambda: all(batch.settled for batch in batches))

    def restart(self) -> None:
        """Begin a new epoch, one higher, and forget earlier errors."""
        with self._changed:
            self.first_error = None
            self.window.restart()
            self._changed.notify_all()

    def end(self, reason: str) -> None:
        """Take no more messages."""
        with self._changed:
            self._ended = self._ended or reason

    def stop(self) -> None:
        """Let the threads end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise StreamClosedError(f"{self._ended}: nothing can be appended", url=self.window.settings.url)

    def _call_a_thread(self) -> None:
        if self._idle == 0 and len(self._threads) < self.window.settings.max_in_flight:
            name = f"producer-{self.window.settings.producer_id}-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        else:
            self._changed.notify_all()

    def _work(self) -> None:
        while (flight := self._next_flight()) is not None:
            self._fly(flight)

    def _fly(self, flight: Flight) -> None:
        answer: Answer | None = None
        crash: DurableStreamError | None = None
        try:
            answer = self._carrier.exchange(flight.request)
        # Supervision boundary: a caller's header callable may raise anything; the batch must not hang for it.
        except Exception as error:  # noqa: BLE001
            crash = as_producer_error(error, flight.request.url)
        with self._changed:
            if answer is not None:
                _reactions.answered(self.window, flight, answer, self._policy.monotonic())
            elif crash is not None:
                _reactions.crashed(self.window, flight, crash)
            failures, self.window.failures = self.window.failures, []
            if failures and self.first_error is None:
                self.first_error = failures[0]
            self._changed.notify_all()
        for failure in failures:
            report(self._on_error, failure)

    def _next_flight(self) -> Flight | None:
        with self._changed:
            self._idle += 1
            try:
                while not self._stopping:
                    now = self._policy.monotonic()
                    flight = self.window.next_flight(now)
                    if flight is not None:
                        return flight
                    at = self.window.wake_at(now)
                    self._changed.wait(None if at is None else max(0.0, at - now))
                return None
            finally:
                self._idle -= 1
                if not self._stopping:
                    self._call_a_thread()
