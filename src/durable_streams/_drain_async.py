"""Drains a store on an asyncio loop: the engine of `IdempotentProducer` with a store.

Messages are written to the store, not to the producer: the store is what survives a restart. Closing therefore
loses nothing and waits for nothing; the next producer with the same store goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

from durable_streams._pull import Halt, PostBatch, Stop
from durable_streams.errors import (
    ContentTypeMismatchError,
    PayloadTooLargeError,
    ProducerError,
    ProducerStoppedError,
    RetentionGoneError,
    SequenceGapError,
    StaleEpochError,
    StreamClosedError,
    StreamNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams._http_async import AsyncCarrier
    from durable_streams._pull import Command, Pull
    from durable_streams._store import ProducerStore
    from durable_streams._store_producer import StoreProducer
    from durable_streams.errors import DurableStreamError

_ERRORS: dict[Stop, type[DurableStreamError]] = {
    Stop.FENCED: StaleEpochError,
    Stop.SERVER_AHEAD: SequenceGapError,
    Stop.SERVER_BEHIND: SequenceGapError,
    Stop.FORGOTTEN: SequenceGapError,
    Stop.CONTENT_TYPE: ContentTypeMismatchError,
    Stop.MISSING: StreamNotFoundError,
    Stop.TOO_LARGE: PayloadTooLargeError,
    Stop.CLOSED: StreamClosedError,
    Stop.GONE: RetentionGoneError,
}


def error_of(halt: Halt, url: str) -> DurableStreamError:
    """Return the error that says why a producer stopped."""
    return _ERRORS.get(halt.stop, ProducerError)(halt.reason, url=url)


class DrainEngine:
    """Runs one `StoreProducer` in a task."""

    def __init__(
        self,
        url: str,
        store: ProducerStore,
        carrier: AsyncCarrier,
        make_producer: Callable[[Callable[[Pull, Command], None]], StoreProducer],
    ) -> None:
        self._url = url
        self._store = store
        self._carrier = carrier
        self._producer = make_producer(self.observe)
        self._state: Pull | None = None
        self._in_flight = 0
        self._task: asyncio.Task[Halt] | None = None

    def observe(self, state: Pull, command: Command) -> None:
        """Follow the producer."""
        self._state = state
        self._in_flight = 1 if isinstance(command, PostBatch) else 0

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; 0 before the store was read."""
        return 0 if self._state is None else self._state.stored.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch; 0 before the store was read."""
        return 0 if self._state is None else self._state.stored.sealed_seq + 1

    @property
    def pending_count(self) -> int:
        """Messages in the store that are not confirmed."""
        return self._store.pending_count

    @property
    def in_flight_count(self) -> int:
        """Requests with a batch under way: none or one."""
        return self._in_flight

    async def start(self) -> None:
        """Begin to drain."""
        self._ensure_running()

    def _ensure_running(self) -> asyncio.Task[Halt]:
        if self._task is None:
            self._task = asyncio.create_task(self._producer.run())
        return self._task

    def append(self, data: Any) -> NoReturn:  # noqa: ARG002 - the signature of an engine
        """Refuse: a message becomes durable in the store."""
        raise TypeError("this producer drains a store: write the message to the store")

    append_nowait = append

    async def flush(self) -> None:
        """Wait until every message in the store is confirmed; raise what stopped the producer."""
        running = self._ensure_running()
        drained = asyncio.ensure_future(self._store.drained())
        try:
            await asyncio.wait((running, drained), return_when=asyncio.FIRST_COMPLETED)
            if running.done() and not drained.done():
                raise error_of(running.result(), self._url)
        finally:
            drained.cancel()

    async def restart(self) -> None:
        """Look again at everything, after what stopped the producer was put right."""
        await self._stop()
        self._ensure_running()

    async def close_stream(self, data: Any) -> NoReturn:  # noqa: ARG002 - the signature of an engine
        """Refuse: closing a stream that a store still writes to would strand the store."""
        raise TypeError("this producer drains a store: flush it, then close the stream with a handle")

    async def close(self) -> None:
        """Stop. What is in the store stays there; raise what had stopped the producer before."""
        halt = self._task.result() if self._task is not None and self._task.done() else None
        await self._stop()
        await self._carrier.close()
        if halt is not None:
            raise ProducerStoppedError(halt.reason, url=self._url) from error_of(halt, self._url)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))
