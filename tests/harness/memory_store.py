"""A producer's store in memory: what `ProducerStore` promises, in the fewest words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import orjson

from durable_streams import Presence, ProducerState, SealedBatch

FRESH = ProducerState("p", 0, claimed=False, anchor=None, resolved_seq=0, batch=None)


@dataclass
class MemoryDisk:
    """What survives a restart."""

    state: ProducerState = FRESH
    messages: list[int] = field(default_factory=list)


class MemoryStore:
    """Holds numbers; used on one event loop."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self._changed = anyio.Event()

    async def append(self, number: int) -> None:
        """Store a number."""
        self.disk.messages.append(number)
        self._change()

    async def load(self) -> ProducerState:
        """See `ProducerStore`."""
        return self.disk.state

    async def save_anchor(self, offset: str) -> None:
        """See `ProducerStore`."""
        self.disk.state = replace(self.disk.state, anchor=offset)

    async def save_epoch(self, epoch: int) -> None:
        """See `ProducerStore`."""
        self.disk.state = replace(self.disk.state, epoch=epoch, claimed=False, resolved_seq=0, batch=None)

    async def save_claim(self, epoch: int) -> None:
        """See `ProducerStore`."""
        assert epoch == self.disk.state.epoch
        self.disk.state = replace(self.disk.state, claimed=True, resolved_seq=0)

    async def next_batch(self, max_bytes: int) -> SealedBatch:
        """See `ProducerStore`."""
        state = self.disk.state
        if state.batch is not None:
            return state.batch
        while not self.disk.messages:
            await self._changed.wait()
        count = 1
        while count < len(self.disk.messages) and len(self._body(count + 1)) <= max_bytes:
            count += 1
        batch = SealedBatch(state.epoch, state.resolved_seq + 1, self._body(count), count)
        self.disk.state = replace(state, batch=batch)
        return batch

    async def resolve(self, batch: SealedBatch, offset: str) -> None:
        """See `ProducerStore`."""
        assert batch == self.disk.state.batch
        del self.disk.messages[: batch.count]
        self.disk.state = replace(self.disk.state, anchor=offset, resolved_seq=batch.seq, batch=None)
        self._change()

    async def drained(self) -> None:
        """See `ProducerStore`."""
        while self.disk.messages:
            await self._changed.wait()

    @property
    def pending_count(self) -> int:
        """See `ProducerStore`."""
        return len(self.disk.messages)

    def claim_body(self, epoch: int) -> bytes:
        """See `ProducerStore`."""
        return b'[{"claim":%d}]' % epoch

    def probe_body(self) -> bytes:
        """See `ProducerStore`."""
        return b'[{"probe":true}]'

    def finder(self, batch: SealedBatch) -> NumberFinder:
        """See `ProducerStore`."""
        return NumberFinder(orjson.loads(batch.body))

    def _body(self, count: int) -> bytes:
        return orjson.dumps([{"n": number} for number in self.disk.messages[:count]])

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class NumberFinder:
    """Looks for numbers, each of which was stored once."""

    def __init__(self, wanted: list[Any]) -> None:
        self._wanted = wanted
        self._found = 0

    def feed(self, page: bytes) -> None:
        """See `Finder`."""
        messages = orjson.loads(page)
        if not isinstance(messages, list):
            raise ValueError("not an array")  # noqa: TRY004 - the value is wrong, whatever its type
        self._found += sum(message in self._wanted for message in messages)

    def verdict(self) -> Presence:
        """See `Finder`."""
        if self._found == 0:
            return Presence.ABSENT
        return Presence.PRESENT if self._found == len(self._wanted) else Presence.PARTIAL
