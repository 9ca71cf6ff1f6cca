"""The values of a producer's window: what it was told to be, what it was given, its batches, and their flights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_streams import _checks
from durable_streams._wire import MAX_PRODUCER_INTEGER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durable_streams._producer import Attempt
    from durable_streams._types import IdempotentAppendResult
    from durable_streams._wire import Request
    from durable_streams.errors import DurableStreamError

MAX_ATTEMPTS: Final = 14
"""Attempts at one batch in a row: with the usual back-off about two minutes."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """What a producer was told to be."""

    url: str
    producer_id: str
    content_type: str
    auto_claim: bool = False
    max_batch_bytes: int = 1024 * 1024
    linger_seconds: float = 0.005
    max_in_flight: int = 5
    max_attempts: int = MAX_ATTEMPTS

    def __post_init__(self) -> None:
        if not self.producer_id:
            raise ValueError("producer_id is empty (PROTOCOL section 5.2.1)")
        _checks.header_value("producer_id", self.producer_id)
        if self.max_batch_bytes < 1:
            raise ValueError(f"max_batch_bytes is at least 1, not {self.max_batch_bytes}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight is at least 1, not {self.max_in_flight}")
        if not self.linger_seconds >= 0:  # nor NaN
            raise ValueError(f"linger_ms is at least 0, not {self.linger_seconds * 1000:g}")

    @property
    def buffer_bytes(self) -> int:
        """How much a producer takes in before it makes its callers wait."""
        return max(8 * 1024 * 1024, self.max_batch_bytes * (self.max_in_flight + 2))


def check_epoch(epoch: int) -> int:
    """Return a valid epoch; raise ValueError for any other (PROTOCOL section 5.2.1)."""
    if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch <= MAX_PRODUCER_INTEGER:
        raise ValueError(f"epoch is a whole number from 0 to {MAX_PRODUCER_INTEGER}, not {epoch!r}")
    return epoch


@dataclass(slots=True, eq=False)
class Batch:
    """Messages that travel together. ``epoch`` and ``seq`` count from the moment it is sealed.

    A closing batch closes the stream behind its messages, of which it may have none.
    """

    messages: list[bytes]
    size_bytes: int = 0
    opened_at: float | None = None
    """When it began to linger."""
    full: bool = False
    """Whether not one byte more has room."""
    announced: bool = False
    """Whether those who send were told that it began, or that it is full."""
    epoch: int = -1
    seq: int = -1
    closing: bool = False
    flying: bool = False
    doubtful: bool = False
    """An earlier attempt with this number may have arrived."""
    turned_back: bool = False
    """The server lacked an earlier number once. What goes there twice on the way is stored by its second copy."""
    needs_turn: bool = False
    """The server lacked an earlier number: wait until it has confirmed another one."""
    attempts: int = 0
    not_before: float = 0.0
    result: IdempotentAppendResult | None = None
    error: DurableStreamError | None = None
    split_at: int = 0
    """How many messages stayed here when it was halved; the others are in ``rest``."""
    rest: Batch | None = None
    """The second half of a batch that was too large for the server."""
    moved: list[tuple[Batch, int]] | None = None
    """Where its messages went, one by one, when the content type was learnt."""

    @property
    def may_be_stored(self) -> bool:
        """Whether the server may have it under its present number, although nobody has said so."""
        return self.doubtful or self.turned_back

    @property
    def settled(self) -> bool:
        """Whether all of its messages are confirmed, or have failed."""
        if self.moved is not None:
            return all(batch.settled for batch, _ in self.moved)
        part: Batch | None = self
        while part is not None and part.part_settled:
            part = part.rest
        return part is None

    @property
    def part_settled(self) -> bool:
        """As `settled`, for the messages that are still here themselves."""
        return self.result is not None or self.error is not None

    def part_with(self, index: int) -> Batch:
        """Return the batch that now has the message with this index."""
        part = self
        while True:
            if part.moved is not None:
                part, index = part.moved[index]
            elif part.rest is not None and index >= part.split_at:
                index -= part.split_at
                part = part.rest
            else:
                return part


class Taken:
    """A message that was taken from a caller: its place in a batch."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    @property
    def settled(self) -> bool:
        """Whether the message is confirmed or has failed."""
        return self._batch.part_with(self._index).part_settled

    def outcome(self) -> IdempotentAppendResult:
        """Return the confirmation of a settled message; raise why it failed."""
        part = self._batch.part_with(self._index)
        if part.error is not None:
            # The same error is raised for many, and must not gather the tracebacks of all.
            raise part.error.with_traceback(None)
        assert part.result is not None, "only a settled message has an outcome"
        return part.result


class Flush:
    """The wish that nothing lingers that was taken before; settled when all of that is."""

    def __init__(self) -> None:
        self._batches: tuple[Batch, ...] | None = None

    def wait_for(self, batches: Iterable[Batch]) -> None:
        """Be settled with these."""
        self._batches = tuple(batches)

    @property
    def settled(self) -> bool:
        """Whether everything that was taken before is settled."""
        return self._batches is not None and all(batch.settled for batch in self._batches)


@dataclass(frozen=True, slots=True)
class Flight:
    """One attempt at one batch."""

    batch: Batch
    attempt: Attempt
    request: Request
    in_turn: bool
    """Whether everything before it was confirmed when it was sent."""
    probe: bool = False
    """Sent with a number that is never reached, to learn what the server knows about this producer."""
