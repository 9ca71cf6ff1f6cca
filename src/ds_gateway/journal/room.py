"""Who may still put what into the journal. Pure.

    max_bytes = reserve for the ledger + reserve for receipts, if there are any + room for everything else
    all stopped streams together: at most half of max_bytes, so that the others go on

What a record's stream has no room for is refused: acknowledged, counted, and told by a loss record. A receipt
never is: the downlink takes no command whose receipts would not fit (`receipts_left`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal.rows import ROW_OVERHEAD_BYTES
from ds_gateway.journal.shedding import drop_front
from ds_gateway.records import ledger_stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.state import State

RESERVE_MAX_BYTES: Final = 4 * 1024 * 1024
RECEIPTS_MAX_BYTES: Final = 16 * 1024 * 1024
SLACK_MAX_BYTES: Final = 1024 * 1024
"""Shedding makes so much room at once, and refusing ends only when there is so much."""
FULL_TEXT: Final = "the journal is full"


@dataclass(frozen=True, slots=True)
class Room:
    """How the journal's bytes are shared out."""

    max_bytes: int
    gateway: str
    receipts: str = ""
    """Name of the stream of receipts; empty where there is none."""

    @property
    def reserve(self) -> int:
        """Bytes that only the loss ledger uses."""
        return min(self.max_bytes // 16, RESERVE_MAX_BYTES)

    @property
    def receipts_reserve(self) -> int:
        """Bytes that only receipts use."""
        return min(self.max_bytes // 16, RECEIPTS_MAX_BYTES) if self.receipts else 0

    @property
    def slack(self) -> int:
        """How much room shedding makes at once."""
        return min(self.max_bytes // 16, SLACK_MAX_BYTES)

    def ledger(self, state: State) -> Book | None:
        """The stream with the loss ledger, once there is one."""
        return state.by_name.get(ledger_stream(self.gateway))

    def left(self, state: State) -> int:
        """Bytes of room for records, without the reserves; less than nothing when it is overdrawn."""
        left = self.max_bytes - state.size
        for stream, reserve in (
            (ledger_stream(self.gateway), self.reserve),
            (self.receipts, self.receipts_reserve),
        ):
            book = state.by_name.get(stream)
            left -= reserve if book is None else max(0, reserve - book.size)
        return left

    def receipts_left(self, state: State) -> int:
        """Bytes of the receipts' reserve that are free, or are as soon as somebody wants them."""
        book = state.by_name.get(self.receipts)
        return self.receipts_reserve - (0 if book is None else unresolved_size(book))

    def is_reserved(self, book: Book) -> bool:
        """Whether the stream has a reserve of its own, and never gives way to others."""
        return book.name in {ledger_stream(self.gateway), self.receipts}


class Admission:
    """Decides record by record, for one transaction."""

    def __init__(self, state: State, room: Room, stopped: Mapping[int, str], *, is_full: bool) -> None:
        self._state = state
        self._stopped = stopped
        self.is_full = is_full
        """Whether only losses are to be taken, or what is taken is to be refused."""
        self._refused: set[str] = set()
        books = [state.books[number] for number in stopped if number in state.books]
        self._share = room.max_bytes // 2 - sum(unresolved_size(book) for book in books)
        if self._share < room.slack:
            # Not a record now and then, each with a loss record between them.
            self._refused = {book.name for book in books if book.refused is not None}
        self._ledger = ledger_stream(room.gateway)
        self._receipts = room.receipts
        ledger = room.ledger(state)
        self._reserve = room.reserve - (0 if ledger is None else ledger.size)

    def refusal(self, stream: str, size: int) -> str:
        """Why a record of about so many bytes finds no room; empty if it does."""
        why = self._why(stream, size + ROW_OVERHEAD_BYTES)
        if why:
            self._refused.add(stream)
        return why

    def _why(self, stream: str, size: int) -> str:
        book = self._state.by_name.get(stream)
        stopped = None if book is None else self._stopped.get(book.number)
        if stream == self._ledger:
            self._reserve -= size
            scarce = self.is_full or stopped is not None
            return "its reserved room is full" if scarce and (self._reserve < 0 or stream in self._refused) else ""
        if stream == self._receipts:
            return ""
        if self.is_full:
            return FULL_TEXT
        if stopped is None:
            return ""
        self._share -= size
        if self._share < 0 or stream in self._refused:
            return f"half of the journal, which is all that stopped streams may have, is full; {stopped}"
        return ""


def unresolved_size(book: Book) -> int:
    """Bytes of what is not yet known to be in the stream."""
    return book.size - book.kept_size


def shed_oldest(plan: Plan, state: State, room: Room, size: int) -> int:
    """Let the oldest open records of the fullest streams give way; return the bytes of room that it made.

    The ledger and receipts never give way. A stream whose first open segment cannot be read is passed over: it
    is halted.
    """
    books = [book for book in state.books.values() if book.open_records and not room.is_reserved(book)]
    freed = 0
    for book in sorted(books, key=lambda book: -book.open_size):
        if freed >= size:
            break
        try:
            freed += drop_front(plan, book, cause="shed_oldest", detail=FULL_TEXT, size=size - freed).size
        except JournalDamagedError:
            continue
    return freed
