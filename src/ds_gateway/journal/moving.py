"""Moves open records out of a journal, and into another one. Works on a plan; no I/O of its own.

    mark      open segments are an export's: never sent from here any more, still here     one transaction for all
              (their records are written into a file, which may be begun anew as often as need be)
    end       the file may be whole from now on, and imported: no way back                 one transaction for all
              (its last line is written)
    written   the file is whole and on its disk                                            one transaction for all
    delete    the rows, a bounded number at a time

Nothing is lost or sent from two places at any point: a crash before *written* leaves an export that is written
again, with the same producer id. What is sealed stays: only the server knows whether it has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import ages, rows
from ds_gateway.journal.contents import parse
from ds_gateway.journal.exported import Export
from ds_gateway.journal.reading import named_loss
from ds_gateway.journal.transaction import MAX_DELETES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan


# -- out


def mark(plan: Plan, export: str, wanted: Callable[[Book], bool]) -> list[Book]:
    """Let all whole open segments of the wanted streams belong to an export; return the streams that have any."""
    marked = [book for book in plan.books() if wanted(book) and _mark(plan, book, export)]
    if marked:
        plan.raise_format()
    return marked


def _mark(plan: Plan, book: Book, export: str) -> bool:
    # In the middle of a repair nobody knows what of the open records is in the stream.
    if book.repairing or book.imported or book.exporting is not None:
        return False
    plan.write_refused(book)
    first, rest, rest_size = book.open_segment, 0, 0
    if book.open_skip:
        # The rest of a batch that was refused: its segment is not whole, and stays.
        row, segment = plan.segment(book, first)
        first, rest, rest_size = (
            book.after(first),
            segment.count - book.open_skip,
            len(row) + rows.ROW_OVERHEAD_BYTES,
        )
    records = book.open_records - rest
    if records <= 0 or first >= book.next_segment:
        return False
    first_position, last_position = _first_position(plan, book, first), book.next_position - 1
    last = book.next_segment - 1
    book.exporting = Export(
        export,
        first,
        last,
        [gap for gap in book.gaps if gap[0] >= first],
        first_position,
        last_position,
        records,
        max(book.open_size - rest_size, 0),
    )
    gaps = [gap for gap in book.gaps if gap[0] < first]
    if gaps and gaps[-1][1] == first - 1:
        first = gaps.pop()[0]
    book.gaps = [*gaps, [first, last]]
    if rest == 0:
        book.open_segment, book.open_skip = book.next_segment, 0
        book.open_position = book.next_position
    book.open_records, book.open_size = rest, rest_size
    ages.forget(book, last)
    # They are going to be in the stream, or are so already, and nobody else counts from here on.
    book.high_water = max(book.high_water, last_position)
    book.exported.append([first_position, last_position, export])
    book.exported_records += records
    plan.forget_announcements(book)
    plan.touch(book)
    plan.parts.add("C")
    return True


def _first_position(plan: Plan, book: Book, first: int) -> int:
    for number in book.numbers(first, book.next_segment):
        try:
            segment = plan.segment(book, number)[1]
        except JournalDamagedError:
            break
        if segment.count:
            return segment.first_position
    return book.open_position


def end(plan: Plan, export: str) -> None:
    """The last line of its file is about to be written."""
    for book in plan.books():
        if book.exporting is not None and book.exporting.id == export:
            book.exporting.may_be_whole = True
            plan.touch(book)
            plan.parts.add("C")


def written(plan: Plan, export: str) -> list[Book]:
    """The export is whole in its file; return the streams whose rows are to be deleted now."""
    marked = [book for book in plan.books() if book.exporting is not None and book.exporting.id == export]
    for book in marked:
        assert book.exporting is not None, "it was just looked at"
        book.exporting.written = True
        plan.touch(book)
        plan.parts.add("C")
    return marked


def delete(plan: Plan, book: Book) -> bool:
    """Delete rows of what was exported, a bounded number; return whether there are more."""
    moving = book.exporting
    if moving is None or not moving.written:
        return False
    for deleted, number in enumerate(_numbers(moving)):
        if deleted == MAX_DELETES:
            # What is left is counted anew: rows have no order of sizes.
            moving.size = moving.size * max(moving.last_segment - number + 1, 0) // _span(moving)
            moving.first_segment = number
            moving.holes = [hole for hole in moving.holes if hole[1] >= number]
            break
        plan.rows[rows.segment_key(book.number, number)] = None
    else:
        book.exporting = None
    plan.touch(book)
    plan.parts.add("C")
    return book.exporting is not None


def _span(moving: Export) -> int:
    return max(moving.last_segment - moving.first_segment + 1, 1)


def _numbers(moving: Export) -> Iterator[int]:
    """The segment numbers that have a row."""
    first = moving.first_segment
    for hole_first, hole_last in sorted(moving.holes):
        yield from range(first, hole_first)
        first = max(first, hole_last + 1)
    yield from range(first, moving.last_segment + 1)


def take_back(plan: Plan, export: str) -> list[str]:
    """Let what is not written yet be sent from here after all; return the streams where that cannot be had.

    Nothing is taken back then: records that came later are on their way there, and these would come behind them.
    """
    marked = [book for book in plan.books() if book.exporting is not None and book.exporting.id == export]
    late = [book.name for book in marked if not _may_be_taken_back(book)]
    if not late:
        for book in marked:
            _take_back(plan, book)
    return late


def _may_be_taken_back(book: Book) -> bool:
    moving = book.exporting
    assert moving is not None, "it is marked"
    is_first = book.open_segment <= moving.first_segment or (
        book.open_segment == moving.last_segment + 1 and book.open_skip == 0
    )
    return not moving.written and not book.repairing and is_first


def _take_back(plan: Plan, book: Book) -> None:
    moving = book.exporting
    assert moving is not None, "it is marked"
    gaps = []
    for first, last in book.gaps:
        if first <= moving.first_segment <= last:
            if first < moving.first_segment:
                gaps.append([first, moving.first_segment - 1])
            gaps += moving.holes
            if last > moving.last_segment:
                gaps.append([moving.last_segment + 1, last])
        else:
            gaps.append([first, last])
    book.gaps = gaps
    if book.open_segment > moving.last_segment:
        book.open_segment, book.open_position = moving.first_segment, moving.first_position
    book.open_records += moving.records
    book.open_size += moving.size
    book.exported = [each for each in book.exported if each[2] != moving.id]
    book.exported_records -= moving.records
    book.exporting = None
    plan.touch(book)
    plan.parts.add("C")


# -- in


@dataclass(frozen=True, slots=True)
class Incoming:
    """One stream of an export, as its file says."""

    name: str
    install: str
    incarnation: str
    past: tuple[tuple[str, int], ...]
    first_position: int
    last_position: int
    anchor: str | None
    """An offset before which none of it can be; None: nothing of the stream was ever sent, or it is not read."""

    def without_anchor(self) -> Incoming:
        """The same, to be sent without a look at what is in the stream."""
        return replace(self, anchor=None)


def title(incoming: Incoming, export: str) -> str:
    """What the stream of an import is called in the journal that has it (`Book.title`)."""
    return f"{incoming.name} [import {export}]"


def begin_import(plan: Plan, export: str, incoming: Incoming) -> Book:
    """Let there be a stream of its own for what is imported, with a producer for this alone."""
    book = plan.book_named(title(incoming, export))
    if book is not None:
        return book
    book = plan.new_import(incoming.name, export)
    book.install, book.incarnation = incoming.install, incoming.incarnation
    book.past = [list(each) for each in incoming.past]
    book.begins = book.next_position = book.open_position = incoming.first_position
    # Never sent under this producer; that of it which is in the stream all the same is found by its ids.
    book.own_position = incoming.last_position + 1
    book.high_water = incoming.first_position - 1
    book.importing = True
    plan.raise_format()
    plan.touch(book)
    return book


def take_in(plan: Plan, book: Book, elements: Sequence[bytes], segment_max_bytes: int) -> None:
    """Add the next records of an import; those that are there already are passed over."""
    start = 0
    elements = [each for each in elements if rows.position_of(each) >= book.next_position]
    while start < len(elements):
        end, size = start, 2
        while end < len(elements) and (end == start or size + len(elements[end]) <= segment_max_bytes):
            size += len(elements[end]) + 1
            end += 1
        segment = rows.make_segment(rows.position_of(elements[start]), elements[start:end])
        key = rows.segment_key(book.number, book.next_segment)
        plan.rows[key] = row = rows.encode_segment(key, segment)
        book.accept(segment.count, len(row) + rows.ROW_OVERHEAD_BYTES)
        book.next_position = segment.last_position(segment.count - 1) + 1
        book.lost_positions += sum(map(_stands_for, segment.elements()))
        start = end
    plan.touch(book)
    plan.parts.add("A")


def _stands_for(element: bytes) -> int:
    """Positions beside its own."""
    if LOSS not in element:
        return 0
    loss = named_loss(parse(element))
    return 0 if loss is None or loss.span[0] != rows.position_of(element) else loss.span[1] - loss.span[0]


LOSS: Final = b'"kind":"loss"'


def give_up(plan: Plan, book: Book) -> bool:
    """Forget records of a half import, a bounded number; return whether there are more.

    The newest first: what is left is the beginning of an import, which may go on, at every point. In the end the
    stream is as it was begun; nothing was ever sent under its producer.
    """
    for _ in range(MAX_DELETES):
        number = book.next_segment - 1
        if number < book.open_segment:
            break
        row, segment = plan.segment(book, number)
        plan.rows[rows.segment_key(book.number, number)] = None
        book.next_segment = number
        book.open_records -= segment.count
        book.open_size -= len(row) + rows.ROW_OVERHEAD_BYTES
        book.lost_positions -= sum(map(_stands_for, segment.elements()))
        is_first = number == book.open_segment
        book.next_position = book.begins if is_first else segment.first_position
    plan.touch(book)
    plan.parts.add("A")
    return book.next_segment > book.open_segment


def finish_import(plan: Plan, book: Book, incoming: Incoming) -> None:
    """All of it is here: it may be sent. With an anchor everything is read back from there first."""
    book.importing = False
    # Any of it may be in the stream: a copy of the same export may have been imported elsewhere.
    book.high_water = max(incoming.last_position, book.next_position - 1)
    book.own_position = book.high_water + 1
    if incoming.anchor is not None:
        book.kept_anchor = book.anchor = incoming.anchor
        book.epoch, book.repairing = -1, True  # the repair claims the next: epoch 0
    plan.new_books.append(book)
    plan.touch(book)
