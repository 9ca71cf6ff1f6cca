"""The file of an export: one JSON value a line. Pure.

    {"ds_gateway_export": 1, "export": "k3f7...", "gateway": "line-7", "streams": [...], ...}
    {"stream": 0}                                     the records of the first stream follow
    {"id": "...", ...}                                a record in its final bytes
    ...
    {"end": "k3f7...", "records": 1200, "sha256": "..."}      of all lines before

A file without its last line is not whole, and is not imported.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.errors import JournalError
from ds_gateway.journal.moving import Incoming
from ds_gateway.mapping.errors import RefusedNameError
from ds_gateway.mapping.streams import check_stream_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION: Final = 1
MAX_STREAMS: Final = 10_000
_WORD: Final = re.compile(r"[a-z2-7]+")
_RECORD: Final = b'{"id":"'
_MAX_POSITION: Final = 2**62


class ExportFileError(JournalError):
    """A file is no export, or not a whole one."""


@dataclass(frozen=True, slots=True)
class StreamPart:
    """One stream of an export."""

    incoming: Incoming
    records: int
    """How many there are, unless rows of the journal turn out to be damaged."""
    server: str
    """Which server its records were for."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line."""

    export: str
    gateway: str
    streams: tuple[StreamPart, ...]

    @property
    def records(self) -> int:
        """Records of all streams."""
        return sum(each.records for each in self.streams)


def header_line(header: Header, *, time: str, version: str) -> bytes:
    """The first line of a file."""
    return _line({"ds_gateway_export": VERSION, **header_values(header), "time": time, "version": version})


def header_values(header: Header) -> dict[str, Any]:
    """A header as JSON values."""
    return {
        "export": header.export,
        "gateway": header.gateway,
        "streams": [
            {
                "name": each.incoming.name,
                "install": each.incoming.install,
                "incarnation": each.incoming.incarnation,
                "past": [list(one) for one in each.incoming.past],
                "first_position": each.incoming.first_position,
                "last_position": each.incoming.last_position,
                "anchor": each.incoming.anchor,
                "records": each.records,
                "server": each.server,
            }
            for each in header.streams
        ],
    }


def header_of(values: Any) -> Header:
    """A header from JSON values that come from outside. Raises `ExportFileError`."""
    match values:
        case {"export": str(export), "gateway": str(gateway), "streams": list(streams)} if (
            _WORD.fullmatch(export) and 0 < len(streams) <= MAX_STREAMS
        ):
            parts = tuple(map(_part, streams))
            if len({each.incoming.name for each in parts}) == len(parts):
                return Header(export, gateway, parts)
    raise ExportFileError("it has no header of an export")


def _part(values: Any) -> StreamPart:
    match values:
        case {
            "name": str(name),
            "install": str(install),
            "incarnation": str(incarnation),
            "past": list(past),
            "first_position": int(first),
            "last_position": int(last),
            "anchor": str() | None as anchor,
            "records": int(records),
            "server": str(server),
        } if (
            0 < first <= last < _MAX_POSITION
            and 0 < records <= last - first + 1
            and _is_id(install, 8)
            and _is_id(incarnation, 6)
        ):
            try:
                check_stream_name(name)
                earlier = tuple((str(word), int(until)) for word, until in past)
            except (RefusedNameError, ValueError, TypeError) as error:
                raise ExportFileError(f"it has a stream that cannot be: {error}") from None
            if all(_is_id(word, 6) for word, _ in earlier):
                incoming = Incoming(name, install, incarnation, earlier, first, last, anchor)
                return StreamPart(incoming, records, server)
    raise ExportFileError("it has a stream that is described wrongly")


def _is_id(word: str, length: int) -> bool:
    return len(word) == length and _WORD.fullmatch(word) is not None


def prefix_at(part: Incoming, position: int) -> bytes:
    """What the record at a position begins with."""
    names = (name for name, last in part.past if position <= last)
    return _RECORD + f"{part.install}.{next(names, part.incarnation)}.{position}".encode() + b'"'


def check_record(part: Incoming, record: bytes, after: int) -> int:
    """The position of a record behind another position. Raises `ExportFileError`: it is none of this stream's."""
    try:
        end = record.index(b'"', len(_RECORD))
        position = int(record[len(_RECORD) : end].rpartition(b".")[2])
        is_object = isinstance(orjson.loads(record), dict)
    except ValueError:
        position, is_object = 0, False
    if not (
        is_object
        and after < position
        and part.first_position <= position <= part.last_position
        and record.startswith(prefix_at(part, position))
    ):
        raise ExportFileError(f"it has something in the stream {part.name} that is no record of it")
    return position


def _line(values: Mapping[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


def stream_line(index: int) -> bytes:
    """What comes before the records of a stream."""
    return _line({"stream": index})


def record_line(record: bytes) -> bytes:
    """A record as a line."""
    if b"\n" in record:  # no version writes such; and it would be two lines
        record = orjson.dumps(orjson.loads(record))
    return record + b"\n"


@dataclass(slots=True)
class Ending:
    """Counts the lines of a file; makes or checks the last one."""

    records: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes) -> None:
        """Take a line."""
        self._hash.update(line)
        self.records += line.startswith(_RECORD)

    def line(self, export: str) -> bytes:
        """The last line."""
        return _line({"end": export, "records": self.records, "sha256": self._hash.hexdigest()})


def read_lines(lines: Iterator[bytes]) -> tuple[Header, Iterator[tuple[int, bytes]]]:
    """The header of a file, and its records: the number of the stream, and the record. Raises `ExportFileError`.

    What was not read to its end was not checked.
    """
    first = next(lines, b"")
    try:
        values = orjson.loads(first)
    except ValueError:
        values = None
    version = values.get("ds_gateway_export") if isinstance(values, dict) else None
    if version is None:
        raise ExportFileError("it is no export of a journal")
    if version != VERSION:
        raise ExportFileError(
            f"it has format {version}, this program knows {VERSION}: use the version that wrote it"
        )
    header = header_of(values)
    return header, _records(header, first, lines)


def _records(header: Header, first: bytes, lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    ending = Ending()
    ending.add(first)
    index, position = -1, 0
    for line in lines:
        if line.startswith(_RECORD) and index >= 0:
            ending.add(line)
            record = line.rstrip(b"\n")
            position = check_record(header.streams[index].incoming, record, position)
            yield index, record
            continue
        if line == ending.line(header.export) and index == len(header.streams) - 1:
            return
        if line != stream_line(index + 1) or index + 1 >= len(header.streams):
            raise ExportFileError(_NOT_WHOLE)
        ending.add(line)
        index, position = index + 1, 0
    raise ExportFileError(_NOT_WHOLE)


_NOT_WHOLE: Final = "it is not whole, or was changed: export again, and copy the file anew"
