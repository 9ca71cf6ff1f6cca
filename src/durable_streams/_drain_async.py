"""Drains a store on an event loop: the engines of `IdempotentProducer` with a store.

What is in the store survives a restart. Closing therefore loses nothing and waits for no answer; the next producer
with the same store goes on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from durable_streams import _http, _operations
from durable_streams._acknowledgements import Acknowledgement, Appended
from durable_streams._crossing import caller, outcome_of
from durable_streams._drain_status import (
    MISSING_AFTER,
    DrainStatus,
    Intake,
    as_producer_error,
    check_json,
    error_of,
    opening_error,
    stopped,
)
from durable_streams._ended import STREAM_CLOSED
from durable_streams._outcome import Outcome
from durable_streams._push_async import report
from durable_streams._sqlite_store import SqliteProducerStore
from durable_streams._store_producer import StoreProducer
from durable_streams._tasks import BackgroundTask, spawn
from durable_streams.errors import DurableStreamError, ProducerStoppedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from durable_streams._http_async import AsyncCarrier
    from durable_streams._pull import Command, Pull
    from durable_streams._store import ProducerStore
    from durable_streams._store_calls import StoreCalls
    from durable_streams._store_writer import Group
    from durable_streams._types import CloseResult, IdempotentAppendResult, ProducerErrorHandler

T = TypeVar("T")


class DrainEngine:
    """Runs one `StoreProducer` in a task. Messages are written to the store by somebody else."""

    def __init__(
        self,
        url: str,
        store: ProducerStore,
        carrier: AsyncCarrier,
        make_producer: Callable[[Callable[[Pull, Command], None]], StoreProducer],
        *,
        on_error: ProducerErrorHandler | None,
    ) -> None:
        self._url = url
        self._store = store
        self._carrier = carrier
        self._on_error = on_error
        self._status = DrainStatus(url)
        self._producer = make_producer(self._status.observe)
        self._task: BackgroundTask | None = None
        self._stopped = anyio.Event()
        self._changing = anyio.Lock()
        """Held while the engine restarts or closes."""
        self._error: DurableStreamError | None = None
        """What stopped the drain, if something did."""

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; 0 before the store was read."""
        return self._status.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch; 0 before the store was read."""
        return self._status.next_seq

    @property
    def pending_count(self) -> int:
        """Messages in the store that are not confirmed."""
        return self._store.pending_count

    @property
    def in_flight_count(self) -> int:
        """Requests with a batch under way: none or one."""
        return self._status.in_flight_count

    async def start(self) -> None:
        """Begin to drain."""
        self._ensure_running()

    def append(self, data: Any) -> Appended:  # noqa: ARG002 - the signature of an engine
        """Refuse: a message becomes durable in the store."""
        raise TypeError("this producer drains a store: write the message to the store")

    def append_nowait(self, data: Any) -> Acknowledgement:
        """Refuse: a message becomes durable in the store."""
        return self.append(data).acknowledgement

    async def flush(self) -> None:
        """Wait until every message in the store is confirmed; raise what stopped the producer."""
        self._ensure_running()
        drained = False
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._cancel_when_stopped, waiting.cancel_scope)
            await self._store.drained()
            drained = True
            waiting.cancel_scope.cancel()
        if self._error is not None and not drained:
            raise self._error

    async def restart(self) -> None:
        """Look again at everything, after what stopped the producer was put right."""
        await self._undisturbed(self._restart)

    async def close_stream(self, data: Any) -> CloseResult:  # noqa: ARG002 - the signature of an engine
        """Refuse: closing a stream that a store still writes to would strand the store."""
        raise TypeError("this producer drains a store: flush it, then close the stream with a handle")

    async def close(self) -> None:
        """Stop. What is in the store stays there; raise what had stopped the producer before."""
        error = await self._undisturbed(self._close)
        if error is not None:
            raise stopped(error, self._url)

    async def _restart(self) -> None:
        await self._stop()
        self._ensure_running()

    async def _close(self) -> DurableStreamError | None:
        error = await self._stop()
        await self._carrier.close()
        return error

    async def _undisturbed(self, change: Callable[[], Awaitable[T]]) -> T:
        """Await a change, one at a time, to its end, also when it is cancelled: none waits for the network.

        In a task of its own, because the cancelling of a task, as `asyncio.timeout` does it, ignores a shield.
        """
        outcome: Outcome[T] = Outcome()

        async def run() -> None:
            try:
                async with self._changing:
                    outcome.set_result(await change())
            # Supervision boundary: it is raised where it is waited for.
            except Exception as error:  # noqa: BLE001
                outcome.set_exception(error)

        changing = spawn(run, name=f"change of the producer of {self._url}", on_end=outcome.cancel)
        with anyio.CancelScope(shield=True):
            await changing.wait()
        return outcome.result()

    def _ensure_running(self) -> None:
        if self._task is None:
            self._task = spawn(self._work, name=f"producer of {self._url}")

    async def _work(self) -> None:
        try:
            error = error_of(await self._producer.run(), self._url)
        # Supervision boundary: the store, or a caller's header callable, may raise anything, and appends wait.
        except Exception as raised:  # noqa: BLE001
            error = as_producer_error(raised, self._url)
        self._fail(error)

    def _fail(self, error: DurableStreamError) -> None:
        self._error = error
        self._stopped.set()
        report(self._on_error, error)

    async def _cancel_when_stopped(self, waiting: anyio.CancelScope) -> None:
        await self._stopped.wait()
        waiting.cancel()

    async def _stop(self) -> DurableStreamError | None:
        """End the task; return what had ended it before. Until it has ended it is the only one."""
        if self._task is not None:
            self._task.cancel()
            await self._task.wait()
            self._task = None
        error, self._error, self._stopped = self._error, None, anyio.Event()
        return error


class StoredAcknowledgement(Acknowledgement):
    """Awaitable: the server's confirmation of a stored message.

    When the producer stops first, awaiting it raises why; the message is in the store all the same.
    """

    __slots__ = ("_calls", "_group", "_index", "_tell")

    def __init__(
        self, calls: StoreCalls, group: Group, index: int, tell: Callable[[DurableStreamError], None]
    ) -> None:
        self._calls = calls
        self._tell = tell
        self._group = group
        self._index = index

    @property
    def settled(self) -> bool:
        """Whether the message is confirmed, or waiting for that is in vain."""
        group = self._group
        if not group.stored.done():
            return False
        if group.stored.exception() is not None:
            return True
        return self._calls.confirmations.settled(group.span, group.first + self._index)

    async def stored(self) -> None:
        """Wait until the message is on the disk."""
        try:
            await outcome_of(self._group.stored)
        except DurableStreamError as error:
            self._tell(error)
            raise

    async def _wait(self) -> IdempotentAppendResult:
        await self.stored()
        return await outcome_of(self._calls.confirmed(self._group, self._index))


class StoredAppend(Appended):
    """A message that the producer has taken; awaiting it waits until it is on the disk."""

    __slots__ = ("_stored_acknowledgement",)

    def __init__(self, acknowledgement: StoredAcknowledgement) -> None:
        self._stored_acknowledgement = acknowledgement

    @property
    def acknowledgement(self) -> StoredAcknowledgement:
        """What tells when the server has it."""
        return self._stored_acknowledgement

    def __await__(self) -> Generator[Any, None, Acknowledgement]:
        yield from self._stored_acknowledgement.stored().__await__()
        return self._stored_acknowledgement


class StoreEngine(DrainEngine):
    """As `DrainEngine`, with the way into the store: opens it, and closes it."""

    def __init__(
        self,
        url: str,
        store: SqliteProducerStore,
        carrier: AsyncCarrier,
        make_producer: Callable[[Callable[[Pull, Command], None]], StoreProducer],
        *,
        on_error: ProducerErrorHandler | None,
        producer_id: str,
        epoch: int,
        max_batch_bytes: int,
    ) -> None:
        super().__init__(url, store, carrier, make_producer, on_error=on_error)
        self._calls = store.calls
        self._producer_id = producer_id
        self._first_epoch = epoch
        self._intake = Intake(store.calls, url, max_batch_bytes)
        self._opened: Outcome[None] | None = None
        self._untold: list[DurableStreamError] = []
        """Why messages could not be stored, as long as nobody awaited it."""
        self._call_here: Callable[[Callable[[], object]], None] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        state = self._calls.state
        return self._first_epoch if state is None else state.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch; 0 before the store was read."""
        state = self._calls.state
        return 0 if state is None else state.sealed_seq + 1

    async def start(self) -> None:
        """Open the store and begin to drain."""
        await outcome_of(self._open())
        self._ensure_running()

    def append(self, data: Any) -> StoredAppend:
        """Take a message at once, or raise; awaiting the result waits until it is on the disk."""
        return StoredAppend(self._take(data, wait=True))

    def append_nowait(self, data: Any) -> StoredAcknowledgement:
        """Take a message at once, or raise `ProducerFullError` when the store is full."""
        return self._take(data, wait=False)

    async def flush(self) -> None:
        """Wait until everything taken so far is confirmed; raise what went wrong since the last restart."""
        opened = self._open()
        self._ensure_running()
        await outcome_of(opened)
        await self._store.drained()
        if self._untold:
            raise self._untold[0]

    async def close_stream(self, data: Any) -> CloseResult:
        """Append a last message if one is given, flush, then close the stream."""
        if data is not None:
            await self.append(data)
        await self.flush()
        self._intake.ended = STREAM_CLOSED
        flow = _operations.close(self._url, _http.default_policy(), None, content_type=None)
        return await self._carrier.run(flow)

    async def close(self) -> None:
        """Stop, store what waits to be stored, close the store; raise what went wrong before.

        Does nothing in a forked process.
        """
        self._intake.close()
        if self._calls.forked:
            return
        await super().close()
        untold, self._untold = self._untold, []
        if untold:
            raise untold[0]

    async def _restart(self) -> None:
        await self._stop()
        self._untold.clear()
        if self._calls.failed:
            await self._close_store()
        self._calls.resume()
        await self.start()

    async def _close(self) -> DurableStreamError | None:
        error = await self._stop()
        if self._opened is not None:
            error = error or opening_error(self._opened)
            await self._close_store()
            self._calls.confirmations.stop(
                ProducerStoppedError("the producer is closed; the message is in its store", url=self._url)
            )
        await self._carrier.close()
        return error

    def _open(self) -> Outcome[None]:
        self._intake.check()
        if self._opened is None:
            self._call_here = caller()
            self._opened = self._calls.open(self._producer_id, self._url, epoch=self._first_epoch)
        return self._opened

    async def _close_store(self) -> None:
        self._opened = None
        await outcome_of(self._calls.close())
        self._calls.join()

    def _take(self, data: Any, *, wait: bool) -> StoredAcknowledgement:
        self._open()
        self._ensure_running()  # before anything is taken: it needs a running loop
        group, index = self._intake.take(data, wait=wait)
        if index == 0:
            group.stored.add_done_callback(functools.partial(self._on_stored, group.stored))
        return StoredAcknowledgement(self._calls, group, index, self._told)

    def _on_stored(self, stored: Outcome[None]) -> None:
        """Called by the store's thread."""
        error = stored.exception()
        if isinstance(error, DurableStreamError) and self._call_here is not None:
            self._untold.append(error)
            self._call_here(functools.partial(report, self._on_error, error))

    def _told(self, error: DurableStreamError) -> None:
        if error in self._untold:
            self._untold.remove(error)

    def _fail(self, error: DurableStreamError) -> None:
        self._calls.stop(error)
        super()._fail(error)


def drain_engine(
    url: str,
    producer_id: str,
    store: ProducerStore,
    carrier: AsyncCarrier,
    *,
    epoch: int,
    max_batch_bytes: int,
    content_type: str | None,
    on_error: ProducerErrorHandler | None,
) -> DrainEngine:
    """Return the engine for a producer with this store."""

    def make_producer(observe: Callable[[Pull, Command], None]) -> StoreProducer:
        return StoreProducer(
            url,
            store,
            client=carrier.client,
            headers=carrier.extras.headers,
            params=carrier.extras.params,
            max_batch_bytes=max_batch_bytes,
            backoff=_http.default_policy().backoff,
            observe=observe,
            missing_after=MISSING_AFTER,
        )

    if not isinstance(store, SqliteProducerStore):
        return DrainEngine(url, store, carrier, make_producer, on_error=on_error)
    check_json(content_type)
    return StoreEngine(
        url,
        store,
        carrier,
        make_producer,
        on_error=on_error,
        producer_id=producer_id,
        epoch=epoch,
        max_batch_bytes=max_batch_bytes,
    )
