"""A store in memory: for tests, and for streams that need not outlive the process."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from durable_streams.server._store import Change, Page, ProducerMark, Result, Stream, StreamSettings, Transaction
from durable_streams.server._watchers import Watchers

if TYPE_CHECKING:
    from asyncio import Event
    from collections.abc import Callable
    from contextlib import AbstractContextManager


@dataclass(slots=True)
class _Kept:
    stream: Stream
    messages: list[bytes] = field(default_factory=list[bytes])
    producers: dict[str, ProducerMark] = field(default_factory=dict[str, ProducerMark])


class MemoryStore:
    """Streams in dictionaries. Used from one event loop only, so that transactions never overlap."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._next_id = 1
        self._watchers = Watchers()

    async def find(self, path: str) -> Stream | None:
        """See `Store.find`."""
        kept = self._kept.get(path)
        return None if kept is None else kept.stream

    async def read(self, path: str, start: int | None, max_bytes: int) -> Page | None:
        """See `Store.read`."""
        kept = self._kept.get(path)
        if kept is None:
            return None
        first = kept.stream.tail if start is None else start
        end, size = first, 0
        while end < kept.stream.tail:
            size += len(kept.messages[end])
            if size > max_bytes and end > first:
                break
            end += 1
        return Page(kept.stream, first, tuple(kept.messages[first:end]))

    async def transact(self, work: Callable[[Transaction], Result]) -> Result:
        """See `Store.transact`."""
        transaction = _MemoryTransaction(self._kept, self._next_id)
        result = work(transaction)
        self._next_id = transaction.next_id
        self._watchers.changed(transaction.changed)
        return result

    def watch(self, stream_id: int) -> AbstractContextManager[Event]:
        """See `Store.watch`."""
        return self._watchers.watch(stream_id)

    def stop_waiting(self) -> None:
        """See `Store.stop_waiting`."""
        self._watchers.stop()

    async def close(self) -> None:
        """See `Store.close`. The streams are gone."""
        self._watchers.stop()
        self._kept.clear()


class _MemoryTransaction:
    def __init__(self, kept: dict[str, _Kept], next_id: int) -> None:
        self._kept = kept
        self.next_id = next_id
        self.changed: set[int] = set()

    def find(self, path: str) -> Stream | None:
        kept = self._kept.get(path)
        return None if kept is None else kept.stream

    def producer(self, stream: Stream, producer_id: str) -> ProducerMark | None:
        return self._kept[stream.path].producers.get(producer_id)

    def create(self, path: str, settings: StreamSettings, deadline: float | None) -> Stream:
        stream = Stream(self.next_id, secrets.token_hex(6), path, settings, deadline=deadline)
        self.next_id += 1
        self._kept[path] = _Kept(stream)
        return stream

    def apply(self, stream: Stream, change: Change) -> None:
        kept = self._kept[stream.path]
        if change.data is not None:
            kept.messages.append(change.data)
        if change.producer is not None:
            kept.producers[change.producer.producer_id] = change.producer
        kept.stream = stream.after(change)
        if change.data is not None or change.close:
            self.changed.add(stream.id)

    def delete(self, stream: Stream) -> None:
        del self._kept[stream.path]
        self.changed.add(stream.id)

    def expired(self, now: float) -> list[Stream]:
        return [
            kept.stream
            for kept in self._kept.values()
            if kept.stream.deadline is not None and kept.stream.deadline <= now
        ]
