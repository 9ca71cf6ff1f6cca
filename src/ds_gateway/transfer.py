"""Moves what a journal has not sent to another journal, by a file: the verb ``journal`` of the control socket.

    export-begin -> export-page ... -> export-ending -> (the asker's file is on its disk) -> export-end
    import-begin -> import-part ... -> import-end, or import-cancel

Each step may be asked for again, also after a crash. The asker writes and reads the file: a service sees neither
a stick nor its user's folders. Without an open journal (a `Mover`) only what looks is answered.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import ControlError, JournalDamagedError
from ds_gateway.exports import (
    ExportFileError,
    Header,
    StreamPart,
    check_record,
    header_of,
    header_values,
    record_line,
    stream_line,
)
from ds_gateway.inspecting import inspect
from ds_gateway.journal.browsing import segments
from ds_gateway.journal.moving import Incoming, title
from ds_gateway.journal.rows import position_of
from ds_gateway.journal.state import random_letters
from ds_gateway.journal.transaction import renamed
from ds_gateway.logs import event, logger
from ds_gateway.records import Loss, element, loss_tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.mover import Mover

STEP_BYTES: Final = 1024 * 1024
"""The most that one page carries, unless a single segment has more."""
_ID_LETTERS: Final = 12

_log = logger("transfer")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a journal is used."""

    gateway: str
    server: str
    max_bytes: int | None
    receipts: str = ""
    """Name of the stream of receipts, which stays: a command's receipts are its gateway's own."""
    reads_back: bool = True


class Transfer:
    """Answers about one journal. Any thread; one request at a time."""

    def __init__(self, directory: Path, mover: Mover | None, place: Place) -> None:
        self._directory = directory
        self._mover = mover
        self._place = place
        self._lock = threading.Lock()

    async def answer(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """One request, in a thread. Raises `ControlError` and `JournalError`."""
        return await asyncio.to_thread(self.do, arguments)

    def do(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One request, in this thread."""
        action = arguments.get("action")
        if self._mover is None or not (isinstance(action, str) and action.startswith(("export", "import"))):
            return inspect(self._directory, arguments)
        with self._lock:
            match arguments:
                case {"action": "export-begin", "streams": list(names)}:
                    return self._begin(self._mover, [str(name) for name in names])
                case {"action": "export-page", "export": str(export), "after": [int(a), int(b), int(c)]}:
                    return self._page(self._mover, export, (a, b, c))
                case {"action": "export-ending", "export": str(export)}:
                    self._mover.end(export)
                    return {}
                case {"action": "export-end", "export": str(export)}:
                    self._mover.finish(export)
                    event(_log, "info", "journal.exported", export=export)
                    return {}
                case {"action": "export-cancel", "files_are_deleted": bool(deleted)}:
                    return self._cancel(self._mover, files_are_deleted=deleted)
                case {
                    "action": "import-begin",
                    "header": dict(header),
                    "size_bytes": int(size_bytes),
                    "other_server": bool(other),
                }:
                    return self._begin_import(self._mover, header_of(header), size_bytes, other_server=other)
                case {"action": "import-cancel"}:
                    return self._cancel_import(self._mover)
                case {
                    "action": "import-part",
                    "header": dict(header),
                    "stream": int(stream),
                    "records": list(records),
                }:
                    return self._take_in(self._mover, header_of(header), stream, records)
                case {"action": "import-end", "header": dict(header), "counts": list(counts)}:
                    return self._end_import(self._mover, header_of(header), counts)
                case _:
                    raise ControlError(f"journal {action}: other arguments were expected; see ds-gateway journal")

    # -- out

    def _begin(self, mover: Mover, names: Sequence[str]) -> dict[str, Any]:
        books = mover.books()
        known = {book.title for book in books}
        for name in names:
            if name not in known:
                raise ControlError(
                    f"there is no stream {name!r} in the journal; there are: {', '.join(sorted(known))}"
                )
        finished = {book.exporting.id for book in books if book.exporting is not None and book.exporting.written}
        for export in finished:
            mover.finish(export)  # a crash came in between; its file was whole
        begun = [book.name for book in mover.books() if book.exporting is not None]
        if begun and names and sorted(names) != sorted(begun):
            raise ControlError(
                f"an export of {', '.join(begun)} was begun and did not end: finish it first (without names), or "
                "give it up with --cancel"
            )
        if not begun:
            export = random_letters(_ID_LETTERS)
            mover.mark(export, lambda book: self._is_wanted(book, names))
            event(_log, "info", "journal.export.begun", export=export)
        parts = {book.number: _part(book, mover) for book in mover.books() if book.exporting is not None}
        found = next((book.exporting.id for book in mover.books() if book.exporting is not None), None)
        stays = [self._stays(book, names) for book in mover.books() if book.unresolved_records]
        header = None if found is None else Header(found, self._place.gateway, tuple(parts.values()))
        return {
            "export": found,
            "resumed": bool(begun),
            "header": None if header is None else header_values(header),
            "records": 0 if header is None else header.records,
            "stays": stays,
        }

    def _is_wanted(self, book: Book, names: Sequence[str]) -> bool:
        return (not names or book.name in names) and book.name != self._place.receipts

    def _stays(self, book: Book, names: Sequence[str]) -> dict[str, Any]:
        if names and book.name not in names:
            why = "not asked for"
        elif book.name == self._place.receipts:
            why = "receipts stay with the gateway that did the commands"
        elif book.imported:
            why = "imported; it is sent from here, or from the file that it came with"
        elif book.repairing:
            why = "in the middle of a repair: it is not known which of it is in the stream; wait for its server"
        elif book.sealed is None:
            why = "came since, or is the rest of a batch that the server refused"
        else:
            why = "sent, and nobody knows whether it arrived: it is settled as soon as the server answers"
        return {"stream": book.title, "records": book.unresolved_records, "why": why}

    def _page(self, mover: Mover, export: str, after: tuple[int, int, int]) -> dict[str, Any]:
        """Lines of the file behind a place: the number of a stream, of a segment in it, and the last position."""
        books = [book for book in mover.books() if book.exporting is not None and book.exporting.id == export]
        if not books:
            raise ControlError(f"there is no export {export} in the journal: begin again")
        lines: list[bytes] = []
        size = 0
        for index, book in enumerate(books):
            moving = book.exporting
            if moving is None or book.number < after[0]:
                continue
            if book.number == after[0]:
                number, position = after[1], after[2]
            else:
                lines.append(stream_line(index))
                number, position = moving.first_segment - 1, moving.first_position - 1
            damaged = False
            for found, segment in segments(self._directory, book.number, after=number):
                if found > moving.last_segment:
                    break
                number = found
                if isinstance(segment, JournalDamagedError):
                    event(_log, "error", "journal.row.damaged", row=str(segment))
                    damaged = True
                    continue
                if segment.count == 0:
                    continue
                if damaged:
                    lines.append(self._lost(book, mover, position + 1, segment.first_position - 1))
                    damaged = False
                current = renamed(book, segment) if found < book.reborn_segment else segment
                lines += map(record_line, current.elements())
                size += len(current.joined)
                position = segment.last_position(segment.count - 1)
                if size >= STEP_BYTES:
                    return _page_of(lines, [book.number, number, position])
            if damaged:
                lines.append(self._lost(book, mover, position + 1, moving.last_position))
        return _page_of(lines, None)

    def _lost(self, book: Book, mover: Mover, first: int, last: int) -> bytes:
        """What stands for records that cannot be read: where they would be, as in the journal itself."""
        now = mover.now_ns()
        loss = Loss("corrupt", certain=True, count=last - first + 1, first_ns=now, last_ns=now, detail=_DAMAGED)
        tail = loss_tail(loss, gateway=self._place.gateway, time_ns=now, positions=(first, last))
        return record_line(element(book.record_id(mover.install, first), tail))

    def _cancel(self, mover: Mover, *, files_are_deleted: bool) -> dict[str, Any]:
        marked = {book.exporting.id: book for book in mover.books() if book.exporting is not None}
        if not marked:
            raise ControlError("there is no export to cancel")
        for export, book in marked.items():
            if book.exporting is not None and book.exporting.written:
                raise ControlError(f"the export {export} is whole in its file: import that to send it from here")
            if book.exporting is not None and book.exporting.may_be_whole and not files_are_deleted:
                raise ControlError(
                    f"a file of the export {export} may be whole, and whoever imports it sends its records: run "
                    "the export again, and import its file, here if you like; or, if every file of it is deleted "
                    "and none was imported, --cancel --files-are-deleted"
                )
            late = mover.take_back(export)
            if late:
                raise ControlError(
                    f"the export {export} cannot be taken back: later records of {', '.join(late)} were sent, "
                    "and these would come behind them; finish it (ds-gateway journal export), and import the file "
                    "here or elsewhere"
                )
        return {"cancelled": list(marked)}

    # -- in

    def _begin_import(
        self, mover: Mover, header: Header, size_bytes: int, *, other_server: bool
    ) -> dict[str, Any]:
        books = {book.title: book for book in mover.books()}
        titles = [title(part.incoming, header.export) for part in header.streams]
        begun = [books[each] for each in titles if each in books]
        if begun and not any(book.importing for book in begun):
            raise ControlError(
                f"the export {header.export} was imported here before; ds-gateway status shows what became of it"
            )
        elsewhere = sorted({part.server for part in header.streams} - {self._place.server})
        if elsewhere and not other_server:
            raise ControlError(
                f"the export was made for {', '.join(elsewhere)}, and this gateway sends to {self._place.server}. "
                "If a copy of it is imported for the first server, too, both have the records, and neither "
                "notices: --other-server, if that is what you want"
            )
        for part in header.streams:
            if part.incoming.name == self._place.receipts:
                raise ControlError(
                    f"the export has records for {part.incoming.name}, where only this gateway's receipts may be"
                )
        here = sum(book.open_size for book in begun)
        if (left := mover.room_left() + here) < size_bytes:
            raise ControlError(
                f"the journal has room for {max(left, 0):,} bytes, and the file has {size_bytes:,}: make "
                "journal.max_bytes larger, or wait until something is sent"
            )
        mover.begin_import(header.export, [self._incoming(part) for part in header.streams])
        return {"resumed": bool(begun), "records": header.records}

    def _incoming(self, part: StreamPart) -> Incoming:
        """As it is to be sent here: read back from the anchor first, where that means something."""
        each = part.incoming
        # The embedded server of one gateway is not that of another, though both are called so.
        same = part.server == self._place.server and "://" in part.server
        return each if same and self._place.reads_back else each.without_anchor()

    def _cancel_import(self, mover: Mover) -> dict[str, Any]:
        half = sorted({book.imported for book in mover.books() if book.importing and book.open_records})
        if not half:
            raise ControlError("there is no half import to give up")
        mover.give_up_imports()
        event(_log, "info", "journal.import.given_up", export=", ".join(half))
        return {"cancelled": half}

    def _take_in(self, mover: Mover, header: Header, stream: int, records: Sequence[Any]) -> dict[str, Any]:
        if not 0 <= stream < len(header.streams):
            raise ControlError(f"the export has no stream {stream}")
        part = header.streams[stream].incoming
        elements: list[bytes] = []
        position = 0
        for record in records:
            if not isinstance(record, str):
                raise ExportFileError("records are text")
            elements.append(record.encode())
            position = check_record(part, elements[-1], position)
        size = sum(map(len, elements))
        if (left := mover.room_left()) < size:
            raise ControlError(
                f"the journal has room for {max(left, 0):,} bytes more: make journal.max_bytes larger, or wait "
                "until something is sent; then import again: it goes on where it ended. Or give it up: journal "
                "import --cancel"
            )
        mover.take_in(title(part, header.export), elements)
        return {"position": position_of(elements[-1]) if elements else 0}

    def _end_import(self, mover: Mover, header: Header, counts: Sequence[Any]) -> dict[str, Any]:
        """``counts``: records of each stream, as they were counted in the file."""
        if len(counts) != len(header.streams):
            raise ControlError("import-end has the count of each stream")
        books = {book.title: book for book in mover.books()}
        for part, count in zip(header.streams, counts, strict=False):
            book = books.get(title(part.incoming, header.export))
            if (
                book is None
                or len(counts) < len(header.streams)
                or (book.importing and book.open_records != count)
            ):
                raise ControlError(f"not all records of {part.incoming.name} are here: import again")
        mover.finish_import(header.export, [self._incoming(part) for part in header.streams])
        event(_log, "info", "journal.imported", export=header.export, records=header.records)
        return {"records": sum(counts)}


_DAMAGED: Final = "rows of the journal were damaged when they were exported"


def _part(book: Book, mover: Mover) -> StreamPart:
    moving = book.exporting
    assert moving is not None, "only what is being exported has a part"
    incoming = Incoming(
        book.name,
        mover.install,
        book.incarnation,
        tuple((str(name), int(last)) for name, last in book.past),
        moving.first_position,
        moving.last_position,
        book.anchor,
    )
    return StreamPart(incoming, moving.records, book.url)


def _page_of(lines: Sequence[bytes], following: list[int] | None) -> dict[str, Any]:
    return {"text": b"".join(lines).decode(), "next": following}
