"""Reads a journal beside its gateway, or without one: one consistent snapshot, and nothing is changed.

SQLite's write-ahead log lets a reader see one commit while the writer makes the next. The rows are read here
without diskcache, which would set up what it opens.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.errors import JournalDamagedError, JournalError, JournalFormatError
from ds_gateway.journal import rows
from ds_gateway.journal.book import Book
from ds_gateway.journal.sqlite_file import DAMAGE, connect
from ds_gateway.journal.state import Identity
from ds_gateway.records import control_info
from ds_gateway.spans import Span, Spans, TooScatteredError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_DAMAGED_TOLD: Final = 100
_NUMBER_DIGITS: Final = 12
LOSS_MARK: Final = b'"kind":"loss"'
_WRONG: Final = (JournalDamagedError, struct.error, ValueError, TypeError, KeyError, AttributeError)
"""What decoding a row raises that is not what was written."""


@dataclass(frozen=True, slots=True)
class NamedLoss:
    """A loss record that stands for positions of its own stream."""

    cause: str
    certain: bool
    span: Span


@dataclass(slots=True)
class StreamView:
    """One stream of the journal at one commit."""

    book: Book
    waiting: Spans = field(default_factory=Spans)
    """Accepted, readable, and not known to be in the stream."""
    sealed: Spans = field(default_factory=Spans)
    """Those of them that are on their way: they may be in the stream as well."""
    kept: Spans = field(default_factory=Spans)
    """Known to be in the stream, and kept for repair."""
    losses: list[NamedLoss] = field(default_factory=list)
    """Loss records among those that wait."""
    damaged: list[str] = field(default_factory=list)
    """Rows of records that wait and do not carry what was written; at most `MAX_DAMAGED_TOLD`."""
    damaged_copies: list[str] = field(default_factory=list)
    """The same for those that are kept for repair."""

    @property
    def settled(self) -> int:
        """Positions up to this one were sent, and the server has confirmed them."""
        book = self.book
        bounds = [book.high_water if book.resolved_records else 0, book.open_position - 1]
        if book.sealed is not None:
            bounds.append(book.sealed.first_position - 1)
        if self.waiting:
            bounds.append(self.waiting.first - 1)
        return max(min(bounds), 0)


@dataclass(slots=True)
class JournalView:
    """A journal at one commit."""

    identity: Identity
    streams: dict[str, StreamView]
    losses: dict[str, tuple[int, int]]
    """For each cause: entries in the loss ledger, and records that they count."""
    damaged: list[str]
    """Rows of no stream, or of one that cannot be told, with what is wrong."""
    taken_at: float
    """Seconds since 1970."""
    format: int = 0


def named_loss(message: Any) -> NamedLoss | None:
    """The positions that a record stands for; None when it is no loss record, or one of a source."""
    match control_info(message, "loss"):
        case {
            "cause": str(cause),
            "certain": bool(certain),
            "first_position": int(first),
            "last_position": int(last),
        } if 1 <= first <= last:
            return NamedLoss(cause, certain, (first, last))
        case _:
            return None


def read_journal(directory: Path) -> JournalView:
    """The journal in this data folder, as one commit left it. Damaged rows are part of the answer.

    Raises `JournalError`: there is none, it may not be read, its file as a whole is damaged, or a newer program
    wrote it.
    """
    with _snapshot(directory) as connection:
        view = _small_rows(connection)
        for stream in view.streams.values():
            _segments(connection, stream)
            refused = stream.book.refused
            if refused is not None:
                stream.losses.append(
                    NamedLoss(refused.cause, True, (refused.first_position, refused.last_position))
                )
        return view


def read_books(directory: Path) -> JournalView:
    """As `read_journal`, without the records: cheap."""
    with _snapshot(directory) as connection:
        return _small_rows(connection)


def numbered_rows(
    directory: Path, first: str, after: str, *, newest_first: bool
) -> Iterator[tuple[str, bytes | None]]:
    """Numbered rows of the kind of ``first``, behind the key ``after``. Raises `JournalError`."""
    with _snapshot(directory) as connection:
        _identity(connection)
        ascending = "SELECT key, value FROM Cache WHERE key > ? AND key < ? AND raw = 1 ORDER BY key"
        descending = "SELECT key, value FROM Cache WHERE key > ? AND key < ? AND raw = 1 ORDER BY key DESC"
        end = first[:-_NUMBER_DIGITS] + "\uffff"
        found = connection.execute(descending if newest_first else ascending, (after, end))
        for key, value in found:
            yield key, value if isinstance(value, bytes) else None


@contextmanager
def _snapshot(directory: Path) -> Iterator[sqlite3.Connection]:
    """A connection inside one read transaction, with SQLite's errors as ours."""
    file = directory / "journal" / "cache.db"
    try:
        # Opened by hand first: SQLite tells "no such file" and "permission denied" in the same words.
        with file.open("rb"):
            pass
    except FileNotFoundError:
        raise JournalError(
            f"there is no journal in {directory}: no gateway has run with this data_dir yet, or it is another one"
        ) from None
    except OSError as error:
        raise JournalError(f"the journal {file} cannot be read: {error.strerror}; {_WHO}") from None
    try:
        with closing(connect(file)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield connection
    except sqlite3.OperationalError as error:
        # Without a gateway, SQLite has to make the file that its readers and writers share.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            raise JournalError(
                f"the journal {file} cannot be read, because its folder cannot be written and SQLite keeps a file "
                f"there for those who read: {_WHO}, or copy the folder to where you may write, and set data_dir "
                f"to the copy ({error})"
            ) from error
        if code == sqlite3.SQLITE_ERROR:  # it does not know its own table any more
            raise _damaged(file, error) from error
        raise JournalError(f"the journal {file} cannot be read: {error}; try again") from error
    except DAMAGE as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> JournalDamagedError:
    return JournalDamagedError(f"the journal {file} is damaged as a whole: {error}; {RESTART}")


RESTART: Final = "restart the gateway: it salvages what is readable; do not put an older copy in its place"
"""The way out of damage."""
_WHO: Final = "run this as the user of the gateway (sudo -u ds-gateway ...) or as root"


def _rows(connection: sqlite3.Connection, prefix: str) -> Iterator[tuple[str, bytes | None]]:
    """Keys with this prefix, in order, and their rows; None for what is no row of ours."""
    found = connection.execute(
        "SELECT key, value FROM Cache WHERE key >= ? AND key < ? AND raw = 1 ORDER BY key",
        (prefix, prefix + "\uffff"),
    )
    for key, value in found:
        yield key, value if isinstance(value, bytes) else None


def _row(connection: sqlite3.Connection, key: str) -> bytes | None:
    return next((row for found, row in _rows(connection, key) if found == key), None)


def _small_rows(connection: sqlite3.Connection) -> JournalView:
    number, identity = _identity(connection)
    view = JournalView(identity, {}, {}, [], time.time(), number)
    counters = _row(connection, rows.COUNTERS)
    if counters is not None:
        try:
            losses = rows.decode_json(rows.COUNTERS, counters).get("losses", {})
            view.losses = {str(cause): (int(entries), int(count)) for cause, (entries, count) in losses.items()}
        except _WRONG as error:
            view.damaged.append(_said(rows.COUNTERS, error))
    for key, row in _rows(connection, "k/"):
        try:
            book = Book.from_row(rows.decode_json(key, row or b""))
            view.streams[book.title] = StreamView(book)
        except _WRONG as error:
            view.damaged.append(_said(key, error))
    return view


def _identity(connection: sqlite3.Connection) -> tuple[int, Identity]:
    row = _row(connection, rows.META)
    if row is None:
        raise JournalDamagedError(
            f"the journal has no row {rows.META}: it was never begun, or it is damaged; {RESTART}"
        )
    try:
        meta = rows.decode_json(rows.META, row)
        number = int(meta["format"])
        identity = Identity(
            str(meta["gateway"]),
            str(meta["install"]),
            str(meta.get("first_install", "")),
            str(meta.get("first_gateway", "")),
        )
    except _WRONG as error:
        raise JournalDamagedError(f"{_said(rows.META, error)}; {RESTART}") from error
    if number > rows.FORMAT:
        raise JournalFormatError(
            f"the journal has format {number}, this program knows formats up to {rows.FORMAT}: run the version "
            "that wrote it, or a newer one"
        )
    return number, identity


def _segments(connection: sqlite3.Connection, stream: StreamView) -> None:
    """Where the stream's records are: kept, waiting, on their way."""
    book = stream.book
    run = book.sealed
    begin = (book.open_segment, book.open_skip) if run is None else (run.first_segment, run.first_skip)
    for key, row in _rows(connection, rows.segment_key(book.number, 0)[:-_NUMBER_DIGITS]):
        digits = key[-_NUMBER_DIGITS:]
        number = int(digits) if digits.isdigit() else 0
        if not book.kept_segment <= number < book.next_segment or _is_moving(book, number):
            continue
        try:
            _sort(stream, number, rows.decode_segment(key, row or b""), begin)
        except TooScatteredError:
            raise JournalDamagedError(
                f"the journal's records of {book.name} are scattered over more ranges than an audit can hold"
            ) from None
        except _WRONG as error:
            told = stream.damaged_copies if number < begin[0] else stream.damaged
            if len(told) < MAX_DAMAGED_TOLD:
                told.append(_said(key, error))


def _is_moving(book: Book, number: int) -> bool:
    moving = book.exporting
    return moving is not None and moving.first_segment <= number <= moving.last_segment


def _sort(stream: StreamView, number: int, segment: rows.Segment, begin: tuple[int, int]) -> None:
    """Sort one segment's records: before ``begin`` (segment, records of it) all are resolved."""
    run = stream.book.sealed
    count = segment.count
    resolved = count if number < begin[0] else min(begin[1], count) if number == begin[0] else 0
    _add(stream.kept, segment, 0, resolved)
    _add(stream.waiting, segment, resolved, count)
    if run is not None and run.first_segment <= number <= run.last_segment:
        end = count if number < run.last_segment or run.last_end is None else run.last_end
        _add(stream.sealed, segment, resolved, end)
    if resolved < count and LOSS_MARK in segment.joined:
        for element in segment.elements()[resolved:]:
            loss = named_loss(orjson.loads(element))
            if loss is not None:
                stream.losses.append(loss)


def _add(spans: Spans, segment: rows.Segment, start: int, end: int) -> None:
    """Add the positions of these records: they ascend, and are not dense behind a loss record."""
    if start >= end:
        return
    first, last = segment.position(start), segment.position(end - 1)
    if last - first == end - 1 - start:
        spans.add(first, last)
    else:
        for element in segment.elements()[start:end]:
            spans.add(rows.position_of(element))


def _said(key: str, error: Exception) -> str:
    if isinstance(error, JournalDamagedError):
        return str(error)
    return f"journal row {key} is damaged, or of another version: {type(error).__name__}: {error}"
