"""What the journal knows about one stream, and what it decides about it. Pure: no I/O, no clock.

    first kept ...... sealed ...... open ...... next
    |  resolved,       |  in         |  accepted,  |
    |  kept for repair |  flight     |  unsealed   |

Positions and segment numbers are dense; they are counted here and nowhere else. A batch is a run of whole
segments, except where a server refused a batch: then it may end within a segment, and the next begins there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ds_gateway.journal.exported import Export, plain_row, spans_of
from ds_gateway.journal.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ds_gateway.spans import Spans


@dataclass(frozen=True, slots=True)
class Run:
    """A sealed run of segments: one batch."""

    seq: int
    first_segment: int
    last_segment: int
    first_position: int
    count: int
    size: int
    """Bytes of its segment rows; those of a segment that it does not finish count with the run that does."""
    first_skip: int = 0
    """Records of the first segment that earlier batches had."""
    last_end: int | None = None
    """Where in the last segment it ends, counted in records from the segment's beginning; None: at its end."""

    @property
    def last_whole(self) -> int:
        """The last segment that is finished with this batch."""
        return self.last_segment if self.last_end is None else self.last_segment - 1

    @property
    def behind(self) -> tuple[int, int]:
        """Where it ends: the first segment that it does not finish, and how many records of that it covers."""
        return self.last_whole + 1, self.last_end or 0


@dataclass(frozen=True, slots=True)
class Portion:
    """What is to be sealed, as it was found in the open segments."""

    last_segment: int
    last_end: int | None
    first_position: int
    last_position: int
    count: int
    size: int


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
    open_skip: int = 0
    """Records of the first open segment that are sealed or resolved already."""
    open_records: int = 0
    open_size: int = 0
    sealed: Run | None = None
    kept_segment: int = 1
    kept_size: int = 0
    first_kept: int = 1
    next_kept: int = 1
    resolved_records: int = 0
    high_water: int = 0
    """The last position that was ever sealed. A record of ours beyond it was written by somebody else."""
    kept_anchor: str | None = None
    """Offset that lies before everything that is kept of this server's; None: the stream's beginning."""
    floor_kept: int = 1
    """Kept batches from here on carry offsets of this server that `kept_anchor` may move to."""
    own_segment: int = 1
    """Segments from here on were never sent to another server than this one."""
    own_position: int = 1
    """Likewise for positions."""
    open_position: int = 1
    """Everything that is open has this position or a later one."""
    repairing: bool = False
    """A higher epoch was begun, and everything is to be read back before anything is sent."""
    past: list[list[Any]] = field(default_factory=list)
    """Earlier incarnations, each with its last position: somebody else used their later ones."""
    reborn_segment: int = 0
    """Segments before this one may have ids of an earlier incarnation than they are sent with."""
    lost_positions: int = 0
    """Positions without a record of their own: a loss record at an earlier position stands for them."""
    gaps: list[list[int]] = field(default_factory=list)
    """First and last of the segment numbers that have no row, because they were shed; ascending."""
    refused: Tally | None = None
    """What came last and was not kept: its positions are given, its loss record is not written yet."""
    marks: list[list[float]] = field(default_factory=list)
    """For the ages (`ages.mark`): all segments before this number had been accepted by this time."""
    clock_boot: str = ""
    """The boot of the last record, and the base that readers of the stream know of (`clocks`)."""
    clock_base_ns: int = 0
    unsynced: list[str] = field(default_factory=list)
    """Boots with records that were stamped by a clock that was not synchronised, and have no clock record yet."""

    install: str = ""
    """What ids begin with, for what was imported; empty: this journal's."""
    imported: str = ""
    """The export that these records came with; empty: they were accepted here."""
    importing: bool = False
    """Whether more of it is to come, so that nothing is sent yet."""
    begins: int = 1
    """The first position of what was imported."""
    exporting: Export | None = None
    exported: list[list[Any]] = field(default_factory=list)
    """What was moved away: first and last position, and the export. Those positions are somebody else's."""
    exported_records: int = 0

    def to_row(self) -> dict[str, Any]:
        """As JSON."""
        return plain_row(asdict(self))

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Book:
        """From JSON."""
        sealed = row.pop("sealed")
        if "high_water" not in row:
            # Format 1 sealed and numbered without gaps; what it kept has no anchor before it.
            row["high_water"] = row["next_position"] - 1 - row["open_records"]
            row["floor_kept"], row["own_segment"] = row["next_kept"], row["open_segment"]
            row["kept_anchor"] = row["anchor"]
            row["open_position"] = row["high_water"] + 1
            if sealed is not None:
                row["own_segment"] = sealed["first_segment"]
        refused = row.pop("refused", None)
        exporting = row.pop("exporting", None)
        return cls(
            **row,
            sealed=None if sealed is None else Run(**sealed),
            exporting=None if exporting is None else Export(**exporting),
            refused=None if refused is None else Tally(**refused),
        )

    @property
    def size(self) -> int:
        """Bytes of all of the stream's segment rows."""
        moving = 0 if self.exporting is None else self.exporting.size
        return self.kept_size + self.open_size + moving + (self.sealed.size if self.sealed else 0)

    @property
    def title(self) -> str:
        """Its name among the journal's streams: what was imported for a stream is told from the stream's own."""
        return f"{self.name} [import {self.imported}]" if self.imported else self.name

    @property
    def moved(self) -> Spans:
        """Positions that were given away."""
        return spans_of(self.exported)

    @property
    def unresolved_segment(self) -> int:
        """The first segment of which something is not known to be in the stream."""
        return self.sealed.first_segment if self.sealed else self.open_segment

    @property
    def unresolved_records(self) -> int:
        """Accepted, and not yet known to be in the stream."""
        return self.open_records + (self.sealed.count if self.sealed else 0) + (self.refused is not None)

    def balance(self) -> None:
        """Count as resolved what was accepted, is not lost, and waits nowhere."""
        gone = self.lost_positions + self.exported_records
        self.resolved_records = self.next_position - self.begins - gone - self.unresolved_records

    def record_id(self, install: str, position: int) -> str:
        """Id of the record at a position: unique for ever, because an incarnation counts only once.

        ``install`` is the journal's; what was imported has its own.
        """
        install = self.install or install
        return f"{install}.{self.incarnation_at(position) if self.past else self.incarnation}.{position}"

    def accept(self, count: int, size: int) -> tuple[int, int]:
        """Take ``count`` records as one segment; return its number and its first position."""
        segment, position = self.next_segment, self.next_position
        self.next_segment += 1
        self.next_position += count
        self.open_records += count
        self.open_size += size
        return segment, position

    def numbers(self, first: int, stop: int) -> Iterator[int]:
        """The segment numbers from ``first`` to before ``stop`` that were not shed."""
        for gap_first, gap_last in self.gaps:
            yield from range(first, min(gap_first, stop))
            first = max(first, gap_last + 1)
        yield from range(first, stop)

    def after(self, number: int) -> int:
        """The segment number that follows on another."""
        return next((last + 1 for first, last in self.gaps if first == number + 1), number + 1)

    def shed(self, dropped: int, size: int, first: int, following: int) -> None:
        """One loss record, in segment ``first``, stands for the first open records; ``size`` bytes became free.

        The segments from there to before ``following`` are gone.
        """
        self.open_records -= dropped - 1
        self.open_size -= size
        self.lost_positions += dropped - 1
        if first + 1 < following:
            self.gaps = [gap for gap in self.gaps if gap[1] <= first or gap[0] >= following]
            self.gaps = sorted([*self.gaps, [first + 1, following - 1]])

    def refuse(self, cause: str, device: str, time_ns: int, detail: str) -> bool:
        """Count a record and give it a position, but do not keep it; return whether that begins a new loss."""
        position = self.next_position
        self.next_position += 1
        begins = self.refused is None
        if self.refused is None:
            self.refused = Tally(cause, position, position, detail=detail)
        else:
            self.lost_positions += 1
        self.refused.add(device, position, time_ns)
        return begins

    def write_refused(self, size: int) -> int:
        """The loss record of what was refused becomes a segment; return its number."""
        assert self.refused is not None
        self.refused = None
        number = self.next_segment
        self.next_segment += 1
        self.open_records += 1
        self.open_size += size
        return number

    def seal(self, portion: Portion) -> Run:
        """Seal the oldest open records."""
        assert self.sealed is None, "one batch in flight"
        assert self.open_segment <= portion.last_segment < self.next_segment
        run = Run(
            seq=self.resolved_seq + 1,
            first_segment=self.open_segment,
            last_segment=portion.last_segment,
            first_position=portion.first_position,
            count=portion.count,
            size=portion.size,
            first_skip=self.open_skip,
            last_end=portion.last_end,
        )
        self.open_segment = self.after(run.last_whole) if portion.last_end is None else portion.last_segment
        self.open_skip = portion.last_end or 0
        self.open_records -= run.count
        self.open_size -= run.size
        if self.open_segment >= self.next_segment:
            # A row that was damaged does not tell how long it was.
            self.open_size = 0
        self.high_water = max(self.high_water, portion.last_position)
        self.open_position = portion.last_position + 1
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

    def drop_kept(self, last_segment: int, size: int, offset: str) -> None:
        """Forget the oldest kept batch, which ended with this segment and before this offset."""
        if self.first_kept >= self.floor_kept:
            self.kept_anchor = offset
        self.kept_segment = self.after(last_segment)
        self.gaps = [gap for gap in self.gaps if gap[1] >= self.kept_segment]
        self.kept_size -= size

        self._forget_kept(1)

    def drop_unnamed(self, batches: int, first_segment: int, size: int) -> None:
        """Forget the oldest kept batches, whatever they were: what is kept begins with this segment."""
        self.kept_segment = first_segment
        self.gaps = [gap for gap in self.gaps if gap[1] >= self.kept_segment]
        self.kept_size = max(self.kept_size - size, 0)
        self._forget_kept(batches)

    def _forget_kept(self, batches: int) -> None:
        self.first_kept += batches
        if self.first_kept == self.next_kept:
            # A segment's row that was damaged does not tell how long it was.
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

    def begin_repair(self, epoch: int) -> None:
        """Begin an epoch under which everything is read back. What is sealed counts as in doubt."""
        assert epoch > self.epoch
        self.epoch = epoch
        self.claimed = False
        self.repairing = True

    def finish_repair(self, first_open: int, open_skip: int, anchor: str, open_position: int) -> None:
        """Everything before this segment, and so many records of it, is in the stream; the rest is to be sent."""
        if self.sealed is not None:
            # Its rows are among the open ones now, or kept; their sizes were counted by whoever moved them.
            self.sealed = None
        self.open_segment, self.open_skip = first_open, open_skip
        self.open_position = open_position
        self.anchor = anchor
        self.claimed = True
        self.repairing = False
        self.resolved_seq = 0

    def begin_incarnation(self, incarnation: str, last_position: int) -> None:
        """Go on counting under another name behind this position: somebody else uses ours."""
        self.past.append([self.incarnation, last_position])
        self.incarnation = incarnation
        self.own_segment = self.open_segment
        self.reborn_segment = self.next_segment

    def incarnation_at(self, position: int) -> str:
        """The incarnation that a position belongs to."""
        return next((str(name) for name, last in self.past if position <= last), self.incarnation)

    def resize(self, bytes_more: int, *, whole: bool) -> None:
        """A row of the sealed batch has another size. ``whole``: it counts with the batch, else as open."""
        assert self.sealed is not None
        if whole:
            self.sealed = replace(self.sealed, size=self.sealed.size + bytes_more)
        else:
            self.open_size += bytes_more

    def unseal(self) -> None:
        """Give the sealed batch's number up: its records are the first of the open ones again.

        Only for a server that nobody will ask any more. There the batch may have arrived.
        """
        run = self.sealed
        if run is None:
            return
        self.sealed = None
        self.open_segment = run.first_segment
        self.open_skip = run.first_skip
        self.open_position = run.first_position
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
        self.kept_anchor = None
        self.repairing = False
        self.floor_kept = self.next_kept
        self.own_segment, self.own_position = self.open_segment, self.open_position
        self.resolved_seq = 0
        return True
