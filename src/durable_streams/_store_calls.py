"""A message store as both producers use it: every call returns at once, with an `Outcome`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from durable_streams._batches import check_epoch
from durable_streams._outcome import Outcome
from durable_streams._store_messages import control_body
from durable_streams._store_rows import Binding

if TYPE_CHECKING:
    from durable_streams._confirmations import Confirmations
    from durable_streams._store import Finder, ProducerState, SealedBatch
    from durable_streams._store_messages import Messages
    from durable_streams._store_rows import StoreState
    from durable_streams._store_writer import Group, StoreWriter
    from durable_streams._types import IdempotentAppendResult
    from durable_streams.errors import DurableStreamError


class StoreCalls:
    """What `ProducerStore` asks for, each with an `Outcome`, and what callers append."""

    def __init__(self, writer: StoreWriter, messages: Messages) -> None:
        self._writer = writer
        self._messages = messages
        self.confirmations: Confirmations = writer.confirmations

    # -- The file ----------------------------------------------------------------------------------

    def open(self, producer_id: str, url: str, *, epoch: int = 0) -> Outcome[None]:
        """Open the file for a producer; appends may begin at once."""
        if not producer_id:
            raise ValueError("producer_id is empty (PROTOCOL section 5.2.1)")
        return self._writer.open(Binding(producer_id, bare(url), self._messages.id_member, check_epoch(epoch)))

    def close(self) -> Outcome[None]:
        """Store what waits and has room, close the file; `join` comes after."""
        return self._writer.close()

    def join(self) -> None:
        """Wait until the file can be opened again, after `close`."""
        self._writer.join()

    def stop(self, error: DurableStreamError) -> None:
        """The producer has stopped: whoever waits for a confirmation, or for room, is told so."""
        self.confirmations.stop(error)
        self._writer.stall(stalled=True)

    def resume(self) -> None:
        """The producer goes on."""
        self.confirmations.resume()
        self._writer.stall(stalled=False)

    def hurry(self) -> None:
        """Do not let the producer wait for a full disk any longer."""
        self._writer.hurry()

    @property
    def is_open(self) -> bool:
        """Whether a producer has the file."""
        return self._writer.is_open

    def check_process(self) -> None:
        """Raise `ProducerStoreError` when another process has the file: see `forked`."""
        self._writer.check_process()

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that opened the file, and must leave it alone."""
        return self._writer.forked

    @property
    def failed(self) -> bool:
        """Whether nothing can be stored until the file is closed and opened again."""
        return self._writer.failed

    @property
    def state(self) -> StoreState | None:
        """What is committed; None before the file was opened."""
        return self._writer.state

    @property
    def pending_count(self) -> int:
        """Messages taken and not confirmed."""
        return self._writer.pending_count

    # -- Messages ----------------------------------------------------------------------------------

    def encode(self, data: Any) -> bytes:
        """Return the bytes of a message; raise `MessageError` for what the store cannot take."""
        return self._messages.encode(data)

    def size(self, message: bytes) -> int:
        """Bytes of an encoded message in the stream, at most."""
        return len(message) + self._messages.id_bytes

    def append(self, message: bytes, *, wait: bool) -> tuple[Group, int]:
        """Take an encoded message: see `StoreWriter.append`."""
        return self._writer.append(message, wait=wait)

    def confirmed(self, group: Group, index: int) -> Outcome[IdempotentAppendResult]:
        """The server's confirmation of a stored message."""
        self._writer.check_process()
        return self.confirmations.wait(group.span, group.first + index)

    def all_stored(self) -> Outcome[None]:
        """Done when everything appended so far is on the disk, or could not be stored, which is told elsewhere."""
        group = self._writer.last_group()
        if group is not None:
            return group.stored
        stored: Outcome[None] = Outcome()
        stored.set_result(None)
        return stored

    def all_confirmed(self) -> Outcome[IdempotentAppendResult]:
        """Done when everything on the disk is confirmed, or when the producer has stopped."""
        self._writer.check_process()
        state = self._writer.state
        return self.confirmations.reached(0 if state is None else state.last_position)

    # -- What `ProducerStore` asks for -------------------------------------------------------------

    def load(self) -> Outcome[ProducerState]:
        """Read the state."""
        return self._writer.call(lambda rows: rows.producer_state())

    def save_anchor(self, offset: str) -> Outcome[None]:
        """Commit the first anchor."""
        return self._writer.call(lambda rows: rows.save_anchor(offset))

    def save_epoch(self, epoch: int) -> Outcome[None]:
        """Commit a new epoch."""
        return self._writer.call(lambda rows: rows.save_epoch(epoch))

    def save_claim(self, epoch: int) -> Outcome[None]:
        """Commit that the claim was confirmed."""
        return self._writer.call(lambda rows: rows.save_claim(epoch))

    def next_batch(self, max_bytes: int) -> Outcome[SealedBatch]:
        """Seal the next batch, once there are messages. The outcome may be cancelled."""
        return self._writer.demand(max_bytes)

    def resolve(self, batch: SealedBatch, offset: str) -> Outcome[None]:
        """Commit that the batch is in the stream."""
        return self._writer.call(lambda rows: rows.resolve(batch, offset))

    def claim_body(self, epoch: int) -> bytes:
        """Return the claim of an epoch."""
        return control_body("claim", self._open_state.binding.producer_id, epoch)

    def probe_body(self) -> bytes:
        """Return a probe."""
        return control_body("probe", self._open_state.binding.producer_id, self._open_state.epoch)

    def finder(self, batch: SealedBatch) -> Finder:
        """Return a new finder for the batch."""
        state = self._open_state
        sealed = state.resolved_position if state.sealed_position is None else state.sealed_position
        return self._messages.finder(batch.body, state.lineage, sealed)

    @property
    def _open_state(self) -> StoreState:
        state = self._writer.state
        assert state is not None, "the producer has loaded the state"
        return state


def bare(url: str) -> str:
    """Return a URL without what may be a secret or changes: credentials, query, fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
