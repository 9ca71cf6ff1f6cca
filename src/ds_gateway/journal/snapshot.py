"""What other threads see of the journal: only what is committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.journal.book import Book


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """One stream after a commit, for people to look at."""

    number: int
    name: str
    url: str
    accepted: int
    """Records accepted since the journal was made."""
    in_journal: int
    """Accepted and not yet known to be in the stream."""
    in_stream: int
    in_flight: int
    epoch: int

    @classmethod
    def of(cls, book: Book) -> StreamSnapshot:
        """The stream as its row says it."""
        return cls(
            number=book.number,
            name=book.name,
            url=book.url,
            accepted=book.next_position - 1,
            in_journal=book.unresolved_records,
            in_stream=book.resolved_records,
            in_flight=book.sealed.count if book.sealed else 0,
            epoch=book.epoch,
        )


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """The journal after a commit, for people to look at."""

    bytes: int
    max_bytes: int
    free_bytes: int
    full: bool
    quarantined: int
    losses: Mapping[str, tuple[int, int]]
    """For each cause: entries in the loss ledger, and records that they count."""
    streams: tuple[StreamSnapshot, ...]
