"""The records of a journal, for people to look at: read beside its gateway, and nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import reading, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.journal.book import Book


def segments(
    directory: Path, stream: int, *, after: int = 0, newest_first: bool = False
) -> Iterator[tuple[int, rows.Segment | JournalDamagedError]]:
    """A stream's segments behind a number, as one commit left them; what is damaged is part of the answer.

    Raises `JournalError` as `reading.read_journal`.
    """
    found = reading.numbered_rows(
        directory, rows.segment_key(stream, 0), rows.segment_key(stream, after), newest_first=newest_first
    )
    for key, row in found:
        digits = key.rpartition("/")[2]
        if not (digits.isascii() and digits.isdigit()):
            continue
        try:
            yield int(digits), rows.decode_segment(key, row or b"")
        except JournalDamagedError as error:
            yield int(digits), error


def where(book: Book, segment: int, index: int) -> str:
    """What is known of a record, by its segment and its place in it: open, sealed or kept."""
    if (segment, index) >= (book.open_segment, book.open_skip):
        return "open"
    run = book.sealed
    if run is not None and (segment, index) >= (run.first_segment, run.first_skip):
        return "sealed"
    return "kept"
