"""Drives a producer's window on an event loop: the engine of `IdempotentProducer` without a store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel

from durable_streams import _http, _operations, _reactions
from durable_streams._acknowledgements import Acknowledgement, Appended
from durable_streams._batches import Taken
from durable_streams._ended import PRODUCER_CLOSED, STREAM_CLOSED, nothing_taken
from durable_streams._messages import encoder, unencoded
from durable_streams._tasks import BackgroundTask, spawn
from durable_streams._types import CloseResult
from durable_streams._unsent import watch
from durable_streams._window import Window
from durable_streams._wire import Answer, Failure
from durable_streams.errors import DurableStreamError, ProducerError, ProducerFullError

if TYPE_CHECKING:
    from collections.abc import Generator

    from durable_streams._batches import Batch, Flight, Flush, WindowSettings
    from durable_streams._http_async import AsyncCarrier
    from durable_streams._types import IdempotentAppendResult, ProducerErrorHandler

_log = logging.getLogger("durable_streams.producer")

_HARD_LIMIT: Final = 8
"""Appends that nobody awaits may fill the buffer so many times over; then they raise."""
_TURN_AFTER: Final = 256
"""How many appends may be awaited in a row before the loop gets its turn: requests go out meanwhile."""


class PushedAcknowledgement(Acknowledgement):
    """The confirmation of a message that is kept in memory."""

    __slots__ = ("_engine", "_taken")

    def __init__(self, engine: PushEngine, taken: Taken) -> None:
        self._engine = engine
        self._taken = taken

    @property
    def settled(self) -> bool:
        """Whether the message is confirmed or has failed."""
        return self._taken.settled

    async def _wait(self) -> IdempotentAppendResult:
        await self._engine.settled(self._taken)
        return self._taken.outcome()


class PushedMessage(Taken, Appended):
    """A message that is kept in memory."""

    __slots__ = ("_engine",)

    def __init__(self, engine: PushEngine, batch: Batch) -> None:
        self._batch = batch
        self._index = len(batch.messages) - 1
        self._engine = engine

    @property
    def acknowledgement(self) -> PushedAcknowledgement:
        """What tells when the server has it."""
        # Made on demand: most appends of a fast producer are never asked for theirs.
        return PushedAcknowledgement(self._engine, self)

    def __await__(self) -> Generator[Any, None, PushedAcknowledgement]:
        engine = self._engine
        if engine.owes_turn():
            yield from engine.turn().__await__()
        return PushedAcknowledgement(engine, self)


class _Watcher:
    """Some who wait for the same."""

    def __init__(self) -> None:
        self.settled = anyio.Event()
        self.waiting = 0


class PushEngine:
    """Messages from callers into the window, flights out of it."""

    def __init__(
        self,
        carrier: AsyncCarrier,
        settings: WindowSettings,
        *,
        epoch: int,
        on_error: ProducerErrorHandler | None,
    ) -> None:
        self._url = settings.url
        self._carrier = carrier
        self._policy = _http.default_policy()
        self._encode = encoder(settings.content_type) if settings.content_type else unencoded
        self._buffer_bytes = settings.buffer_bytes
        self._on_error = on_error
        self._window = Window(settings, self._policy, epoch=epoch)
        watch(self._window)
        self._learning = anyio.Lock()
        self._runner: BackgroundTask | None = None
        self._flights: set[BackgroundTask] = set()
        self._wake = anyio.Event()
        """Set when the window may have something to send; replaced by whoever waits for the next time."""
        self._unturned = 0
        """Appends awaited since the loop had its turn."""
        self._no_room: anyio.Event | None = None
        """Set, and forgotten, when there is room again."""
        self._watchers: dict[Taken | Flush, _Watcher] = {}
        self._first_error: DurableStreamError | None = None
        self._ended: str | None = None
        """Why nothing more is taken."""
        self._closed = False
        self._stopping = False
        self._closing_stream = anyio.Lock()
        self._ending: Taken | None = None

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

    async def start(self) -> None:
        """Learn the content type, if it was not given, and begin to send."""
        await self._learn()
        self._ensure_running()

    def append(self, data: Any) -> PushedMessage:
        """Take a message at once, or raise; room is waited for when the result is awaited."""
        return PushedMessage(self, self._take(data, self._buffer_bytes * _HARD_LIMIT))

    def append_nowait(self, data: Any) -> PushedAcknowledgement:
        """Take a message at once, or raise `ProducerFullError` when a careful caller would wait."""
        batch = self._take(data, self._buffer_bytes)
        return PushedAcknowledgement(self, Taken(batch, len(batch.messages) - 1))

    async def flush(self) -> None:
        """Wait until everything taken so far is confirmed; raise the first error there was."""
        await self._drain()
        if self._first_error is not None:
            raise self._first_error.with_traceback(None)

    async def restart(self) -> None:
        """Begin a new epoch, one higher, and forget earlier errors."""
        await self._learn()
        self._window.restart()
        self._first_error = None
        self._changed()
        self._wake.set()

    async def close_stream(self, data: Any) -> CloseResult:
        """Flush, then close the stream; a last message goes with the closure."""
        async with self._closing_stream:
            if self._ending is None or data is not None:
                self._check_open()
            if self._ending is None:
                await self.start()
                await self.flush()
                self._end(data)
        ending = self._ending
        assert ending is not None, "just now, or before"
        await self.settled(ending)
        try:
            offset = ending.outcome().offset
        except DurableStreamError:
            if self._ending is ending and not self._closed:
                self._ending = self._ended = None  # after a `restart` it can be tried again
            raise
        if offset is None:
            offset = (await self._carrier.run(_operations.head(self._url, self._policy))).offset
        return CloseResult(offset)

    def _end(self, data: Any) -> None:
        self._check_open()  # it may have been closed meanwhile
        message = b"" if data is None else self._encode(data)
        if self._window.error is not None:
            raise self._window.stopped([message])
        batch = self._window.intake.take_last(message)
        self._ending, self._ended = Taken(batch, 0), STREAM_CLOSED
        self._wake.set()

    async def close(self) -> None:
        """Flush, stop, let go of the connection; raise the first error there was."""
        self._ended = self._ended or PRODUCER_CLOSED
        self._closed = True
        try:
            await self._drain()
        finally:
            await self._stop()
        if self._first_error is not None:
            error, self._first_error = self._first_error, None
            raise error.with_traceback(None)

    def owes_turn(self) -> bool:
        """Whether an append that is awaited has to wait for `turn`. Called once for each of them."""
        self._unturned += 1
        return self._no_room is not None or self._unturned >= _TURN_AFTER

    async def turn(self) -> None:
        """Wait until the buffer has room; at least until everybody else had a turn."""
        self._unturned = 0
        if self._no_room is None:
            await anyio.lowlevel.checkpoint()
        while self._no_room is not None:
            await self._no_room.wait()

    async def settled(self, what: Taken | Flush) -> None:
        """Wait until a message is confirmed or has failed."""
        while not what.settled:
            watcher = self._watchers.get(what)
            if watcher is None:
                watcher = self._watchers[what] = _Watcher()
            self._ensure_running()
            watcher.waiting += 1
            try:
                await watcher.settled.wait()
            finally:
                watcher.waiting -= 1
                if watcher.waiting == 0:
                    self._watchers.pop(what, None)

    # -- Taking messages ---------------------------------------------------------------------------

    def _take(self, data: Any, limit: int) -> Batch:
        if self._ended is not None:
            self._check_open()
        if self._runner is None or self._runner.done:
            self._ensure_running()  # before anything is buffered: it needs a running loop
        window = self._window
        message = self._encode(data)
        if window.error is not None:
            raise window.stopped([message])
        pending_bytes = window.pending_bytes + len(message)
        if pending_bytes > limit:
            raise self._full(limit, message)
        batch = window.intake.take(message)
        if not batch.announced:  # a batch began: one before it is full, or this one begins to linger
            batch.announced = True
            self._wake.set()
        if pending_bytes > self._buffer_bytes and self._no_room is None:
            self._no_room = anyio.Event()
        return batch

    def _check_open(self) -> None:
        if self._ended is not None:
            raise nothing_taken(self._ended, self._url)

    def _full(self, limit: int, message: bytes) -> ProducerFullError:
        return ProducerFullError(
            f"{self.pending_count} messages wait for confirmation, {limit} bytes or more: await append() to wait "
            "for room",
            url=self._url,
            records=(bytes(message),),
        )

    async def _learn(self) -> None:
        async with self._learning:
            if self._window.settings.content_type:
                return
            head = await self._carrier.run(_operations.head(self._url, self._policy))
            content_type = head.content_type or "application/octet-stream"
            self._encode = encoder(content_type)
            self._window.learn(content_type)
            self._changed()

    # -- Running -----------------------------------------------------------------------------------

    def _ensure_running(self) -> None:
        if (self._runner is None or self._runner.done) and not self._stopping:
            self._runner = spawn(self._run, name=f"producer of {self._url}")

    async def _run(self) -> None:
        try:
            await self._learn()
        # Supervision boundary: a caller's header callable may raise anything, and appends wait for this.
        except Exception as error:  # noqa: BLE001
            self._window.refuse(as_producer_error(error, self._url))
            self._changed()
            return
        window = self._window
        while True:
            now = self._policy.monotonic()
            flight = window.next_flight(now)
            if flight is not None:
                self._launch(window, flight)
                continue
            self._wake = anyio.Event()
            self._changed()
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
            self._wake.set()
            self._changed()

        task = spawn(fly, name=f"batch {flight.batch.seq} of {self._url}", on_end=land)
        self._flights.add(task)

    def _changed(self) -> None:
        """Tell everybody who waits for what has changed in the window."""
        failures, self._window.failures = self._window.failures, []
        for what in [what for what in self._watchers if what.settled]:
            self._watchers[what].settled.set()
        if self._no_room is not None and self._window.pending_bytes <= self._buffer_bytes:
            self._no_room.set()
            self._no_room = None
        for error in failures:
            self._report(error)

    def _report(self, error: DurableStreamError) -> None:
        self._first_error = self._first_error or error
        report(self._on_error, error)

    async def _drain(self) -> None:
        if self._window.idle or self._stopping:
            return
        flush = self._window.intake.flush()
        self._wake.set()
        await self.settled(flush)

    async def _stop(self) -> None:
        self._stopping = True
        with anyio.CancelScope(shield=True):  # a cancelled task ends soon: nothing here waits for the network
            if self._runner is not None:  # the one that starts the others
                self._runner.cancel()
                await self._runner.wait()
            flights = list(self._flights)
            for flight in flights:
                flight.cancel()
            for flight in flights:
                await flight.wait()
            self._window.abandon()  # only if this is not the end of a flush: that was cancelled
            self._changed()
            await self._carrier.close()


def as_producer_error(error: BaseException, url: str) -> DurableStreamError:
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
