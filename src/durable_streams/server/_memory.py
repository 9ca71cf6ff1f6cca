"""A store in memory: for tests, and for streams that need not outlive the process."""

from __future__ import annotations

import copy
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from durable_streams.server._store import (
    EARLIEST,
    MAX_PAGE_MESSAGES,
    Change,
    Kept,
    Page,
    ProducerMark,
    Result,
    Stream,
    StreamSettings,
    Transaction,
)
from durable_streams.server._watchers import Watchers

if TYPE_CHECKING:
    from asyncio import Event
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager


@dataclass(slots=True)
class _Entry:
    stream: Stream
    messages: list[bytes] = field(default_factory=list[bytes])
    """From number ``stream.head`` on."""
    stored_at: list[float] = field(default_factory=list[float])
    producers: dict[str, ProducerMark] = field(default_factory=dict[str, ProducerMark])


class MemoryStore:
    """Streams in dictionaries. Used from one event loop only, so that transactions never overlap."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._next_id = 1
        self._served_seconds = 0.0
        self._watchers = Watchers()

    async def find(self, path: str) -> Stream | None:
        """See `Store.find`."""
        entry = self._entries.get(path)
        return None if entry is None else entry.stream

    async def served_seconds(self) -> float:
        """See `Store.served_seconds`."""
        return self._served_seconds

    async def read(self, path: str, start: int | None, max_bytes: int) -> Page | None:
        """See `Store.read`."""
        entry = self._entries.get(path)
        if entry is None:
            return None
        stream = entry.stream
        first = stream.tail if start is None else stream.head if start == EARLIEST else start
        if first < stream.head:
            return Page(stream, first, ())
        begin = end = first - stream.head
        size = 0
        while end < min(len(entry.messages), begin + MAX_PAGE_MESSAGES):
            size += len(entry.messages[end])
            if size > max_bytes and end > begin:
                break
            end += 1
        return Page(stream, first, tuple(entry.messages[begin:end]))

    async def transact(self, work: Callable[[Transaction], Result]) -> Result:
        """See `Store.transact`."""
        transaction = _MemoryTransaction(self._entries, self._next_id)
        result = work(transaction)
        self._next_id = transaction.next_id
        self._served_seconds = max(self._served_seconds, transaction.latest_at)
        self._watchers.changed(transaction.changed)
        return result

    def snapshot(self) -> dict[str, Any]:
        """All streams as they are, for `restore`; not to be changed."""
        return copy.deepcopy(self._entries)

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put a snapshot in place of all streams, and wake who waits for any.

        The streams get new numbers (``id``): who has read one before must not go on with it.
        """
        waited_for = {entry.stream.id for entry in self._entries.values()}
        self._entries.clear()
        for path, entry in copy.deepcopy(dict(snapshot)).items():
            entry.stream = replace(entry.stream, id=self._next_id)
            self._next_id += 1
            self._entries[path] = entry
        self._watchers.changed(waited_for)

    def forget_producers(self, path: str, producer_id: str | None = None) -> None:
        """Forget a producer of a stream (None: all of them), and keep its data. Raises `LookupError`."""
        entry = self._entries.get(path)
        if entry is None:
            raise LookupError(f"no stream {path!r}")
        if producer_id is None:
            entry.producers.clear()
        elif entry.producers.pop(producer_id, None) is None:
            raise LookupError(f"stream {path!r} has no producer {producer_id!r}")

    def watch(self, stream_id: int) -> AbstractContextManager[Event]:
        """See `Store.watch`."""
        return self._watchers.watch(stream_id)

    def stop_waiting(self) -> None:
        """See `Store.stop_waiting`."""
        self._watchers.stop()

    async def close(self) -> None:
        """See `Store.close`. The streams are gone."""
        self._watchers.stop()
        self._entries.clear()


class _MemoryTransaction:
    def __init__(self, entries: dict[str, _Entry], next_id: int) -> None:
        self._entries = entries
        self.next_id = next_id
        self.changed: set[int] = set()
        self.latest_at = 0.0

    def find(self, path: str) -> Stream | None:
        entry = self._entries.get(path)
        return None if entry is None else entry.stream

    def producer(self, stream: Stream, producer_id: str) -> ProducerMark | None:
        return self._entries[stream.path].producers.get(producer_id)

    def create(self, path: str, settings: StreamSettings, deadline: float | None) -> Stream:
        stream = Stream(self.next_id, secrets.token_hex(6), path, settings, deadline=deadline)
        self.next_id += 1
        self._entries[path] = _Entry(stream)
        return stream

    def apply(self, stream: Stream, change: Change) -> None:
        entry = self._entries[stream.path]
        if change.data is not None:
            entry.messages.append(change.data)
            entry.stored_at.append(change.at)
            self.latest_at = max(self.latest_at, change.at)
        if change.producer is not None:
            entry.producers[change.producer.producer_id] = change.producer
        entry.stream = stream.after(change)
        if change.data is not None or change.close:
            self.changed.add(stream.id)

    def delete(self, stream: Stream) -> None:
        del self._entries[stream.path]
        self.changed.add(stream.id)

    def expired(self, now: float) -> list[Stream]:
        return [
            entry.stream
            for entry in self._entries.values()
            if entry.stream.deadline is not None and entry.stream.deadline <= now
        ]

    def count(self) -> int:
        return len(self._entries)

    def oldest(self, stream: Stream, count: int) -> list[Kept]:
        entry = self._entries[stream.path]
        return [Kept(len(data), at) for data, at in zip(entry.messages[:count], entry.stored_at, strict=False)]

    def trim(self, stream: Stream, messages: int, size: int) -> Stream:
        entry = self._entries[stream.path]
        del entry.messages[:messages]
        del entry.stored_at[:messages]
        entry.stream = replace(stream, head=stream.head + messages, size=stream.size - size)
        return entry.stream

    def overfull(self, max_bytes: int | None, before: float | None) -> list[Stream]:
        return [
            entry.stream
            for entry in self._entries.values()
            if (max_bytes is not None and entry.stream.size > max_bytes and len(entry.messages) > 1)
            or (before is not None and entry.stored_at and entry.stored_at[0] < before)
        ]

    def keep_time(self, at: float) -> None:
        self.latest_at = max(self.latest_at, at)
