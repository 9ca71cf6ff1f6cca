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
    lost: int
    """Positions without a record of their own: loss records in the stream stand for them.

    What was accepted is in the stream, in the journal, or lost.
    """
    shedding: str
    """What is not being kept, and why; empty when everything is."""
    in_flight: int
    epoch: int
    in_flight_seq: int = 0
    """Number of the batch in flight; 0: none is."""
    sealed: int = 0
    """The last position that was ever sent."""
    confirmed: int = 0
    """All positions up to this one are known to be in the stream."""
    exported: int = 0
    """Records that were moved away, and are sent by another gateway."""
    exporting: int = 0
    """Those of them whose export did not get to its end yet: nobody sends them."""
    imported: str = ""
    """The export that its records came with; empty: they were accepted here."""
    importing: bool = False
    """Whether not all of that is here: nothing of it is sent."""

    @classmethod
    def of(cls, book: Book) -> StreamSnapshot:
        """The stream as its row says it."""
        return cls(
            number=book.number,
            name=book.title,
            url=book.url,
            accepted=book.next_position - book.begins,
            in_journal=book.unresolved_records,
            in_stream=book.resolved_records,
            lost=book.lost_positions,
            shedding=_shedding(book),
            in_flight=book.sealed.count if book.sealed else 0,
            epoch=book.epoch,
            in_flight_seq=book.sealed.seq if book.sealed else 0,
            sealed=book.high_water,
            confirmed=_confirmed(book),
            exported=book.exported_records,
            exporting=0 if book.exporting is None or book.exporting.written else book.exporting.records,
            imported=book.imported,
            importing=book.importing,
        )


def _confirmed(book: Book) -> int:
    if book.sealed is not None:
        return book.sealed.first_position - 1
    return book.open_position - 1 if book.open_records else book.next_position - 1


def _shedding(book: Book) -> str:
    refused = book.refused
    if refused is None:
        return ""
    return f"new records are not kept, {refused.count} so far: {refused.detail}"


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """The journal after a commit, for people to look at."""

    bytes: int
    max_bytes: int
    free_bytes: int
    full: bool
    """Whether sources wait because there is no room."""
    shedding: str
    """The policy by which records are lost because there is no room; empty when none are."""
    quarantined: int
    losses: Mapping[str, tuple[int, int]]
    """For each cause: entries in the loss ledger, and records that they count."""
    streams: tuple[StreamSnapshot, ...]
    why_full: str = ""
    """Why there is no room, and what to do; empty if there is."""
    set_aside: tuple[str, ...] = ()
    """Names of the damaged journals that were salvaged and are still there."""
