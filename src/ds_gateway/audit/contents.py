"""What a stream contains: each journal's positions, once or more, in order or not. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.journal.contents import digest as digest_of
from ds_gateway.journal.reading import named_loss
from ds_gateway.records import control_info
from ds_gateway.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.journal.reading import NamedLoss

MAX_JOURNALS: Final = 100
"""Other journals' records that are counted apart; those of more are counted as other writers'."""
MAX_PAIRS: Final = 10
MAX_COMPARED: Final = 10_000
"""Positions that are there twice whose contents are compared."""
_PREFIX_LENGTH: Final = 15
_MAX_DIGITS: Final = 18


@dataclass(slots=True)
class Tally:
    """The positions of one journal's incarnation in a stream."""

    seen: Spans = field(default_factory=Spans)
    """Positions with a record."""
    twice: Spans = field(default_factory=Spans)
    copies: int = 0
    """Records that are there once more than they should be."""
    named: Spans = field(default_factory=Spans)
    """Positions that loss records stand for."""
    doubtful: Spans = field(default_factory=Spans)
    """Those of them that may have arrived: nobody can know."""
    causes: dict[str, Spans] = field(default_factory=dict)
    late: list[tuple[int, NamedLoss]] = field(default_factory=list)
    """Records with a position of their own that stand for earlier ones: what a server lost, told by a repair."""
    out_of_order: int = 0
    pairs: list[tuple[int, int]] = field(default_factory=list)
    """A position, and a lower one that stands behind it; the first few."""
    after_first_birth: bool = False
    """Whether the birth record of a producer's first epoch stands before the first of these records."""
    moved: Spans = field(default_factory=Spans)
    """Positions that were exported: they come when somebody has imported them, behind later ones or before."""
    _heads: Spans = field(default_factory=Spans)
    _highest: int = 0

    def add(self, position: int) -> None:
        """Take a record, in the order of the stream."""
        if position <= self.seen.last and position in self.seen:
            self.twice.add(position)
            self.copies += 1
            return
        self.seen.add(position)
        if position in self.moved:
            return
        if position < self._highest:
            self.out_of_order += 1
            if len(self.pairs) < MAX_PAIRS:
                self.pairs.append((self._highest, position))
        self._highest = max(self._highest, position)

    def add_loss(self, loss: NamedLoss) -> None:
        """Take a record that stands for positions without records. It may come late, after a repair."""
        first = loss.span[0]
        if first in self._heads:
            self.twice.add(first)
            self.copies += 1
            return
        self._heads.add(first)
        self._name(loss)

    def add_late_loss(self, position: int, loss: NamedLoss) -> None:
        """Take a record that is a position itself, and stands for earlier ones, of an earlier incarnation even."""
        self.late.append((position, loss))
        self.add(position)

    def name_late_losses(self) -> None:
        """Name what the late records stand for, when all incarnations are joined."""
        for _, loss in self.late:
            self._name(loss)

    def _name(self, loss: NamedLoss) -> None:
        first, last = loss.span
        self.named.add(first, last)
        self.causes.setdefault(loss.cause, Spans()).add(first, last)
        if not loss.certain:
            self.doubtful.add(first, last)

    def part(self, first: int, last: int) -> Tally:
        """The same for the positions of a range only; what is out of order is counted all the same."""
        within = Spans([(first, last)] if first <= last else [])
        return replace(
            self,
            seen=self.seen & within,
            twice=self.twice & within,
            named=self.named & within,
            doubtful=self.doubtful & within,
            causes={cause: spans & within for cause, spans in self.causes.items() if spans & within},
            late=[(position, loss) for position, loss in self.late if position in within],
        )

    def join(self, other: Tally) -> None:
        """Take what another incarnation of the same journal counted on."""
        self.seen |= other.seen
        self.twice |= other.twice
        self.copies += other.copies
        self.named |= other.named
        self.doubtful |= other.doubtful
        for cause, spans in other.causes.items():
            self.causes[cause] = self.causes.get(cause, Spans()) | spans
        self.late += other.late
        self.out_of_order += other.out_of_order
        self.pairs = [*self.pairs, *other.pairs][:MAX_PAIRS]

    @property
    def gaps(self) -> Spans:
        """Positions between its first and its last that are neither there nor named."""
        there = self.seen | self.named
        late = Spans(loss.span for _, loss in self.late)
        before = Spans([(1, there.first - 1)] if there.first > 1 else [])
        return there.complement(there.last) - before - late - self.moved


class Reading:
    """What a stream contains. Feed it all records, from the first readable one to the end."""

    def __init__(self, moved: Mapping[str, Spans] | None = None) -> None:
        """``moved``: by what the ids begin with, the positions that were exported or imported."""
        self._moved = moved or {}
        self.tallies: dict[str, Tally] = {}
        """By what the ids begin with: ``<install>.<incarnation>``."""
        self.records = 0
        self.births = 0
        self.others = 0
        """Records that are not a journal's."""
        self.source_losses: dict[str, list[int]] = {}
        """For each cause, loss records of sources, and what they count."""
        self._last_birth: int | None = None

    def feed(self, message: Any) -> None:
        """Take one record. Raises `TooScatteredError`."""
        self.records += 1
        prefix, position = parse_id(message)
        if position == 0:
            self._without_position(message)
            return
        tally = self.tallies.get(prefix)
        if tally is None:
            if len(self.tallies) > MAX_JOURNALS:
                self.others += 1
                return
            tally = self.tallies[prefix] = self.new_tally(prefix)
        if message.get("kind") != "loss":
            tally.add(position)
            return
        loss = named_loss(message)
        if loss is not None and loss.span[0] == position:
            tally.add_loss(loss)
            return
        if loss is not None and loss.span[1] < position:
            tally.add_late_loss(position, loss)
            return
        self._count_source_loss(control_info(message, "loss"))
        tally.add(position)

    def new_tally(self, prefix: str = "") -> Tally:
        """The tally of a journal whose first record comes next, or does not come."""
        return Tally(after_first_birth=self._last_birth == 0, moved=self._moved.get(prefix, Spans()))

    def _without_position(self, message: Any) -> None:
        match control_info(message, "birth"):
            case {"epoch": int(epoch)}:
                self.births += 1
                self._last_birth = epoch
            case _:
                self.others += 1

    def _count_source_loss(self, info: Any) -> None:
        match info:
            case {"cause": str(cause)}:
                counted = self.source_losses.setdefault(cause, [0, 0])
                counted[0] += 1
                count = info.get("count")
                counted[1] += count if isinstance(count, int) else 0
            case _:
                pass

    @property
    def twice(self) -> dict[str, Spans]:
        """What is there more than once."""
        return {prefix: tally.twice for prefix, tally in self.tallies.items() if tally.twice}


def parse_id(message: Any) -> tuple[str, int]:
    """What a record's id begins with, and its position; 0 when it is none of a journal's ids."""
    record_id = message.get("id") if isinstance(message, dict) else None
    if isinstance(record_id, str):
        prefix, _, digits = record_id.rpartition(".")
        if (
            len(prefix) == _PREFIX_LENGTH
            and prefix[8] == "."
            and len(digits) <= _MAX_DIGITS
            and digits.isascii()
            and digits.isdigit()
            and digits[0] != "0"
        ):
            return prefix, int(digits)
    return "", 0


class Comparison:
    """Whether what is there more than once is the same each time. Feed it the stream a second time."""

    def __init__(self, twice: dict[str, Spans]) -> None:
        self._wanted = twice
        self._first: dict[tuple[str, int], int] = {}
        self._different: dict[str, Spans] = {}

    def feed(self, message: Any) -> None:
        """Take one record."""
        prefix, position = parse_id(message)
        wanted = self._wanted.get(prefix)
        if wanted is None or position not in wanted:
            return
        key, digest = (prefix, position), digest_of(message)
        known = self._first.get(key)
        if known is None:
            if len(self._first) < MAX_COMPARED:
                self._first[key] = digest
        elif known != digest:
            self._different.setdefault(prefix, Spans()).add(position)

    def different(self, prefix: str) -> Spans:
        """Positions whose records are not the same."""
        return self._different.get(prefix, Spans())
