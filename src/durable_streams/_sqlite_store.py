"""`SqliteProducerStore`: the store for everybody, one SQLite file for one producer on one stream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durable_streams import _crossing
from durable_streams._batches import check_epoch
from durable_streams._store_calls import StoreCalls, bare
from durable_streams._store_file import StoreFile
from durable_streams._store_messages import Messages
from durable_streams._store_rows import StoreRows
from durable_streams._store_writer import StoreWriter
from durable_streams.errors import ProducerStoreError

if TYPE_CHECKING:
    from durable_streams._store import Finder, ProducerState, SealedBatch

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
_LEAST_MAX_BYTES: Final = 4096


class SqliteProducerStore:
    """A `ProducerStore` in one SQLite file: what was appended survives the process, and a power cut.

    Give it to `IdempotentProducer` or `SyncIdempotentProducer`, which open and close it::

        store = SqliteProducerStore("outbox.db")
        async with IdempotentProducer(url, "line-7", store=store) as producer:
            await producer.append({"temperature": 21.5})    # on the disk; sent soon, or by the next process

    A file belongs to one producer id and one stream, and is open in one process at a time. It takes JSON streams
    only: what was sent is recognised when it is read back, message by message, and bytes without boundaries cannot
    be. ``max_bytes`` bounds the messages that wait for the server; the file stays a little larger than the most
    that ever waited.

    The producer begins with a message of its own, its claim; `is_control_message` recognises it.

    ``id_member`` gives every message, which must be an object then, a member of that name: an id that nobody else
    has. Without it a batch is recognised by its values, so there is one thing that the store cannot tell: if the
    answer to a batch was lost, the batch did not arrive, and *another* writer put the same messages in the same
    order into the stream at that moment, theirs are taken for ours. Streams with one writer, and messages with a
    time or an id in them, do not have this case.

    Opening raises `ProducerStoreLockedError` while another producer has the file, `ProducerStoreDamagedError` for
    a file that is damaged or no store, and `ProducerStoreError` for one that cannot be used or belongs to another
    producer or stream.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES, id_member: str | None = None
    ) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < _LEAST_MAX_BYTES:
            raise ValueError(f"max_bytes is a whole number, at least {_LEAST_MAX_BYTES}, not {max_bytes!r}")
        self.path: Final = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        self._messages = Messages(id_member)
        self.calls: Final = StoreCalls(StoreWriter(self.path, self._messages, max_bytes=max_bytes), self._messages)
        """The same for the producers: every call returns an `Outcome`."""

    async def open(self, producer_id: str, url: str, *, epoch: int = 0) -> None:
        """Open the file, create it if it is not there. ``epoch`` is the first of a new file.

        A producer does this by itself.
        """
        await _crossing.outcome_of(self.calls.open(producer_id, url, epoch=epoch))

    async def aclose(self) -> None:
        """Close the file; what waits to be stored, and has room, is stored before."""
        await _crossing.outcome_of(self.calls.close())
        self.calls.join()

    async def append(self, message: Any) -> None:
        """Store one message: a JSON value, or JSON text as ``str`` or ``bytes``. Durable on return.

        Waits for room. Raises `MessageError` for what is not JSON, `ProducerFullError` when the disk is full.
        """
        group, _ = self.calls.append(self.calls.encode(message), wait=True)
        await _crossing.outcome_of(group.stored)

    def begin_again(self, url: str | None = None, *, epoch: int | None = None) -> None:
        """Forget everything about the server, and keep the messages. Only while no producer has the store open.

        For a stream that has moved to another ``url``, a server that lost the stream, or an epoch that somebody
        else has claimed: the next producer begins a new ``epoch``, by default the next one. If the answer to one
        last batch was lost, and that batch is in the stream that the producer will write to, then its messages
        will be there twice: nothing can be known about it here. It is an operator's decision, never the
        producer's.
        """
        if self.calls.is_open:
            raise ProducerStoreError(f"a producer has {self.path} open: close it before")
        if not self.path.exists():
            raise ProducerStoreError(f"there is no store {self.path}")
        file = StoreFile(self.path)
        try:
            rows = StoreRows(file, self._messages, None)
            with file.transaction():
                rows.begin_again(None if url is None else bare(url), None if epoch is None else check_epoch(epoch))
        finally:
            file.close()

    # -- ProducerStore -----------------------------------------------------------------------------

    async def load(self) -> ProducerState:
        """Return the state as it is on disk."""
        return await _crossing.outcome_of(self.calls.load())

    async def save_anchor(self, offset: str) -> None:
        """Set the first anchor of a stream that this store never wrote to."""
        await _crossing.outcome_of(self.calls.save_anchor(offset))

    async def save_epoch(self, epoch: int) -> None:
        """Begin a new epoch, not yet claimed. It is higher than every epoch before."""
        await _crossing.outcome_of(self.calls.save_epoch(epoch))

    async def save_claim(self, epoch: int) -> None:
        """Record that the server confirmed the claim of this epoch."""
        await _crossing.outcome_of(self.calls.save_claim(epoch))

    async def next_batch(self, max_bytes: int) -> SealedBatch:
        """Wait until there are messages, seal them, and return them once the boundaries are durable."""
        return await _crossing.outcome_of(self.calls.next_batch(max_bytes))

    async def resolve(self, batch: SealedBatch, offset: str) -> None:
        """Record that the batch is in the stream; its messages leave the file in the same transaction."""
        await _crossing.outcome_of(self.calls.resolve(batch, offset))

    async def drained(self) -> None:
        """Wait until every message that was appended so far is confirmed."""
        await _crossing.said(self.calls.all_stored())
        await _crossing.outcome_of(self.calls.all_confirmed())

    @property
    def pending_count(self) -> int:
        """Messages appended and not confirmed; 0 before the file was opened."""
        return self.calls.pending_count

    def claim_body(self, epoch: int) -> bytes:
        """Return the claim of an epoch; `is_control_message` recognises it."""
        return self.calls.claim_body(epoch)

    def probe_body(self) -> bytes:
        """Return a probe."""
        return self.calls.probe_body()

    def finder(self, batch: SealedBatch) -> Finder:
        """Return a new finder for the batch."""
        return self.calls.finder(batch)
