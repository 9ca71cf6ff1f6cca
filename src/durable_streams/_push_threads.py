"""Drives a producer's window with threads: the engine of `SyncIdempotentProducer` without a store.

Each request in flight has a thread of its own; the first one asks the window what is due, and starts another one
when there is more. All share one lock, which is never held during a request.

Ctrl-C may hit a caller's thread between any two steps of this code, but none of the engine's own. So a caller only
puts what it has into the intake and wakes a thread; nobody but a thread of the engine changes the window. Locks
are entered with `with` on the lock itself, which is one step; a `Condition` takes several.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from durable_streams import _http, _operations, _reactions
from durable_streams._acknowledgements import SyncAcknowledgement
from durable_streams._batches import Taken
from durable_streams._ended import PRODUCER_CLOSED, STREAM_CLOSED, nothing_taken
from durable_streams._messages import encoder
from durable_streams._outcome import undisturbed
from durable_streams._push_async import as_producer_error, report
from durable_streams._types import CloseResult
from durable_streams._unsent import watch
from durable_streams._window import Window
from durable_streams.errors import DurableStreamError, ProducerError, ProducerFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams._batches import Batch, Flight, WindowSettings
    from durable_streams._http_sync import SyncCarrier
    from durable_streams._types import IdempotentAppendResult, ProducerErrorHandler
    from durable_streams._wire import Answer

_log = logging.getLogger("durable_streams.producer")


class PushedSyncAcknowledgement(Taken, SyncAcknowledgement):
    """The confirmation of a message that is kept in memory."""

    __slots__ = ("_engine",)

    def __init__(self, engine: ThreadedEngine, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index
        self._engine = engine

    def result(self, timeout_seconds: float | None = None) -> IdempotentAppendResult:
        """Wait for the confirmation. Raises what went wrong, and TimeoutError when it takes too long."""
        if not self._engine.wait_until(lambda: self.settled, timeout_seconds):
            raise TimeoutError(f"no confirmation within {timeout_seconds} s")
        return self.outcome()


class ThreadedEngine:
    """Messages from callers into the window, flights out of it."""

    def __init__(
        self,
        carrier: SyncCarrier,
        settings: WindowSettings,
        *,
        epoch: int,
        on_error: ProducerErrorHandler | None,
    ) -> None:
        self._url = settings.url
        self._producer_id = settings.producer_id
        self._max_threads = settings.max_in_flight
        self._buffer_bytes = settings.buffer_bytes
        self._carrier = carrier
        self._policy = _http.default_policy()
        self._on_error = on_error
        self._window = Window(settings, self._policy, epoch=epoch)
        watch(self._window)
        self._window.intake.lock = threading.Lock()
        self._encode: Callable[[Any], bytes] | None = None
        self._first_error: DurableStreamError | None = None
        self._ended: str | None = None
        """Why nothing more is taken."""
        self._closed = False
        self._closing_stream = threading.Lock()
        self._ending: Taken | None = None

        self._starting = threading.Lock()
        self._lock = threading.RLock()
        self._due = threading.Condition(self._lock)
        """Where threads of the engine wait for something to do."""
        self._waiters: list[threading.Lock] = []
        """Where callers wait for a change: each for his lock to open."""
        self._threads: set[threading.Thread] = set()
        self._reporting: set[threading.Thread] = set()
        """Threads that tell ``on_error`` something, and end then."""
        self._untold: list[DurableStreamError] = []
        self._idle = 0
        self._stopping = False

        self._stopped = False
        """Whether the threads are gone, so that nothing is taken any more, not even a flush."""
        self._process = os.getpid()
        _ENGINES.add(self)

    # -- What the front offers ---------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._window.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch."""
        return self._window.next_seq

    @property
    def pending_count(self) -> int:
        """Messages taken and neither confirmed nor failed."""
        return self._window.pending_count

    @property
    def in_flight_count(self) -> int:
        """Requests under way."""
        return self._window.in_flight_count

    def start(self) -> None:
        """Learn the content type, if it was not given; nothing happens when that was done."""
        self._check_process()
        with self._starting:
            if self._encode is not None:
                return
            content_type = self._window.settings.content_type
            if not content_type:
                head = self._carrier.run(_operations.head(self._url, self._policy))
                content_type = head.content_type or "application/octet-stream"
            self._window.learn(content_type)
            self._encode = encoder(content_type)

    def append(self, data: Any, *, wait: bool) -> PushedSyncAcknowledgement:
        """Take a message, or raise; without room wait for it, or raise `ProducerFullError`."""
        if self._ended is not None:
            self._check_open()
        if self._encode is None:
            self.start()
            assert self._encode is not None, "started"
        message = self._encode(data)
        window = self._window
        if not self._threads:
            self._call_a_thread()  # before anything is taken: it may not be possible
        while window.pending_bytes + len(message) > self._buffer_bytes and not self._has_room(message):
            self._wait_for_room(message, wait=wait)
        intake = window.intake
        with intake.lock:
            if self._ended is not None:
                self._check_open()
            if window.error is not None:
                raise window.stopped([message])
            batch = intake.take(message)
            index = len(batch.messages) - 1
        if not batch.announced:  # a batch began: one before it is full, or this one begins to linger
            self._call_a_thread()
            batch.announced = True
        return PushedSyncAcknowledgement(self, batch, index)

    def flush(self) -> None:
        """Wait until everything taken so far is confirmed; raise the first error there was."""
        self._check_process()
        self._drain()
        if self._first_error is not None:
            raise self._first_error.with_traceback(None)

    def restart(self) -> None:
        """Begin a new epoch, one higher, and forget earlier errors."""
        self.start()
        undisturbed(self._restart, name="restart of producer")
        self._call_a_thread()

    def _restart(self) -> None:
        with self._lock:
            self._window.restart()
            self._collect()
            self._first_error = None

    def close_stream(self, data: Any) -> CloseResult:
        """Flush, then close the stream; a last message goes with the closure."""
        self._check_process()
        with self._closing_stream:
            if self._ending is None or data is not None:
                self._check_open()
            if self._ending is None:
                self.start()
                self.flush()
                self._end(data)
        ending = self._ending
        assert ending is not None, "just now, or before"
        self.wait_until(lambda: ending.settled)
        try:
            offset = ending.outcome().offset
        except DurableStreamError:
            with self._window.intake.lock:
                if self._ending is ending and not self._closed:
                    self._ending = self._ended = None  # after a `restart` it can be tried again
            raise
        if offset is None:
            offset = self._carrier.run(_operations.head(self._url, self._policy)).offset
        return CloseResult(offset)

    def _end(self, data: Any) -> None:
        assert self._encode is not None, "started"
        message = b"" if data is None else self._encode(data)
        with self._window.intake.lock:
            self._check_open()  # it may have been closed meanwhile
            if self._window.error is not None:
                raise self._window.stopped([message])
            # In this order: whoever is interrupted here can still ask what became of it.
            self._ending = Taken(self._window.intake.take_last(message), 0)
            self._ended = STREAM_CLOSED
        self._call_a_thread()

    def close(self) -> None:
        """Flush, stop, let go of the connection; raise the first error there was."""
        self._check_process()
        with self._window.intake.lock:
            self._ended = self._ended or PRODUCER_CLOSED
            self._closed = True
        try:
            self._drain()
        finally:
            self._stop()
            self._carrier.close()
        if self._first_error is not None:
            error, self._first_error = self._first_error, None
            raise error.with_traceback(None)

    def wait_until(self, holds: Callable[[], bool], timeout_seconds: float | None = None) -> bool:
        """Wait until something holds that changes with the window. False: it took too long."""
        # With bare locks: a `Condition` has moments in which Ctrl-C leaves it broken.
        deadline = None if timeout_seconds is None else self._policy.monotonic() + timeout_seconds
        while not holds():
            self._check_process()
            changed = threading.Lock()
            changed.acquire()
            self._waiters.append(changed)
            left = -1 if deadline is None else max(0.0, deadline - self._policy.monotonic())
            # Asked once more: what changed before the lock was in the list opened another one.
            if not holds() and not changed.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                with suppress(ValueError):
                    self._waiters.remove(changed)
                return holds()
        return True

    # -- Callers' threads --------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._ended is not None:
            raise nothing_taken(self._ended, self._url)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ProducerError(_elsewhere(self._process), url=self._url)

    def leave_to_parent(self) -> None:
        """In a forked process: take nothing. The threads, and what they hold, are the parent's."""
        self._ended = _elsewhere(self._process)

    def _has_room(self, message: bytes) -> bool:
        """Whether a message may be taken, or refused for another reason; alone, it always may."""
        pending_bytes = self._window.pending_bytes
        return (
            pending_bytes + len(message) <= self._buffer_bytes
            or pending_bytes == 0
            or self._window.error is not None
        )

    def _wait_for_room(self, message: bytes, *, wait: bool) -> None:
        if not wait:
            raise ProducerFullError(
                f"{self.pending_count} messages wait for confirmation", records=(message,), url=self._url
            )
        self._call_a_thread()
        self.wait_until(lambda: self._has_room(message) or self._ended is not None)
        self._check_open()

    def _drain(self) -> None:
        with self._lock:
            if self._window.idle or self._stopping:
                return
        with self._window.intake.lock:
            if self._stopped:
                return
            flush = self._window.intake.flush()
        self._call_a_thread()
        self.wait_until(lambda: flush.settled)

    def _call_a_thread(self) -> None:
        """Have a thread look at the window, a new one if all are busy. Raises RuntimeError if there is none."""
        with self._lock:
            if self._idle or self._stopping:
                self._due.notify_all()
            elif len(self._threads) < self._max_threads:
                self._start_a_thread()

    def _start_a_thread(self) -> None:
        name = f"producer-{self._producer_id}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            undisturbed(thread.start, name="start of producer")
        except RuntimeError:
            if not self._threads:
                raise
            return  # those that there are do all of the work
        self._threads.add(thread)

    def _stop(self) -> None:
        """Let the threads end, then fail what nobody will send any more: nothing, after a flush."""
        me = threading.current_thread()
        with self._lock:
            self._stopping = True
            self._due.notify_all()
            # A handler that closes the producer waits neither for itself nor for another one that does.
            reporting = set() if me in self._reporting else set(self._reporting)
        undisturbed(lambda: self._finish(reporting), name="end of producer")

    def _finish(self, reporting: set[threading.Thread]) -> None:
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        with self._lock:
            with self._window.intake.lock:
                self._stopped = True
            self._window.abandon()
            self._collect()
            untold, self._untold = self._untold, []
        for error in untold:
            report(self._on_error, error)
        for thread in reporting:  # only now: a handler may have waited for what has just failed
            thread.join()

    # -- The engine's threads, which hold the lock when they touch the window ------------------------

    def _work(self) -> None:
        me = threading.current_thread()
        with self._lock:
            self._threads.add(me)  # whoever started it may have been interrupted before he could
        try:
            while (flight := self._next_flight()) is not None:
                self._fly(flight)
            self._tell(me)
        finally:
            with self._lock:
                self._threads.discard(me)
                self._reporting.discard(me)

    def _next_flight(self) -> Flight | None:
        """Wait for a flight. None: this thread has something to tell, or is to end."""
        with self._lock:
            self._idle += 1
            try:
                while not self._stopping and not self._untold:
                    now = self._policy.monotonic()
                    flight = self._window.next_flight(now)
                    self._collect()
                    if flight is not None:
                        return flight
                    if self._untold:
                        break
                    at = self._window.wake_at(now)
                    self._due.wait(None if at is None else min(max(0.0, at - now), threading.TIMEOUT_MAX))
                return None
            finally:
                self._idle -= 1
                if not self._stopping:
                    self._call_a_thread()  # this one is busy now

    def _fly(self, flight: Flight) -> None:
        answer: Answer | None = None
        crash: DurableStreamError | None = None
        try:
            answer = self._carrier.exchange(flight.request)
        # Supervision boundary: a caller's header callable may raise anything; the batch must not hang for it.
        except BaseException as error:  # noqa: BLE001
            crash = as_producer_error(error, flight.request.url)
        with self._lock:
            if answer is not None:
                _reactions.answered(self._window, flight, answer, self._policy.monotonic())
            elif crash is not None:
                _reactions.crashed(self._window, flight, crash)
            self._collect()

    def _collect(self) -> None:
        """Tell everybody who waits for what has changed in the window."""
        failures, self._window.failures = self._window.failures, []
        if failures and self._first_error is None:
            self._first_error = failures[0]
        if self._on_error is not None:
            self._untold += failures
            self._due.notify_all()
        while self._waiters:
            self._waiters.pop().release()

    def _tell(self, me: threading.Thread) -> None:
        """Tell the caller's handler what failed, and end.

        Another thread takes over: the handler may do what it likes, also wait, or close the producer.
        """
        with self._lock:
            untold, self._untold = self._untold, []
            self._threads.discard(me)
            self._reporting.add(me)
            if not self._stopping:
                with suppress(RuntimeError):  # the next append tries again to start one
                    self._call_a_thread()
        for error in untold:
            try:
                report(self._on_error, error)
            # Supervision boundary: `sys.exit` ends no program from here, and must not end the telling.
            except BaseException:  # noqa: BLE001
                _log.exception("producer.on_error.raised")


def _elsewhere(process: int) -> str:
    return f"the producer was made in process {process}: a forked process makes its own"


_ENGINES: weakref.WeakSet[ThreadedEngine] = weakref.WeakSet()


def _leave_engines_to_parent() -> None:
    for engine in list(_ENGINES):
        engine.leave_to_parent()


if hasattr(os, "register_at_fork"):  # everywhere but on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_engines_to_parent)
