"""What the journal knows about one stream, and what it decides about it. Pure: no I/O, no clock.

    first kept ...... sealed ...... open ...... next
    |  resolved,       |  in         |  accepted,  |
    |  kept for repair |  flight     |  unsealed   |

Positions and segment numbers are dense; they are counted here and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """A sealed run of whole segments: one batch."""

    seq: int
    first_segment: int
    last_segment: int
    first_position: int
    count: int
    size: int
    """Bytes of its segment rows."""


@dataclass(slots=True)
class Book:
    """One stream. Changed by the writer only, and written as a row in the transaction that changes it."""

    number: int
    name: str
    url: str
    """Base URL of the server that the producer's state belongs to."""
    producer_id: str
    incarnation: str
    epoch: int = 0
    claimed: bool = False
    anchor: str | None = None
    resolved_seq: int = 0
    next_position: int = 1
    next_segment: int = 1
    open_segment: int = 1
    open_records: int = 0
    open_size: int = 0
    sealed: Run | None = None
    kept_segment: int = 1
    kept_size: int = 0
    first_kept: int = 1
    next_kept: int = 1
    resolved_records: int = 0

    def to_row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Book:
        """From JSON."""
        sealed = row.pop("sealed")
        return cls(**row, sealed=None if sealed is None else Run(**sealed))

    @property
    def size(self) -> int:
        """Bytes of all of the stream's segment rows."""
        return self.kept_size + self.open_size + (self.sealed.size if self.sealed else 0)

    @property
    def unresolved_records(self) -> int:
        """Accepted, and not yet known to be in the stream."""
        return self.open_records + (self.sealed.count if self.sealed else 0)

    @property
    def high_water(self) -> int:
        """The last position that was ever sealed."""
        return self.next_position - 1 - self.open_records

    def record_id(self, install: str, position: int) -> str:
        """Id of the record at a position: unique for ever, because an incarnation counts only once."""
        return f"{install}.{self.incarnation}.{position}"

    def accept(self, count: int, size: int) -> tuple[int, int]:
        """Take ``count`` records as one segment; return its number and its first position."""
        segment, position = self.next_segment, self.next_position
        self.next_segment += 1
        self.next_position += count
        self.open_records += count
        self.open_size += size
        return segment, position

    def seal(self, last_segment: int, count: int, size: int) -> Run:
        """Seal the oldest open segments up to and including ``last_segment``."""
        assert self.sealed is None, "one batch in flight"
        assert self.open_segment <= last_segment < self.next_segment
        run = Run(
            seq=self.resolved_seq + 1,
            first_segment=self.open_segment,
            last_segment=last_segment,
            first_position=self.high_water + 1,
            count=count,
            size=size,
        )
        self.open_segment = last_segment + 1
        self.open_records -= count
        self.open_size -= size
        self.sealed = run
        return run

    def resolve(self, offset: str) -> tuple[int, Run]:
        """The sealed batch is in the stream before ``offset``; return the number and run of the kept batch."""
        assert self.sealed is not None, "only a sealed batch is resolved"
        run, number = self.sealed, self.next_kept
        self.anchor = offset
        self.resolved_seq = run.seq
        self.resolved_records += run.count
        self.sealed = None
        self.next_kept += 1
        self.kept_size += run.size
        return number, run

    def drop_kept(self, last_segment: int, size: int) -> None:
        """Forget the oldest kept batch."""
        self.kept_segment = last_segment + 1
        self.kept_size -= size
        self.skip_kept()

    def skip_kept(self) -> None:
        """Forget the oldest kept batch, whatever it was."""
        self.first_kept += 1
        if self.first_kept == self.next_kept:
            self.kept_size = 0

    def begin_epoch(self, epoch: int) -> None:
        """Start counting sequence numbers anew; the claim is still to be confirmed."""
        assert epoch > self.epoch
        assert self.sealed is None, "a sealed batch belongs to its epoch"
        self.epoch = epoch
        self.claimed = False
        self.resolved_seq = 0

    def confirm_claim(self, epoch: int) -> None:
        """The server echoed the claim: the next batch has sequence number 1."""
        assert epoch == self.epoch
        self.claimed = True
        self.resolved_seq = 0

    def unseal(self) -> None:
        """Give the sealed batch's number up: its records are the first of the open ones again.

        Only for a server that nobody will ask any more. There the batch may have arrived.
        """
        run = self.sealed
        if run is None:
            return
        self.sealed = None
        self.open_segment = run.first_segment
        self.open_records += run.count
        self.open_size += run.size

    def move_to(self, url: str) -> bool:
        """Start over at another server; False while a batch is unresolved at the old one."""
        if self.sealed is not None:
            return False
        self.url = url
        self.epoch += 1
        self.claimed = False
        self.anchor = None
        self.resolved_seq = 0
        return True
