"""Looks for everything of one stream's journal in what a repair reads back. Pure; memory is bounded by ranges."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any, Final

from ds_gateway.journal.contents import UNKNOWN, digest, parse_page
from ds_gateway.journal.finder import ids_of
from ds_gateway.records import control_info
from ds_gateway.spans import Spans

MAX_FOREIGN: Final = 5_000_000
"""Records of somebody else under our identity that are remembered one by one: 8 bytes each, and a dictionary's."""


class Held:
    """What the records of a journal are, by position: 16 bytes each."""

    def __init__(self) -> None:
        self._positions = array("Q")
        self._digests = array("Q")

    def add(self, position: int, content: int) -> None:
        """Put the next record in; positions rise."""
        self._positions.append(position)
        self._digests.append(content)

    def get(self, position: int) -> int:
        """The digest of the record at a position; UNKNOWN where there is none here, or none that can be read."""
        at = bisect_left(self._positions, position)
        if at < len(self._positions) and self._positions[at] == position:
            return self._digests[at]
        return UNKNOWN

    @property
    def first(self) -> int | None:
        """The first position that is here."""
        return self._positions[0] if self._positions else None

    def between(self, first: int, last: int) -> list[int]:
        """The positions from one to another, both included, of records that are here."""
        positions = self._positions
        return list(positions[bisect_left(positions, first) : bisect_right(positions, last)])


@dataclass(frozen=True, slots=True)
class Expected:
    """What a stream's journal has that may be in the stream."""

    prefixes: tuple[tuple[str, int], ...]
    """What ids begin with, and the last position of each incarnation; the present one at the end."""
    high_water: int
    """The last position that was ever sealed."""
    sent: bool
    """Whether any was ever sealed for this server."""
    unresolved: int
    """The first position that is not known to be in the stream."""
    held: Held
    """The records that may have been sent, as far as they are here."""
    moved: Spans = field(default_factory=Spans)
    """Positions that were exported: whether they are in the stream is not this journal's business."""
    is_import: bool = False
    """Whether others go on counting under these prefixes: what lies beyond is none of ours, and no clash."""


class JournalSurvey:
    """What of a stream's journal is in the stream (`durable_streams.Survey`)."""

    def __init__(self, anchor: str | None, expected: Expected) -> None:
        self.anchor = anchor
        self.start = ""
        self.expired = False
        self.found = Spans(bounded=False)
        self.others: dict[int, int] = {}
        """Positions that were never sealed here, and what is in the stream at them."""
        self._clash = False
        self._expected = expected
        self._prefixes = tuple(prefix for prefix, _ in expected.prefixes)

    def feed(self, page: bytes) -> None:
        """Take one response's body, a JSON array. Raises ValueError when it is not one."""
        for message in parse_page(page):
            self._take(message)

    def _take(self, message: Any) -> None:
        found = ids_of(message, self._prefixes)
        if found is None:
            return
        prefix, position = found
        expected = self._expected
        if position > expected.high_water:
            if not expected.is_import and prefix == self._prefixes[-1] and len(self.others) < MAX_FOREIGN:
                self.others[position] = digest(message)
        elif prefix == self._prefix_at(position):
            if expected.held.get(position) in {UNKNOWN, digest(message)}:
                self.found.add(position)
                self._take_loss(message, position)
            else:
                # A copy of this journal counts from the same position on.
                self._clash = True

    def _take_loss(self, message: dict[str, Any], position: int) -> None:
        """A loss record stands for the positions up to its last one, too; but never for a record that is here."""
        info = control_info(message, "loss")
        if info.get("first_position") != position:
            return
        last = info.get("last_position")
        if isinstance(last, int) and position < last <= self._expected.high_water:
            first = position + 1
            for here in self._expected.held.between(first, last):
                if first < here:
                    self.found.add(first, here - 1)
                first = here + 1
            if first <= last:
                self.found.add(first, last)

    def _prefix_at(self, position: int) -> str:
        return next(prefix for prefix, last in self._expected.prefixes if position <= last)

    @property
    def there(self) -> Spans:
        """What was found, and what is not this journal's any more."""
        moved = self._expected.moved
        return Spans([*self.found, *moved], bounded=False) if moved else self.found

    @property
    def foreign(self) -> bool:
        """Whether there are records under our identity that are not ours."""
        return bool(self.others) or self._clash

    @property
    def incomplete(self) -> bool:
        """Whether a confirmed record that is kept was not found, or none is kept to tell by."""
        expected = self._expected
        first = expected.held.first
        if first is None or first >= expected.unresolved:
            return expected.sent
        return bool(self.there.missing(first, expected.unresolved - 1))

    @property
    def kept_from(self) -> int:
        """Only what is missing before this position can have expired.

        The oldest expires first, and what of ours is kept here is in the stream in its order: what is missing
        behind something that is there was lost. Where nothing is there, everything can have expired.
        """
        if not self.expired:
            return 0
        return self.found.first or self._expected.high_water + 1

    @property
    def undecided(self) -> bool:
        """Whether unresolved records were not found where the server may have expired them."""
        last = min(self._expected.high_water, self.kept_from - 1)
        return bool(self.there.missing(self._expected.unresolved, last))
