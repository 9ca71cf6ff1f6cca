"""What an uplink asks of the writer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from durable_streams import SealedBatch


@dataclass(frozen=True, slots=True)
class Change:
    """A change to one stream's state that its uplink waits for."""

    stream: int
    apply: Callable[[Book, Plan], None]
    done: Future[None]


@dataclass(frozen=True, slots=True)
class Task:
    """A change that is not of one stream."""

    apply: Callable[[Plan], None]
    done: Future[None]


@dataclass(frozen=True, slots=True)
class Resolution:
    """A batch is in its stream, before this offset."""

    stream: int
    seq: int
    offset: str


@dataclass(frozen=True, slots=True)
class Demand:
    """An uplink waits for its next batch."""

    stream: int
    max_bytes: int
    batch: Future[SealedBatch]
