"""The values of a producer's window: what it was told to be, its batches, and their flights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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


@dataclass(slots=True, eq=False)
class Batch:
    """Messages that travel together. ``epoch`` and ``seq`` count from the moment it is sealed."""

    messages: list[bytes]
    opened_at: float
    size_bytes: int = 2
    epoch: int = -1
    seq: int = -1
    closing: bool = False
    flying: bool = False
    doubtful: bool = False
    """An earlier attempt with this number may have arrived."""
    needs_turn: bool = False
    """The server lacked an earlier number: wait until everything before is confirmed."""
    attempts: int = 0
    not_before: float = 0.0
    result: IdempotentAppendResult | None = None
    error: DurableStreamError | None = None
    rest: Batch | None = None
    """The second half of a batch that was too large for the server."""

    @property
    def settled(self) -> bool:
        """Whether all of its messages are confirmed, or have failed."""
        return (self.result is not None or self.error is not None) and (self.rest is None or self.rest.settled)


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
