"""The rows of one transaction as they are gathered: what it changes, and what is there as it leaves it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import clocks, rows
from ds_gateway.journal.book import Run
from ds_gateway.journal.exported import own_before
from ds_gateway.journal.state import meta_row
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.state import State
    from ds_gateway.records import ClockState, Envelope, Loss, Rejected
    from ds_gateway.timekeeping import WallClock

QUARANTINE_MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DELETES: Final = 2_000
"""Segments deleted in one transaction: small transactions keep the write-ahead log small."""


class Transaction:
    """The rows of one transaction, and what it consists of. What goes into it, `Plan` decides."""

    def __init__(
        self,
        state: State,
        read: Callable[[str], bytes | None],
        *,
        read_if_any: Callable[[str], bytes | None] | None = None,
        url: str,
        segment_max_bytes: int,
        quarantine_max_bytes: int = QUARANTINE_MAX_BYTES,
        now_ns: Callable[[], int],
        wall_clock: WallClock = UNWATCHED,
    ) -> None:
        self.rows: dict[str, bytes | None] = {}
        self.parts: set[str] = set()
        """Which of A, B and C the transaction carries."""
        self.new_books: list[Book] = []
        self.rejected: list[Rejected] = []
        """What was put into the quarantine."""
        self.losses: list[Loss] = []
        """What was entered into the loss ledger."""
        self.damaged: list[str] = []
        """Rows that did not carry what was written, and were not needed."""
        self._state = state
        self._read_disk = read
        self._read_if_any = read if read_if_any is None else read_if_any
        self._url = url
        self._segment_max_bytes = segment_max_bytes
        self._quarantine_max_bytes = quarantine_max_bytes
        self.now_ns = now_ns
        self._wall_clock = wall_clock
        self._touched: dict[int, Book] = {}
        self._announced: set[int] = set()
        self._followed: dict[int, ClockState] = {}
        """By what clock the last record that was accepted in each stream was stamped."""

    @property
    def commit(self) -> int:
        """Number of the transaction."""
        return self._state.counters.commit + 1

    @property
    def touched(self) -> list[Book]:
        """The streams that the transaction changes."""
        return list(self._touched.values())

    def books(self) -> list[Book]:
        """All streams."""
        return list(self._state.books.values())

    def book_named(self, title: str) -> Book | None:
        """The stream with this title; None if there is none."""
        return self._state.by_name.get(title)

    def new_import(self, name: str, export: str) -> Book:
        """Begin a stream for what came with an export."""
        return self._state.new_book(name, self._url, imported=export)

    def raise_format(self) -> None:
        """From this transaction on the journal has rows that older programs must not touch."""
        if self._state.format < rows.FORMAT:
            self._state.format = rows.FORMAT
            self.rows[rows.META] = meta_row(self._state.identity, rows.FORMAT)

    def touch(self, book: Book) -> None:
        """The stream's row is to be written."""
        self._touched[book.number] = book

    # -- what is in it

    def record_id(self, book: Book, position: int) -> str:
        """Id of a record of this journal."""
        return book.record_id(self._state.identity.short_install, position)

    @property
    def install(self) -> str:
        """What the ids of this journal's records begin with."""
        return self._state.identity.short_install

    @property
    def gateway(self) -> str:
        """The gateway's id."""
        return self._state.identity.gateway

    @property
    def envelope(self) -> Envelope:
        """What stands around a control record."""
        return self._state.envelope

    def _book(self, stream: str) -> Book:
        book = self._state.by_name.get(stream)
        if book is None:
            book = self._state.new_book(stream, self._url)
            self.new_books.append(book)
        return book

    def clock_said(self, book: Book) -> bytes:
        """What a record that the journal makes itself, in this stream, says of the clock."""
        clock, said = self._wall_clock.stamp()
        # Nothing follows in what was imported: its positions are all given.
        if clock is not None and said and not book.imported:
            clocks.note(book, clock)
            self.touch(book)
        return said

    # -- what is there

    def read(self, key: str) -> bytes | None:
        """A row as the transaction leaves it; None where there is none."""
        return self.rows[key] if key in self.rows else self._read_disk(key)

    def read_if_any(self, key: str) -> bytes | None:
        """As `read`, for a row that need not be there: the quarantine has holes where a payload was read again."""
        return self.rows[key] if key in self.rows else self._read_if_any(key)

    def segment(self, book: Book, number: int) -> tuple[bytes, rows.Segment]:
        """A segment's row, and what it holds. Raises `JournalDamagedError`."""
        key = rows.segment_key(book.number, number)
        row = self.read(key)
        if row is None:
            raise JournalDamagedError(f"journal row {key} of stream {book.name} is missing")
        segment = rows.decode_segment(key, row)
        if number < book.reborn_segment and segment.count:
            segment = renamed(book, segment)
        return row, segment

    def kept(self, book: Book, number: int) -> tuple[Run, str] | None:
        """A kept batch, and the offset that it ends before; None where its row is damaged."""
        key = rows.kept_key(book.number, number)
        try:
            row = rows.decode_json(key, self.read(key) or b"")
        except JournalDamagedError:
            return None
        offset = str(row.pop("offset"))
        return Run(**row), offset

    def position_before(self, book: Book, number: int) -> int:
        """The last position before a segment, as far as that can be told from what is readable behind it."""
        for following in book.numbers(number, book.next_segment):
            try:
                return own_before(book.exported, self.segment(book, following)[1].first_position - 1)
            except JournalDamagedError:
                continue
        return own_before(book.exported, book.next_position - 1)

    def weigh(self, book: Book) -> None:
        """Count the bytes of what is open anew: a row that was damaged does not tell how long it was."""
        book.open_size = self.weight(book, book.open_segment, book.next_segment)

    def weight(self, book: Book, first: int, stop: int) -> int:
        """Bytes of the rows from a segment to before another."""
        found = (self.read(rows.segment_key(book.number, number)) for number in book.numbers(first, stop))
        return sum(len(row) + rows.ROW_OVERHEAD_BYTES for row in found if row is not None)

    def _is_damaged(self, book: Book, number: int) -> bool:
        try:
            self.segment(book, number)
        except JournalDamagedError:
            return True
        return False

    # -- the end

    def forget_announcements(self, book: Book) -> None:
        """A new epoch announces its devices again."""
        if self._state.announced.pop(book.number, None) is not None:
            self._announced.add(book.number)

    def finish(self) -> dict[str, bytes | None]:
        """The rows of the transaction; empty when there is nothing to commit."""
        for number, book in self._touched.items():
            key = rows.stream_key(number)
            self.rows[key] = rows.encode_json(key, book.to_row())
        for number in self._announced:
            known = self._state.announced.get(number)
            key = rows.announced_key(number)
            self.rows[key] = None if known is None else rows.encode_json(key, dict(known))
        if self.rows:
            self._state.counters.commit += 1
            self.rows[rows.COUNTERS] = rows.encode_json(rows.COUNTERS, asdict(self._state.counters))
        return self.rows


def renamed(book: Book, segment: rows.Segment) -> rows.Segment:
    """A segment under the incarnations that its positions belong to now."""
    elements = [
        rows.with_incarnation(element, book.incarnation_at(int(record_id.rpartition(".")[2])))
        for element, record_id in zip(segment.elements(), rows.record_ids(segment), strict=True)
    ]
    return rows.make_segment(segment.first_position, elements)
