"""The journal's own decisions over a dictionary: no thread, no file. For tests that visit many states.

State, books, plans, repairs and the store of an uplink are the real ones. A turn is one transaction, as the writer
does it: resolutions, changes, trim, acceptance, seal; here whoever asks for one gets it at once.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from unittest import mock

import orjson

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import repair, rows, state
from ds_gateway.journal.plan import Plan
from ds_gateway.journal.requests import Change, Demand, Resolution
from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.records import Item, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.disk import Disk
    from ds_gateway.journal.state import State
    from ds_gateway.journal.writer import Writer

T = TypeVar("T")

GATEWAY: Final = "g"
STREAM: Final = 1
URL: Final = "http://model.test/v1"


@dataclass(frozen=True)
class RowsSettings:
    """How large batches may be, and how much is kept."""

    keep_bytes: int = 1 << 20
    segment_max_bytes: int = 1 << 16
    gateway: str = GATEWAY
    receipts: str = ""


class Rows:
    """What is on the disk after a commit, as far as `state.load` needs it."""

    def __init__(self, rows_now: Mapping[str, bytes]) -> None:
        self.rows = dict(rows_now)

    def read(self, key: str) -> bytes | None:
        """A row."""
        return self.rows.get(key)

    def keys_before(self, bound: str) -> list[str]:
        """Keys in order."""
        return sorted(key for key in self.rows if key < bound)

    def load(self) -> State:
        """Open the journal."""
        return state.load(cast("Disk", self), GATEWAY)


def new_rows() -> dict[str, bytes]:
    """A new journal with one stream that has no record yet. Always the same one."""
    meta = {"format": rows.FORMAT, "gateway": GATEWAY, "install": "i" * 26}
    disk = Rows({rows.META: rows.encode_json(rows.META, meta)})
    opened = disk.load()
    with deterministic_letters():
        book = opened.new_book("s", URL)
    return {**disk.rows, rows.stream_key(STREAM): rows.encode_json(rows.stream_key(STREAM), book.to_row())}


@contextmanager
def deterministic_letters(letters: str = "a") -> Iterator[None]:
    """Names of incarnations that are the same in every run."""

    def made(count: int) -> str:
        return (letters * count)[:count]

    with mock.patch.object(repair, "random_letters", made), mock.patch.object(state, "random_letters", made):
        yield


class TurnWriter:
    """Stands in for `Writer`: does in `submit` what the thread does in a turn."""

    def __init__(self, rows_now: Mapping[str, bytes], settings: RowsSettings) -> None:
        self.disk = Rows(rows_now)
        self.state = self.disk.load()
        self.settings = settings
        self.resolutions: list[Resolution] = []
        self.commits: list[dict[str, bytes]] = []
        """What was on the disk after each commit."""
        self.damaged: list[str] = []

    @property
    def book(self) -> Book:
        """The one stream."""
        return self.state.books[STREAM]

    def submit(self, request: Change | Resolution | Demand) -> None:
        """As `Writer.submit`, done on return. A demand for which nothing is open is a defect of the test."""
        match request:
            case Resolution():
                self.resolutions.append(request)
            case Change():
                self.turn(change=request)
                request.done.set_result(None)
            case Demand():
                try:
                    batch = self.turn(demand=request)
                except JournalDamagedError as error:
                    request.batch.set_exception(error)
                else:
                    request.batch.set_result(batch)

    def turn(
        self,
        *,
        change: Change | None = None,
        records: Iterable[Record] = (),
        demand: Demand | None = None,
        full: bool = False,
    ) -> Any:
        """One transaction; return the batch that was demanded. ``full``: what is kept has to give way."""
        plan = Plan(
            self.state,
            self.disk.read,
            url=URL,
            segment_max_bytes=self.settings.segment_max_bytes,
            now_ns=lambda: 0,
        )
        for resolution in self.resolutions:
            plan.resolve(self.book, resolution.seq, resolution.offset)
        self.resolutions.clear()
        damaged = None
        batch = None
        with deterministic_letters("bcdefghijklmnopqrstuvw"[len(self.book.past)]):
            if change is not None:
                change.apply(self.book, plan)
            if self.book.kept_size > self.settings.keep_bytes:
                plan.trim(self.book, self.settings.keep_bytes)
            if full:
                plan.trim(self.book, 0)
            plan.accept([Item(record) for record in records])
            if demand is not None:
                try:
                    batch = plan.sealed_batch(self.book)
                    if batch is None:
                        assert self.book.open_records, "nothing is there to be sealed"
                        batch = plan.seal(self.book, demand.max_bytes)
                except JournalDamagedError as error:
                    damaged = error
        self.damaged += plan.damaged
        # The same rows whatever came before: how many commits there were makes no difference to anything.
        self.state.counters.commit = 0
        changed = plan.finish()
        if changed:
            for key, row in changed.items():
                if row is None:
                    self.disk.rows.pop(key, None)
                else:
                    self.disk.rows[key] = row
            self.commits.append(dict(self.disk.rows))
        assert self.state.books == self.disk.load().books, "what is in memory is what an opening reads"
        if damaged is not None:
            raise damaged
        return batch

    def store(self) -> StreamStore:
        """The real store of the stream's uplink."""
        return StreamStore(cast("Writer", self), STREAM, birth={})


class Waiter:
    """Runs the store's coroutines, none of which waits for anything here."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what it returns."""
        return self._runner.run(coroutine)

    def close(self) -> None:
        """Close the loop."""
        self._runner.close()


@dataclass(frozen=True)
class Kept:
    """One segment as it can be read: its place, and its records in final bytes."""

    number: int
    size: int
    first_position: int
    elements: tuple[bytes, ...]


class Facts:
    """What the rows of one stream say, counted anew; nothing of the book's own counters is believed."""

    def __init__(self, rows_now: Mapping[str, bytes]) -> None:
        self.rows = rows_now
        self.state = Rows(rows_now).load()
        self.book = self.state.books[STREAM]

    @cached_property
    def segments(self) -> dict[int, Kept]:
        """All segments that are there."""
        found = {}
        for key in self._segment_keys:
            row = self.rows[key]
            if is_whole(key, row):
                number, segment = int(key.rpartition("/")[2]), rows.decode_segment(key, row)
                size = len(row) + rows.ROW_OVERHEAD_BYTES
                found[number] = Kept(number, size, segment.first_position, tuple(segment.elements()))
        return found

    @cached_property
    def _segment_keys(self) -> list[str]:
        return sorted(key for key in self.rows if key.startswith("s/"))

    @cached_property
    def damaged(self) -> bool:
        """Whether a segment cannot be read of which something is not known to be in the stream."""
        first = self.book.open_segment if self.book.sealed is None else self.book.sealed.first_segment
        return any(number not in self.segments for number in range(first, self.book.next_segment))

    @cached_property
    def readable(self) -> bool:
        """Whether every row of the stream is as it was written."""
        kept = (key for key in self.rows if key.startswith("r/"))
        return all(is_whole(key, self.rows[key]) for key in (*kept, *self._segment_keys))

    @cached_property
    def sealed(self) -> tuple[bytes, ...]:
        """Records of the sealed batch."""
        run = self.book.sealed
        if run is None:
            return ()
        found: list[bytes] = []
        for number in range(run.first_segment, run.last_segment + 1):
            if number not in self.segments:
                continue
            elements = self.segments[number].elements
            skip = run.first_skip if number == run.first_segment else 0
            end = run.last_end if number == run.last_segment else None
            found += elements[skip:end]
        return tuple(found)

    @cached_property
    def open(self) -> tuple[bytes, ...]:
        """Records that are not sealed."""
        found: list[bytes] = []
        for number in range(self.book.open_segment, self.book.next_segment):
            skip = self.book.open_skip if number == self.book.open_segment else 0
            if number in self.segments:
                found += self.segments[number].elements[skip:]
        return tuple(found)

    @cached_property
    def kept(self) -> tuple[bytes, ...]:
        """Records that are resolved, and kept for repair."""
        book = self.book
        place = (book.open_segment, book.open_skip)
        if book.sealed is not None:
            place = (book.sealed.first_segment, book.sealed.first_skip)
        found: list[bytes] = []
        for number, segment in self.segments.items():
            if number < place[0]:
                found += segment.elements
            elif number == place[0]:
                found += segment.elements[: place[1]]
        return tuple(found)

    def check(self, *, exact: bool = True) -> bool:
        """The book's counters are what the rows say; what damage makes vague only if it is to be ``exact``."""
        book = self.book
        assert all(number >= book.kept_segment for number in self.segments), "a trimmed segment is still there"
        assert book.open_records == len(self.open) or not exact, (book, len(self.open))
        if book.sealed is not None:
            assert book.sealed.count == len(self.sealed), (book, len(self.sealed))
            assert book.sealed.seq == book.resolved_seq + 1
        sizes = {number: segment.size for number, segment in self.segments.items()}
        first_unresolved = book.open_segment
        if book.sealed is not None:
            first_unresolved = book.sealed.first_segment
            sealed = sum(sizes[number] for number in range(first_unresolved, book.sealed.last_whole + 1))
            assert book.sealed.size == sealed, (book, sizes)
        opened = sum(size for number, size in sizes.items() if number >= book.open_segment)
        assert book.open_size == opened, (book, sizes)
        kept = sum(size for number, size in sizes.items() if number < first_unresolved)
        # A kept row that cannot be read weighs what it did, and its size is not among these.
        readable = all(number in sizes for number in book.numbers(book.kept_segment, first_unresolved))
        assert book.kept_size == kept or not (readable and exact), (book, sizes)
        accepted = book.next_position - 1
        counted = book.resolved_records + book.unresolved_records + book.lost_positions
        assert accepted == counted or not exact, f"{accepted} accepted, {counted} counted: {book}"
        return True


def is_whole(key: str, row: bytes) -> bool:
    """Whether a row is as it was written."""
    try:
        rows.unprotect(key, row)
    except JournalDamagedError:
        return False
    return True


def loss_of(element: bytes) -> tuple[int, int] | None:
    """The positions that a loss record stands for."""
    message = orjson.loads(element)
    if message.get("kind") != "loss" or "first_position" not in message["info"]:
        return None
    return message["info"]["first_position"], message["info"]["last_position"]


def is_lost_by_server(element: bytes) -> bool:
    """Whether it is a loss record of what a server lost."""
    return b'"cause":"server_lost"' in element


def position_of(element: bytes) -> int:
    """The position in a record's id."""
    return int(rows.id_of(element).rpartition(".")[2])


def call(
    waiter: Waiter,
    writer: TurnWriter,
    action: Callable[[StreamStore], Coroutine[Any, Any, T]],
) -> T:
    """Let a store do something."""
    return waiter.run(action(writer.store()))
