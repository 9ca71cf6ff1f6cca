"""Lets the oldest open records of a stream give way to one loss record. Works on a plan; no I/O of its own.

    before   prefix | r s t | u v | w x y          prefix: sealed or resolved already, and never touched
    after    prefix | L     |     |   x y          L at r's position: "r to w are lost"

The loss record stands in the first segment; the numbers of those behind it that are gone are a gap in the book.
A loss record that is still the first open one is replaced by one that counts more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.tally import Tally, add_element

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from ds_gateway.records import LossCause

MAX_ROWS: Final = 2_000
"""Segments shed in one transaction: small transactions keep the write-ahead log small."""
_LOSS_RECORD_BYTES: Final = 1024
"""What a loss record may take, roughly: less than that is not worth shedding."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What became of the request."""

    records: int = 0
    """Records that are lost by it."""
    size: int = 0
    """Bytes of room that it made."""
    more: bool = False
    """Whether there is more to drop, in another transaction."""


@dataclass(slots=True)
class _Reach:
    """How far into the open segments it goes."""

    tally: Tally
    elements: int = 0
    """Dropped, loss records included."""
    records: int = 0
    """Dropped that were records, and are lost by this."""
    old_size: int = 0
    next_number: int = 0
    """The first segment that is not dropped whole."""
    part: rows.Segment | None = None
    """That segment, if some of it is dropped."""
    part_end: int = 0
    counts_on: bool = False
    """Whether the first of the dropped is a loss record, which counts on."""
    announced: bool = False
    """Whether a device's announcement is among the dropped."""
    visited: list[int] = field(default_factory=list)
    """Numbers of the segments that lose something."""


def drop_front(
    plan: Plan,
    book: Book,
    *,
    cause: LossCause,
    detail: str = "",
    certain: bool = True,
    size: int | None = None,
    before_segment: int | None = None,
    before_position: int | None = None,
    keep: Callable[[bytes], None] | None = None,
    max_rows: int = MAX_ROWS,
) -> Dropped:
    """Drop the oldest open records, as far as every given limit allows, and leave a loss record in their place.

    ``size``: whole segments, until that much room is made. ``before_segment``: only segments before this number.
    ``before_position``: only records before this position; it may lie within a segment. ``keep`` is given every
    dropped record first. ``certain``: whether none of them can be in the stream. The sealed
    batch is never touched. Raises `JournalDamagedError` when the first open segment cannot be read; a later one
    ends the run before it.
    """
    if book.open_records == 0:
        return Dropped()
    number, skip = book.open_segment, book.open_skip
    first = plan.segment(book, number)[1]
    reach = _Reach(Tally(cause, 0, 0, detail=detail, certain=certain), next_number=number)
    done = False
    while not done and number < book.next_segment and len(reach.visited) < max_rows:
        if before_segment is not None and number >= before_segment:
            done = True
            break
        try:
            row, segment = plan.segment(book, number)
        except JournalDamagedError:
            if not reach.visited:
                raise
            break
        start = skip if number == book.open_segment else 0
        end = segment.count if before_position is None else _index_before(segment, before_position)
        if start < end or segment.count == start:
            _count(reach, segment, (start, end), keep)
            reach.old_size += len(row) + rows.ROW_OVERHEAD_BYTES
            reach.visited.append(number)
        if end < segment.count:
            done = True
            if start < end:
                reach.part, reach.part_end = segment, end
            break
        number = reach.next_number = book.after(number)
        done = size is not None and reach.old_size >= size + _LOSS_RECORD_BYTES
    if reach.records == 0:
        return Dropped()
    more = not done and number < book.next_segment
    return _replace(plan, book, first, reach, must_free=size is not None, more=more)


def _index_before(segment: rows.Segment, position: int) -> int:
    """How many of the segment's records stand before a position."""
    return next((index for index in range(segment.count) if segment.position(index) >= position), segment.count)


def _count(
    reach: _Reach, segment: rows.Segment, bounds: tuple[int, int], keep: Callable[[bytes], None] | None
) -> None:
    start, end = bounds
    for each in segment.elements()[start:end]:
        position = rows.position_of(each)
        kind, is_loss = add_element(reach.tally, each, position)
        if not is_loss:
            reach.records += 1
            if keep is not None:
                keep(each)
        if reach.elements == 0:
            reach.tally.first_position, reach.counts_on = position, is_loss
        reach.announced = reach.announced or kind == "device"
        reach.elements += 1


def _replace(
    plan: Plan, book: Book, first: rows.Segment, reach: _Reach, *, must_free: bool, more: bool
) -> Dropped:
    """Write what is left of the first segment with the loss record, and of the last; delete those between."""
    number, skip = book.open_segment, book.open_skip
    elements = [*first.elements()[:skip], plan.tally_element(book, reach.tally)]
    written: dict[int, rows.Segment] = {}
    following = reach.next_number
    if reach.part is not None:
        rest = reach.part.elements()[reach.part_end :]
        if following == number:
            elements += rest
        else:
            written[following] = rows.make_segment(rows.position_of(rest[0]), rest)
    written[number] = rows.make_segment(rows.position_of(elements[0]), elements)
    encoded = {
        each: rows.encode_segment(rows.segment_key(book.number, each), segment)
        for each, segment in written.items()
    }
    freed = reach.old_size - sum(len(row) + rows.ROW_OVERHEAD_BYTES for row in encoded.values())
    if must_free and freed <= 0:
        return Dropped()
    for each in reach.visited:
        plan.rows[rows.segment_key(book.number, each)] = None
    for each, row in encoded.items():
        plan.rows[rows.segment_key(book.number, each)] = row
    book.shed(reach.elements, freed, number, following)
    if reach.announced:
        plan.forget_announcements(book)
    plan.touch(book)
    plan.parts.add("C")
    loss = replace(reach.tally.loss(plan.now_ns()), count=reach.records)
    plan.lose(loss, begins=not reach.counts_on)
    return Dropped(reach.records, freed, more)
