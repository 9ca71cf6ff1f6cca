"""What a message store keeps, and the changes to it: each is made inside a transaction of `StoreFile`.

Messages have positions: 1, 2, 3 ... in the order in which they were stored, never used again. Everything up to
``resolved_position`` is in the stream, and gone from the file. A sealed batch is the run behind it, up to
``sealed_position``; while it is not resolved, nothing in it changes.
"""

from __future__ import annotations

import secrets
import string
import zlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from durable_streams._store import ProducerState, SealedBatch
from durable_streams._store_file import damaged
from durable_streams._store_messages import LINEAGE_LETTERS
from durable_streams._wire import MAX_PRODUCER_INTEGER, json_batch
from durable_streams.errors import ProducerStoreError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from durable_streams._store_file import StoreFile
    from durable_streams._store_messages import Messages

MESSAGE_OVERHEAD_BYTES: Final = 32
"""What a message takes in the file beside its bytes, about."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose store this is: one producer's, on one stream."""

    producer_id: str
    url: str
    """Without query: that may be a signature of the day."""
    id_member: str | None
    first_epoch: int
    """The epoch of a store that begins with this."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """The one row of ``producer``, and what the messages come to."""

    binding: Binding
    lineage: str
    epoch: int
    claimed: bool
    anchor: str | None
    resolved_seq: int
    resolved_position: int
    sealed_position: int | None
    sealed_crc: int
    last_position: int
    pending_bytes: int
    """Size of all messages that are not resolved, with their overhead."""

    @property
    def pending_count(self) -> int:
        """Messages that are not resolved."""
        return self.last_position - self.resolved_position

    @property
    def sealed_seq(self) -> int:
        """The last sequence number of this epoch that was sealed."""
        return self.resolved_seq + (0 if self.sealed_position is None else 1)


class StoreRows:
    """The rows of an open file. ``state`` is what is committed, or is being committed."""

    def __init__(self, file: StoreFile, messages: Messages, binding: Binding | None) -> None:
        """Load the rows of ``binding``, or of whomever they belong to; begin them if there are none."""
        self._file = file
        self._execute = file.connection.execute
        self._messages = messages
        self._batch: SealedBatch | None = None
        with file.transaction():
            self.state = self._load(binding) or self._begin(self._wanted(binding))
            if self.state.sealed_position is not None:
                self._batch = self._read_batch(self.state.sealed_position, self.state.sealed_crc)

    def restore(self, state: StoreState, batch: SealedBatch | None) -> None:
        """Go back to what was so before a transaction that failed."""
        self.state, self._batch = state, batch

    @property
    def batch(self) -> SealedBatch | None:
        """The sealed batch, if there is one."""
        return self._batch

    def producer_state(self) -> ProducerState:
        """What the producer must know when it starts."""
        state = self.state
        return ProducerState(
            producer_id=state.binding.producer_id,
            epoch=state.epoch,
            claimed=state.claimed,
            anchor=state.anchor,
            resolved_seq=state.resolved_seq,
            batch=self._batch,
        )

    def append(self, messages: Iterable[bytes]) -> int:
        """Store messages; return the position of the last one."""
        state = self.state
        position, size = state.last_position, 0
        rows = []
        for message in messages:
            position += 1
            data = self._messages.element(state.lineage, position, message)
            rows.append((position, data, zlib.crc32(data)))
            size += stored_size(data)
        self._file.connection.executemany("INSERT INTO messages (position, data, crc) VALUES (?, ?, ?)", rows)
        self._execute("UPDATE producer SET last_position = ?", (position,))
        self.state = replace(state, last_position=position, pending_bytes=state.pending_bytes + size)
        return position

    def seal(self, max_bytes: int) -> SealedBatch | None:
        """Return the sealed batch; seal one of at most ``max_bytes`` if there is none; None without messages.

        A message that is larger is sealed alone: nothing behind it could ever be sent otherwise.
        """
        if self._batch is not None or not self.state.pending_count:
            return self._batch
        state = self.state
        elements: list[bytes] = []
        size = 1  # the brackets, with the comma that the last message does not need
        with closing(self._read(state.resolved_position, state.last_position)) as stored:
            for data in stored:
                size += len(data) + 1
                if elements and size > max_bytes:
                    break
                elements.append(data)
        body = json_batch(elements)
        position, crc = state.resolved_position + len(elements), zlib.crc32(body)
        self._execute("UPDATE producer SET sealed_position = ?, sealed_crc = ?", (position, crc))
        self._batch = SealedBatch(state.epoch, state.resolved_seq + 1, body, len(elements))
        self.state = replace(state, sealed_position=position, sealed_crc=crc)
        return self._batch

    def resolve(self, batch: SealedBatch, offset: str) -> None:
        """Take it that the batch is in the stream, before ``offset``: its messages go in the same transaction."""
        state = self.state
        if state.sealed_position is None or (batch.epoch, batch.seq) != (state.epoch, state.sealed_seq):
            raise ProducerStoreError(
                f"batch {batch.seq} of epoch {batch.epoch} is not the sealed one: batch {state.sealed_seq} of "
                f"epoch {state.epoch} is the last that {self._file.path} sealed"
            )
        self._execute(
            "UPDATE producer SET anchor = ?, resolved_seq = ?, resolved_position = sealed_position, "
            "sealed_position = NULL, sealed_crc = NULL",
            (offset, batch.seq),
        )
        self._execute("DELETE FROM messages WHERE position <= ?", (state.sealed_position,))
        # The body is the messages with a comma or a bracket for each, and one bracket more.
        size = len(batch.body) - batch.count - 1 + batch.count * MESSAGE_OVERHEAD_BYTES
        self._batch = None
        self.state = replace(
            state,
            anchor=offset,
            resolved_seq=batch.seq,
            resolved_position=state.sealed_position,
            sealed_position=None,
            sealed_crc=0,
            pending_bytes=state.pending_bytes - size,
        )

    def save_anchor(self, offset: str) -> None:
        """Set the first anchor."""
        self._execute("UPDATE producer SET anchor = ?", (offset,))
        self.state = replace(self.state, anchor=offset)

    def save_epoch(self, epoch: int) -> None:
        """Begin a new epoch, not yet claimed. A sealed batch belongs to its epoch, and must be resolved before."""
        if self._batch is not None:
            raise ProducerStoreError(f"batch {self._batch.seq} in {self._file.path} is sealed and not resolved")
        self._begin_epoch(epoch)

    def save_claim(self, epoch: int) -> None:
        """Take it that the server confirmed the epoch."""
        if epoch != self.state.epoch:
            raise ProducerStoreError(f"{self._file.path} is in epoch {self.state.epoch}, not in {epoch}")
        self._execute("UPDATE producer SET claimed = 1, resolved_seq = 0")
        self.state = replace(self.state, claimed=True, resolved_seq=0)

    def begin_again(self, url: str | None, epoch: int | None) -> None:
        """Forget everything about the server, and keep the messages: see `SqliteProducerStore.begin_again`."""
        url = url or self.state.binding.url
        self._begin_epoch(self.state.epoch + 1 if epoch is None else epoch)
        lineage = _new_lineage()
        self._execute("UPDATE producer SET url = ?, lineage = ?, anchor = NULL", (url, lineage))
        binding = replace(self.state.binding, url=url)
        self.state = replace(self.state, binding=binding, lineage=lineage, anchor=None)

    def _begin_epoch(self, epoch: int) -> None:
        if epoch > MAX_PRODUCER_INTEGER:
            raise ProducerStoreError(
                f"epoch {self.state.epoch}, in {self._file.path}, is the last one that a server takes (PROTOCOL "
                "section 5.2.1): begin a new file, with another producer id"
            )
        if epoch <= self.state.epoch:
            raise ProducerStoreError(f"epoch {epoch} is not higher than {self.state.epoch}, in {self._file.path}")
        self._execute(
            "UPDATE producer SET epoch = ?, claimed = 0, resolved_seq = 0, "
            "sealed_position = NULL, sealed_crc = NULL",
            (epoch,),
        )
        self._batch = None
        self.state = replace(
            self.state, epoch=epoch, claimed=False, resolved_seq=0, sealed_position=None, sealed_crc=0
        )

    def _wanted(self, binding: Binding | None) -> Binding:
        if binding is None:
            raise ProducerStoreError(f"{self._file.path} is empty: no producer ever used it")
        return binding

    def _begin(self, binding: Binding) -> StoreState:
        lineage = _new_lineage()
        self._execute(
            "INSERT INTO producer (one, producer_id, url, id_member, lineage, epoch, claimed, resolved_seq, "
            "resolved_position, last_position) VALUES (1, ?, ?, ?, ?, ?, 0, 0, 0, 0)",
            (binding.producer_id, binding.url, binding.id_member, lineage, binding.first_epoch),
        )
        return StoreState(
            binding=binding,
            lineage=lineage,
            epoch=binding.first_epoch,
            claimed=False,
            anchor=None,
            resolved_seq=0,
            resolved_position=0,
            sealed_position=None,
            sealed_crc=0,
            last_position=0,
            pending_bytes=0,
        )

    def _load(self, wanted: Binding | None) -> StoreState | None:
        row = self._execute(
            "SELECT producer_id, url, id_member, lineage, epoch, claimed, anchor, resolved_seq, "
            "resolved_position, sealed_position, sealed_crc, last_position FROM producer"
        ).fetchone()
        if row is None:
            return None
        producer_id, url, id_member, lineage, epoch, claimed, anchor, *numbers = row
        found = Binding(producer_id, url, id_member, first_epoch=epoch)
        if wanted is not None:
            _compare(found, wanted, self._file)
        resolved_seq, resolved_position, sealed_position, sealed_crc, last_position = numbers
        count, size = self._execute("SELECT count(*), total(length(data)) FROM messages").fetchone()
        if count != last_position - resolved_position:
            raise damaged(self._file.path, f"it has {count} messages, not {last_position - resolved_position}")
        return StoreState(
            binding=found,
            lineage=lineage,
            epoch=epoch,
            claimed=bool(claimed),
            anchor=anchor,
            resolved_seq=resolved_seq,
            resolved_position=resolved_position,
            sealed_position=sealed_position,
            sealed_crc=sealed_crc or 0,
            last_position=last_position,
            pending_bytes=int(size) + count * MESSAGE_OVERHEAD_BYTES,
        )

    def _read_batch(self, sealed_position: int, sealed_crc: int) -> SealedBatch:
        state = self.state
        elements = list(self._read(state.resolved_position, sealed_position))
        body = json_batch(elements)
        if zlib.crc32(body) != sealed_crc:
            raise damaged(self._file.path, f"batch {state.sealed_seq} is not what was sealed")
        return SealedBatch(state.epoch, state.sealed_seq, body, len(elements))

    def _read(self, after: int, to: int) -> Generator[bytes]:
        expected = after
        for position, data, crc in self._execute(
            "SELECT position, data, crc FROM messages WHERE position > ? AND position <= ? ORDER BY position",
            (after, to),
        ):
            expected += 1
            if position != expected or not isinstance(data, bytes) or zlib.crc32(data) != crc:
                raise damaged(self._file.path, f"message {expected} is not what was stored")
            yield data


def stored_size(data: bytes) -> int:
    """What a message counts."""
    return len(data) + MESSAGE_OVERHEAD_BYTES


def _new_lineage() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(LINEAGE_LETTERS))


def _compare(found: Binding, wanted: Binding, file: StoreFile) -> None:
    if found.producer_id != wanted.producer_id:
        raise ProducerStoreError(
            f"{file.path} is the store of producer {found.producer_id!r}, not of {wanted.producer_id!r}: use its "
            "own id, or a file of its own for each producer"
        )
    if found.url != wanted.url:
        raise ProducerStoreError(
            f"{file.path} holds messages for {found.url}, not for {wanted.url}: use a file of its own for each "
            "stream. If the stream has moved, or its server is gone for good, `begin_again` says so to the store"
        )
    if found.id_member != wanted.id_member:
        raise ProducerStoreError(
            f"{file.path} was begun with id_member={found.id_member!r}, not {wanted.id_member!r}: keep it, or "
            "begin a new file"
        )
