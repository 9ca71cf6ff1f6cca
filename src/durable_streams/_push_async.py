"""Drives a producer's window on an event loop: the engine of `IdempotentProducer` without a store."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import anyio

from durable_streams import _http, _operations, _reactions
from durable_streams._messages import encoder
from durable_streams._tasks import BackgroundTask, spawn
from durable_streams._types import CloseResult
from durable_streams._wire import Answer, Failure
from durable_streams.errors import DurableStreamError, ProducerError, ProducerFullError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from durable_streams._batches import Batch, Flight, WindowSettings
    from durable_streams._http_async import AsyncCarrier
    from durable_streams._types import IdempotentAppendResult, ProducerErrorHandler
    from durable_streams._window import Window

_log = logging.getLogger("durable_streams.producer")

_HARD_LIMIT: Final = 8
"""Appends that nobody awaits may fill the buffer so many times over; then they raise."""


class Acknowledgement:
    """Awaitable: the server's confirmation of one message."""

    __slots__ = ("_engine", "batch", "error")

    def __init__(self, engine: PushEngine, batch: Batch | None) -> None:
        self._engine = engine
        self.batch = batch
        self.error: DurableStreamError | None = None

    @property
    def settled(self) -> bool:
        """Whether the message is confirmed or has failed."""
        return self.error is not None or (self.batch is not None and self.batch.settled)

    def __await__(self) -> Generator[Any, None, IdempotentAppendResult]:
        return self._wait().__await__()

    async def _wait(self) -> IdempotentAppendResult:
        await self._engine.settled(self)
        if self.error is not None:
            raise self.error
        assert self.batch is not None, "settled without an error"
        return self.batch.outcome()


class Appended:
    """A message that the producer has taken.

    Nothing more needs to be done. Awaiting it waits until the producer has room again (back-pressure) and gives
    the `Acknowledgement`, which can be awaited in turn.
    """

    __slots__ = ("_engine", "_what")

    def __init__(self, engine: PushEngine, what: Batch | Acknowledgement) -> None:
        self._engine = engine
        self._what = what

    @property
    def acknowledgement(self) -> Acknowledgement:
        """What tells when the server has it."""
        # Made on demand: most appends of a fast producer are never asked for theirs.
        what = self._what
        return what if isinstance(what, Acknowledgement) else Acknowledgement(self._engine, what)

    def __await__(self) -> Generator[Any, None, Acknowledgement]:
        if self._engine.is_full:
            yield from self._engine.room().__await__()
        return self.acknowledgement


class PushEngine:
    """Messages from callers into the window, flights out of it."""

    def __init__(
        self,
        carrier: AsyncCarrier,
        settings: WindowSettings,
        make_window: Callable[[WindowSettings], Window],
        *,
        epoch: int,
        on_error: ProducerErrorHandler | None,
    ) -> None:
        self._url = settings.url
        self._carrier = carrier
        self._policy = _http.default_policy()
        self._settings = settings
        self._make_window = make_window
        self._encode = encoder(settings.content_type)
        self._epoch = epoch
        self._buffer_bytes = settings.buffer_bytes
        self._on_error = on_error
        self._window = make_window(settings) if settings.content_type else None
        self._undecided: deque[tuple[Any, Acknowledgement]] = deque()
        self._undecided_bytes = 0
        self._hurried = False
        """Whether a flush waits for messages that are not in the window yet: then they do not linger there."""
        self._learning = anyio.Lock()
        self._runner: BackgroundTask | None = None
        self._flights: set[BackgroundTask] = set()
        self._wake = anyio.Event()
        """Set when the window may have something to send; replaced by whoever waits for the next time."""
        self._no_room: anyio.Event | None = None
        """Set, and forgotten, when there is room again."""
        self._watchers: dict[Batch | Acknowledgement, anyio.Event] = {}
        self._first_error: DurableStreamError | None = None
        self._ended: str | None = None
        self._closing: Batch | None = None
        """The last batch, which closes the stream."""

    # -- What the front offers ---------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._epoch if self._window is None else self._window.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch."""
        return 0 if self._window is None else self._window.next_seq

    @property
    def pending_count(self) -> int:
        """Messages taken and neither confirmed nor failed."""
        return len(self._undecided) + (0 if self._window is None else self._window.pending_count)

    @property
    def in_flight_count(self) -> int:
        """Requests under way."""
        return 0 if self._window is None else self._window.in_flight_count

    async def start(self) -> None:
        """Learn the content type, if it was not given, and begin to send."""
        await self._learn()
        self._ensure_running()

    def append(self, data: Any) -> Appended:
        """Take a message at once, or raise; room is waited for when the result is awaited."""
        return Appended(self, self._take(data, self._buffer_bytes * _HARD_LIMIT))

    def append_nowait(self, data: Any) -> Acknowledgement:
        """Take a message at once, or raise `ProducerFullError` when a careful caller would wait."""
        taken = self._take(data, self._buffer_bytes)
        return taken if isinstance(taken, Acknowledgement) else Acknowledgement(self, taken)

    async def flush(self) -> None:
        """Wait until everything taken so far is confirmed; raise the first error there was."""
        await self._drain()
        if self._first_error is not None:
            raise self._first_error

    async def restart(self) -> None:
        """Begin a new epoch, one higher, and forget earlier errors."""
        await self._learn()
        assert self._window is not None, "the content type is known"
        self._first_error = None
        self._window.restart()
        self._wake.set()

    async def close_stream(self, data: Any) -> CloseResult:
        """Flush, then close the stream; a last message goes with the closure."""
        if self._closing is None:
            self._check_open()
            await self.start()
            await self.flush()
            self._closing = self._end(data)
        elif data is not None:
            self._check_open()
        batch = self._closing
        await self.settled(batch)
        if batch.error is not None:
            self._closing = self._ended = None  # after a `restart` it can be tried again
        offset = batch.outcome().offset
        if offset is None:
            offset = (await self._carrier.run(_operations.head(self._url, self._policy))).offset
        return CloseResult(offset)

    def _end(self, data: Any) -> Batch:
        assert self._window is not None, "the content type is known"
        now = self._policy.monotonic()
        batch = self._window.end(now) if data is None else self._window.add(self._encode(data), now, closing=True)
        self._ended = "the stream is closed"
        self._wake.set()
        return batch

    async def close(self) -> None:
        """Flush, stop, let go of the connection; raise the first error there was."""
        self._ended = self._ended or "the producer is closed"
        try:
            if self._undecided or (self._window is not None and not self._window.idle):
                await self._drain()
        finally:
            await self._stop()
        if self._first_error is not None:
            error, self._first_error = self._first_error, None
            raise error

    @property
    def is_full(self) -> bool:
        """Whether an append that is awaited has to wait for `room`."""
        return self._no_room is not None

    async def room(self) -> None:
        """Wait until the buffer has room."""
        while self._no_room is not None:
            await self._no_room.wait()

    async def settled(self, what: Batch | Acknowledgement) -> None:
        """Wait until a message or batch is confirmed or has failed."""
        while not what.settled:
            watcher = self._watchers.get(what)
            if watcher is None:
                watcher = self._watchers[what] = anyio.Event()
            self._ensure_running()
            await watcher.wait()

    # -- Taking messages ---------------------------------------------------------------------------

    def _take(self, data: Any, limit: int) -> Batch | Acknowledgement:
        if self._runner is None or self._runner.done:
            self._ensure_running()  # before anything is buffered: it needs a running loop
        if self._ended is not None:
            self._check_open()
        window = self._window
        if window is None:
            return self._take_undecided(data, limit)
        message = self._encode(data)
        if window.pending_bytes + len(message) > limit:
            raise self._full(limit, message)
        batch = window.add(message, self._policy.monotonic())
        if len(batch.messages) == 1:  # a batch began: its linger time must be watched
            self._wake.set()
        if self._no_room is None and window.pending_bytes > self._buffer_bytes:
            self._no_room = anyio.Event()
        return batch

    def _check_open(self) -> None:
        if self._ended is not None:
            raise StreamClosedError(f"{self._ended}: nothing can be appended", url=self._url)

    def _take_undecided(self, data: Any, limit: int) -> Acknowledgement:
        """Keep a message until the content type says how to encode it."""
        size = len(data) if isinstance(data, str | bytes | bytearray | memoryview) else 256
        if self._undecided_bytes + size > limit:
            raise self._full(limit, b"")
        acknowledgement = Acknowledgement(self, None)
        self._undecided.append((data, acknowledgement))
        self._undecided_bytes += size
        self._mind_the_room()
        return acknowledgement

    def _full(self, limit: int, message: bytes) -> ProducerFullError:
        return ProducerFullError(
            f"{self.pending_count} messages wait for confirmation, {limit} bytes or more: await append() to wait "
            "for room",
            url=self._url,
            records=(message,),
        )

    def _decide(self, window: Window) -> None:
        while self._undecided:
            data, acknowledgement = self._undecided.popleft()
            try:
                message = self._encode(data)
                acknowledgement.batch = window.add(message, self._policy.monotonic())
            except DurableStreamError as error:
                acknowledgement.error = error
                self._report(error)
        self._undecided_bytes = 0
        if self._hurried:
            window.flush()

    async def _learn(self) -> None:
        async with self._learning:
            if self._window is not None:
                return
            head = await self._carrier.run(_operations.head(self._url, self._policy))
            content_type = head.content_type or "application/octet-stream"
            self._settings = replace(self._settings, content_type=content_type)
            self._encode = encoder(content_type)
            self._window = self._make_window(self._settings)
            self._decide(self._window)
            self._changed()

    # -- Running -----------------------------------------------------------------------------------

    def _ensure_running(self) -> None:
        if self._runner is None or self._runner.done:
            self._runner = spawn(self._run, name=f"producer of {self._url}")

    async def _run(self) -> None:
        try:
            await self._learn()
        # Supervision boundary: a caller's header callable may raise anything, and appends wait for this.
        except Exception as error:  # noqa: BLE001
            self._fail_undecided(as_producer_error(error, self._url))
            return
        window = self._window
        assert window is not None, "the content type is known"
        while True:
            now = self._policy.monotonic()
            flight = window.next_flight(now)
            if flight is not None:
                self._launch(window, flight)
                continue
            self._wake = anyio.Event()
            at = window.wake_at(now)
            with anyio.move_on_after(None if at is None else max(0.0, at - now)):
                await self._wake.wait()

    def _launch(self, window: Window, flight: Flight) -> None:
        outcome: Answer | DurableStreamError = Failure("the request was interrupted")

        async def fly() -> None:
            nonlocal outcome
            try:
                outcome = await self._carrier.exchange(flight.request)
            # Supervision boundary: a caller's header callable may raise anything; the batch must not hang for it.
            except Exception as error:  # noqa: BLE001
                outcome = as_producer_error(error, self._url)

        # Also when the task is cancelled, as by a loop that ends: the next one goes on from here.
        def land() -> None:
            self._flights.discard(task)
            if isinstance(outcome, DurableStreamError):
                _reactions.crashed(window, flight, outcome)
            else:
                _reactions.answered(window, flight, outcome, self._policy.monotonic())
            self._changed()
            self._wake.set()

        task = spawn(fly, name=f"batch {flight.batch.seq} of {self._url}", on_end=land)
        self._flights.add(task)

    def _changed(self) -> None:
        """Tell everybody who waits for what has changed in the window."""
        window = self._window
        if window is not None:
            failures, window.failures = window.failures, []
            for error in failures:
                self._report(error)
        for what in [what for what in self._watchers if what.settled]:
            self._watchers.pop(what).set()
        self._mind_the_room()

    def _report(self, error: DurableStreamError) -> None:
        self._first_error = self._first_error or error
        report(self._on_error, error)

    def _mind_the_room(self) -> None:
        waiting = self._undecided_bytes + (0 if self._window is None else self._window.pending_bytes)
        if waiting > self._buffer_bytes:
            self._no_room = self._no_room or anyio.Event()
        elif self._no_room is not None:
            self._no_room.set()
            self._no_room = None

    def _fail_undecided(self, error: DurableStreamError) -> None:
        for _, acknowledgement in self._undecided:
            acknowledgement.error = error
        self._undecided.clear()
        self._undecided_bytes = 0
        self._report(error)
        self._changed()

    async def _drain(self) -> None:
        waiting: Sequence[Batch | Acknowledgement]
        waiting = [acknowledgement for _, acknowledgement in self._undecided]
        self._hurried = bool(waiting)
        if self._window is not None:
            waiting = self._window.flush()
            self._wake.set()
        for what in waiting:
            await self.settled(what)

    async def _stop(self) -> None:
        tasks = [*self._flights, *([self._runner] if self._runner is not None else [])]
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):  # a cancelled task ends soon: nothing here waits for the network
            for task in tasks:
                await task.wait()
            await self._carrier.close()


def as_producer_error(error: Exception, url: str) -> DurableStreamError:
    """Return what callers are told when making a request raised."""
    if isinstance(error, DurableStreamError):
        return error
    wrapped = ProducerError(f"the request could not be made: {error!r}", url=url)
    wrapped.__cause__ = error
    return wrapped


def report(on_error: ProducerErrorHandler | None, error: DurableStreamError) -> None:
    """Tell the caller's handler about an error."""
    if on_error is None:
        return
    try:
        on_error(error)
    # Supervision boundary: a handler's mistake must not stop the producer.
    except Exception:  # noqa: BLE001
        _log.exception("producer.on_error.raised")
