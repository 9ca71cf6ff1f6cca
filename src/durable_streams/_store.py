"""Where a producer keeps what must survive a restart: epoch, sequence, batch boundaries and the anchor.

A producer with a `ProducerStore` pulls sealed batches from it, one in flight at a time. The store promises
that whatever it returned is durable: a batch that was handed out has the same bytes, epoch and sequence number
after any crash, and it is handed out again until it was resolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """The body of one POST with its place in the producer's order. Never changes once it exists."""

    epoch: int
    seq: int
    body: bytes
    count: int
    """Number of messages in the body."""


@dataclass(frozen=True, slots=True)
class ProducerState:
    """What a store knows about one (server URL, stream) when a process starts."""

    producer_id: str
    epoch: int
    claimed: bool
    """Whether the server confirmed this epoch's claim with a 200 that echoed it."""
    anchor: str | None
    """Offset that lies before every unresolved batch of ours; None before the stream was first seen."""
    resolved_seq: int
    """Last sequence number of this epoch that was resolved; the claim itself is 0."""
    batch: SealedBatch | None
    """A batch sealed by an earlier process and not resolved: it may or may not have reached the server. None while
    a repair is unfinished: then everything unresolved is looked for."""
    content_type: str = "application/json"
    repairing: bool = False
    """Whether a repair was begun and not finished."""

    @property
    def sealed_seq(self) -> int:
        """Last sequence number of this epoch that was sealed."""
        return self.resolved_seq if self.batch is None else self.batch.seq


class Presence(Enum):
    """What a read-back found out about a batch."""

    ABSENT = "absent"
    PRESENT = "present"
    PARTIAL = "partial"
    """Some of its messages but not all: no server that appends a POST as a whole does that."""
    FOREIGN = "foreign"
    """Messages under our identity that this store never sealed: somebody else runs with it."""


class Finder(Protocol):
    """Looks for one batch in what a read-back returns, page by page."""

    def feed(self, page: bytes) -> None:
        """Take the body of one response (a JSON array of messages)."""
        ...  # pragma: no cover

    def verdict(self) -> Presence:
        """What was found in all pages fed so far."""
        ...  # pragma: no cover


class ProducerStore(Protocol):
    """Durable state of one producer on one stream. Every coroutine returns after the commit, not before."""

    async def load(self) -> ProducerState:
        """Return the state as it is on disk."""
        ...  # pragma: no cover

    async def save_anchor(self, offset: str) -> None:
        """Set the first anchor of a stream that this store never wrote to."""
        ...  # pragma: no cover

    async def save_epoch(self, epoch: int) -> None:
        """Begin a new epoch, not yet claimed. It is higher than every epoch before."""
        ...  # pragma: no cover

    async def save_claim(self, epoch: int) -> None:
        """Record that the server confirmed the claim of this epoch; its next sequence number is 1."""
        ...  # pragma: no cover

    async def next_batch(self, max_bytes: int) -> SealedBatch:
        """Wait until messages are due, seal them, and return them once the boundaries are durable.

        Asked again before `resolve`, it returns the same batch.
        """
        ...  # pragma: no cover

    async def resolve(self, batch: SealedBatch, offset: str) -> None:
        """Record that the batch is in the stream, and that ``offset`` lies behind it."""
        ...  # pragma: no cover

    async def drained(self) -> None:
        """Wait until every message that was written to the store is confirmed."""
        ...  # pragma: no cover

    @property
    def pending_count(self) -> int:
        """Messages in the store that are not confirmed."""
        ...  # pragma: no cover

    def claim_body(self, epoch: int) -> bytes:
        """Return a fresh body for the claim of an epoch: one harmless message, never telemetry."""
        ...  # pragma: no cover

    def probe_body(self) -> bytes:
        """Return a fresh body for a probe; a conforming server never appends it."""
        ...  # pragma: no cover

    def finder(self, batch: SealedBatch) -> Finder:
        """Return a new finder for the batch."""
        ...  # pragma: no cover


class Survey(Protocol):
    """Looks for everything of a store in what a read-back returns, page by page."""

    @property
    def anchor(self) -> str | None:
        """Offset that lies before everything the store keeps of this stream."""
        ...  # pragma: no cover

    start: str
    """Set by whoever reads: the offset where reading began."""
    expired: bool
    """Set by whoever reads: the server does not keep what lies behind the anchor any more, so that reading began
    at the oldest that there is."""

    def feed(self, page: bytes) -> None:
        """Take the body of one response (a JSON array of messages)."""
        ...  # pragma: no cover

    @property
    def foreign(self) -> bool:
        """Whether there are messages under this identity that the store never sealed."""
        ...  # pragma: no cover

    @property
    def incomplete(self) -> bool:
        """Whether the server may have gone back to before the anchor.

        Something that it had confirmed was not found, or nothing of that is kept to tell by.
        """
        ...  # pragma: no cover

    @property
    def undecided(self) -> bool:
        """Whether unresolved messages were not found where the server may have expired them."""
        ...  # pragma: no cover


class RepairStore(ProducerStore, Protocol):
    """A store that keeps what was resolved for a while, and can find out what of it is in the stream."""

    async def begin_repair(self, epoch: int) -> None:
        """Begin a new epoch, not yet claimed; what is sealed counts as in doubt from now on."""
        ...  # pragma: no cover

    async def begin_survey(self) -> Survey:
        """Return a survey of what the store has of this stream. Nothing is sealed until `save_repair`."""
        ...  # pragma: no cover

    async def save_repair(self, survey: Survey, end: str, *, adopt: bool) -> None:
        """Commit in one transaction: the epoch is claimed, what was found is resolved, the rest is open again.

        ``end`` becomes the anchor. With ``adopt`` messages that somebody else wrote under this identity stay
        theirs, and the store's own go on under ids of their own.
        """
        ...  # pragma: no cover

    async def reseal(self, max_records: int) -> SealedBatch:
        """Seal the first messages of the sealed batch under its number, the others later. It was never stored."""
        ...  # pragma: no cover

    async def set_aside(self, reason: str) -> SealedBatch:
        """Keep the sealed batch's only message aside, and return a batch that says so under its number."""
        ...  # pragma: no cover
