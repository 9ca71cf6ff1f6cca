"""What is in a journal, as JSON values: for ``ds-gateway journal ls | show`` and ``identity show``.

The same for a running gateway, which answers through the control socket, and for a command without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.errors import ControlError, JournalDamagedError
from ds_gateway.journal.browsing import segments, where
from ds_gateway.journal.reading import read_books
from ds_gateway.journal.rows import position_of
from ds_gateway.records import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.reading import JournalView

STEP_RECORDS: Final = 1000
STEP_BYTES: Final = 2 * 1024 * 1024
"""The most that one answer carries."""


def inspect(directory: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One request. Raises `ControlError` and `JournalError`."""
    match arguments:
        case {"action": "ls"}:
            return listing(directory)
        case {"action": "show", "stream": str(stream), "after": int(after)}:
            return page(directory, stream, after)
        case {"action": "identity"}:
            return identity(directory)
        case _:
            raise ControlError("journal takes an action: ls, identity, or show with stream and after")


def listing(directory: Path) -> dict[str, Any]:
    """The streams of a journal, with counts; without looking at the records."""
    view = read_books(directory)
    return {
        "gateway": view.identity.gateway,
        "install": view.identity.short_install,
        "data_dir": str(directory),
        "format": view.format,
        "time": rfc3339(int(view.taken_at * 1e9)),
        "bytes": sum(stream.book.size for stream in view.streams.values()),
        "streams": [_stream(title, stream.book) for title, stream in view.streams.items()],
        "losses": {
            cause: {"entries": entries, "records": records}
            for cause, (entries, records) in sorted(view.losses.items())
        },
        "damaged": view.damaged,
    }


def _stream(title: str, book: Book) -> dict[str, Any]:
    return {
        "name": title,
        "stream": book.name,
        "url": book.url,
        "incarnation": book.incarnation,
        "producer": book.producer_id,
        "epoch": book.epoch,
        "accepted": book.next_position - book.begins,
        "in_journal": book.unresolved_records,
        "open": book.open_records,
        "in_flight": 0 if book.sealed is None else book.sealed.count,
        "in_stream": book.resolved_records,
        "lost": book.lost_positions,
        "exported": book.exported_records,
        "exporting": None if book.exporting is None else book.exporting.id,
        "import": book.imported or None,
        "bytes": book.size,
        "kept_bytes": book.kept_size,
        "repairing": book.repairing,
    }


def identity(directory: Path) -> dict[str, Any]:
    """Who the journal belongs to, and under which names others know it."""
    view = read_books(directory)
    own = view.identity
    return {
        "gateway": own.gateway,
        "install": own.install,
        "ids": f"{own.short_install}.INCARNATION.POSITION",
        "producer": own.producer_id,
        "mqtt_client": own.mqtt_client,
        "data_dir": str(directory),
        "streams": [{"name": name, "incarnation": each.book.incarnation} for name, each in view.streams.items()],
    }


def page(directory: Path, stream: str, after: int) -> dict[str, Any]:
    """Some records of a stream, the oldest first, behind a segment; ``next``: where to go on."""
    book = book_of(read_books(directory), stream)
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    size = 0
    for number, segment in segments(directory, book.number, after=after):
        if isinstance(segment, JournalDamagedError):
            damaged.append(str(segment))
            continue
        if found and (len(found) + segment.count > STEP_RECORDS or size + len(segment.joined) > STEP_BYTES):
            return {"records": found, "damaged": damaged, "next": number - 1}
        size += len(segment.joined)
        found += [
            {
                "position": position_of(element),
                "state": where(book, number, index),
                "record": orjson.loads(element),
            }
            for index, element in enumerate(segment.elements())
        ]
    return {"records": found, "damaged": damaged, "next": None}


def book_of(view: JournalView, stream: str) -> Book:
    """The stream of this name. Raises `ControlError`: there is none."""
    found = view.streams.get(stream)
    if found is None:
        names = ", ".join(view.streams) or "none yet"
        raise ControlError(f"there is no stream {stream!r} in the journal; there are: {names}")
    return found.book
