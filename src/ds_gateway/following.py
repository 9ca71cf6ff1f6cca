"""``ds-gateway tail``: records as they pass, read from the journal behind the commit that accepted them.

    {"verb": "tail", "after": null, "last": 3, ...}  -> {"records": [...], "after": {"1": [7, 120]}, "unseen": 0}
    {"verb": "tail", "after": {"1": [7, 120]}, ...}  -> what came since

Nothing is kept for an asker, and the records' own way is not touched: an answer reads the rows behind the segment
and the position that the asker has seen of each stream. What the journal kept no longer counts as unseen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.errors import ControlError, JournalDamagedError
from ds_gateway.journal.browsing import segments
from ds_gateway.journal.reading import read_books
from ds_gateway.journal.rows import position_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.journal.book import Book

MAX_RECORDS: Final = 1000
"""In one answer, of one stream."""
MAX_LAST: Final = 1000


@dataclass(frozen=True, slots=True)
class _Wanted:
    streams: frozenset[str]
    devices: frozenset[str]
    control: bool
    """Whether control records are wanted, too."""

    def has(self, record: dict[str, Any]) -> bool:
        return (not self.devices or record.get("device") in self.devices) and (
            self.control or "kind" not in record
        )


class Following:
    """Answers the verb ``tail`` about one data folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def answer(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """One request, in a thread. Raises `ControlError` and `JournalError`."""
        return await asyncio.to_thread(follow, self._directory, arguments)


def follow(directory: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One request, in this thread."""
    match arguments:
        case {
            "after": dict() | None as after,
            "last": int(last),
            "streams": list(streams),
            "devices": list(devices),
            "control": bool(control),
        } if 0 <= last <= MAX_LAST:
            wanted = _Wanted(frozenset(map(str, streams)), frozenset(map(str, devices)), control)
            return _follow(directory, after, last, wanted)
        case _:
            raise ControlError(f"tail takes after, last (0 to {MAX_LAST}), streams, devices and control")


def _follow(directory: Path, after: dict[str, Any] | None, last: int, wanted: _Wanted) -> dict[str, Any]:
    found: list[tuple[str, str, dict[str, Any]]] = []
    seen: dict[str, tuple[int, int]] = {}
    unseen = 0
    for stream in read_books(directory).streams.values():
        book = stream.book
        if wanted.streams and book.name not in wanted.streams:
            continue
        key = str(book.number)
        if after is None:
            seen[key] = book.next_segment - 1, book.next_position - 1
            records = _last(directory, book, last, wanted)
        else:
            records, seen[key], missed = _since(directory, book, _place(after.get(key)), wanted)
            unseen += missed
        found += [(str(record.get("time", "")), book.name, record) for record in records]
    found.sort(key=lambda each: each[0])
    if after is None:
        found = found[-last:] if last else []
    return {
        "records": [{"stream": name, "record": record} for _, name, record in found],
        "after": seen,
        "unseen": unseen,
    }


def _place(value: Any) -> tuple[int, int]:
    """The segment and the position that were seen; a stream that is new was not seen at all."""
    match value:
        case None:
            return 0, 0
        case [int(segment), int(position)]:
            return segment, position
        case _:
            raise ControlError("tail: after has a segment and a position for each stream")


def _last(directory: Path, book: Book, count: int, wanted: _Wanted) -> list[dict[str, Any]]:
    records: deque[dict[str, Any]] = deque()
    if count == 0:
        return []
    for number, segment in segments(directory, book.number, newest_first=True):
        if isinstance(segment, JournalDamagedError) or number >= book.next_segment:
            continue
        for element in reversed(segment.elements()):
            record = orjson.loads(element)
            if wanted.has(record):
                records.appendleft(record)
            if len(records) == count:
                return list(records)
    return list(records)


def _since(
    directory: Path, book: Book, place: tuple[int, int], wanted: _Wanted
) -> tuple[list[dict[str, Any]], tuple[int, int], int]:
    """Records behind a place, the place that was reached, and how many positions in between are not there."""
    records: list[dict[str, Any]] = []
    (last_segment, last_position), missed, count = place, 0, 0
    for number, segment in segments(directory, book.number, after=last_segment):
        if count >= MAX_RECORDS:
            return records, (last_segment, last_position), missed
        last_segment = number
        if isinstance(segment, JournalDamagedError) or segment.count == 0:
            continue
        for index, element in enumerate(segment.elements()):
            position = position_of(element)
            if position <= last_position:
                continue  # what a repair opened again
            missed += position - last_position - 1
            last_position = segment.last_position(index)
            count += 1
            record = orjson.loads(element)
            if wanted.has(record):
                records.append(record)
    if last_segment < book.next_segment - 1:
        # Trimmed already, all of it.
        missed += max(book.next_position - 1 - last_position, 0)
        last_segment, last_position = book.next_segment - 1, max(book.next_position - 1, last_position)
    return records, (last_segment, last_position), missed
