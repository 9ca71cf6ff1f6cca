"""How rows look: pure functions from values to bytes and back.

| key                      | row                                                                   |
|--------------------------|-----------------------------------------------------------------------|
| `a/meta`                 | format number, gateway id, install id                                 |
| `c/counters`             | number of the last commit, quarantine bounds, counters                |
| `d/<stream>`             | what was announced about each device of the stream                    |
| `g/<source>/<name>`      | a source's gate: packet ids, sessions                                 |
| `k/<stream>`             | the stream: name, producer, positions, sealed batch                   |
| `q/<number>`             | quarantine: bytes that did not become a record                        |
| `r/<stream>/<number>`    | a resolved batch that is kept for repair                              |
| `s/<stream>/<number>`    | a segment: the records of one stream accepted in one transaction      |

`<stream>` and `<number>` are dense counters. Every row begins with the CRC-32 of its key and the rest; up to
format 2 it was of the rest alone, and those rows stay as they are. The small ones sort before the many, so that
opening reads the former without scanning the latter.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.errors import JournalDamagedError
from ds_gateway.records import control_info

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT: Final = 5
"""The newest that this program knows."""
PLAIN_FORMAT: Final = 4
"""What a journal has as long as nothing was exported from it or imported: older programs can go on with it."""
META: Final = "a/meta"
COUNTERS: Final = "c/counters"
ROW_OVERHEAD_BYTES: Final = 150
"""What SQLite and the index need for a row beside its value, roughly; for the journal's own accounting."""

INSTALL_LETTERS: Final = 8
INCARNATION_LETTERS: Final = 6

_ID: Final = b'{"id":"'
_CRC: Final = struct.Struct("<I")
_SEGMENT: Final = struct.Struct("<QI")


def announced_key(stream: int) -> str:
    """Key of a stream's announced devices."""
    return f"d/{stream:06d}"


def gate_key(source: str, name: str) -> str:
    """Key of one row of a source's gate."""
    return f"g/{source}/{name}"


def stream_key(stream: int) -> str:
    """Key of a stream's state."""
    return f"k/{stream:06d}"


def quarantine_key(number: int) -> str:
    """Key of a quarantined payload."""
    return f"q/{number:012d}"


def kept_key(stream: int, number: int) -> str:
    """Key of a resolved batch."""
    return f"r/{stream:06d}/{number:012d}"


def segment_key(stream: int, number: int) -> str:
    """Key of a segment."""
    return f"s/{stream:06d}/{number:012d}"


def segment_of(key: str) -> tuple[int, int]:
    """The stream and the number in a segment's key. Raises ValueError for another key."""
    _, stream, number = key.split("/")
    return int(stream), int(number)


def protect(key: str, payload: bytes) -> bytes:
    """Put the checksum in front. It is of the key, too: a row under another key is damage."""
    return _CRC.pack(zlib.crc32(payload, zlib.crc32(key.encode()))) + payload


def unprotect(key: str, row: bytes) -> bytes:
    """Check and remove the checksum. Raises `JournalDamagedError`."""
    if not is_whole(key, row):
        raise JournalDamagedError(
            f"journal row {key} is damaged: its checksum does not match its {len(row)} bytes"
        )
    return row[_CRC.size :]


def is_whole(key: str, row: bytes) -> bool:
    """Whether the row is what was written under this key."""
    if len(row) < _CRC.size:
        return False
    payload = row[_CRC.size :]
    # Up to format 2 it was of the rest alone.
    return _CRC.unpack_from(row)[0] in {zlib.crc32(payload, zlib.crc32(key.encode())), zlib.crc32(payload)}


def encode_json(key: str, value: dict[str, Any]) -> bytes:
    """Encode a small row."""
    return protect(key, orjson.dumps(value))


def decode_json(key: str, row: bytes) -> dict[str, Any]:
    """Decode a small row. Raises `JournalDamagedError`."""
    try:
        value = orjson.loads(unprotect(key, row))
    except ValueError as error:
        raise JournalDamagedError(f"journal row {key} is damaged: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise JournalDamagedError(f"journal row {key} is damaged: not an object")
    return value


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive records of one stream: final bytes, position of the first, and where each one ends."""

    first_position: int
    lengths: tuple[int, ...]
    joined: bytes
    """The elements, joined by commas: ready to be put between the brackets of a batch."""

    @property
    def count(self) -> int:
        """Number of records."""
        return len(self.lengths)

    def part(self, skip: int, end: int | None) -> bytes:
        """The elements from one record to before another, joined by commas. ``end`` None: to the last."""
        if skip == 0 and end is None:
            return self.joined
        start = sum(self.lengths[:skip]) + skip
        lengths = self.lengths[skip:end]
        return self.joined[start : start + sum(lengths) + len(lengths) - 1]

    def position(self, index: int) -> int:
        """Position of a record, as its id has it: behind a loss record positions are not dense."""
        return position_of(self.part(index, index + 1))

    def last_position(self, index: int) -> int:
        """The last position that a record stands for: its own, unless it is a loss record of several."""
        record = self.part(index, index + 1)
        position = position_of(record)
        if b'"kind":"loss"' in record:
            info = control_info(orjson.loads(record), "loss")
            # A salvaged loss record tells of another journal's positions, one of the server's of earlier ones.
            if info.get("first_position") == position:
                position = max(position, info.get("last_position", position))
        return position

    def elements(self) -> list[bytes]:
        """The records, each in its final bytes."""
        elements, start = [], 0
        for length in self.lengths:
            elements.append(self.joined[start : start + length])
            start += length + 1
        return elements


def record_ids(segment: Segment) -> list[str]:
    """The ids of a segment's records."""
    return [id_of(element) for element in segment.elements()]


def id_of(element: bytes) -> str:
    """The id of a record in its final bytes."""
    return element[len(_ID) : element.index(b'"', len(_ID))].decode()


def position_of(element: bytes) -> int:
    """The position in a record's id."""
    return int(id_of(element).rpartition(".")[2])


def with_incarnation(element: bytes, incarnation: str) -> bytes:
    """A record under another incarnation: its id has a fixed form (`Book.record_id`)."""
    start = len(_ID) + INSTALL_LETTERS + 1
    return element[:start] + incarnation.encode() + element[start + INCARNATION_LETTERS :]


def make_segment(first_position: int, elements: Sequence[bytes]) -> Segment:
    """Put records together."""
    return Segment(first_position, tuple(map(len, elements)), b",".join(elements))


def encode_segment(key: str, segment: Segment) -> bytes:
    """Encode a segment: position, count, lengths, elements."""
    head = _SEGMENT.pack(segment.first_position, segment.count)
    return protect(key, head + struct.pack(f"<{segment.count}I", *segment.lengths) + segment.joined)


def decode_segment(key: str, row: bytes) -> Segment:
    """Decode a segment. Raises `JournalDamagedError`."""
    payload = unprotect(key, row)
    try:
        first_position, count = _SEGMENT.unpack_from(payload)
        start = _SEGMENT.size + 4 * count
        lengths = struct.unpack_from(f"<{count}I", payload, _SEGMENT.size)
    except struct.error as error:
        # What the checksum says is right, but it is another row: the database's index is damaged.
        raise JournalDamagedError(f"journal row {key} is damaged: not a segment ({error})") from error
    return Segment(first_position, lengths, payload[start:])
