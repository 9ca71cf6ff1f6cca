"""Reads the rows of a damaged SQLite file page by page, without SQLite. Pure: pages come in, rows come out.

SQLite gives up at the first page that is not what it expects; a row is still there when its own page is. So every
page is looked at by itself, as the file format says (https://www.sqlite.org/fileformat2.html):

    page 1     header: page size, list of free pages, schema
    0x0d       leaf of a table: cells, each with a row, long rows go on in a chain of overflow pages
    0x02 05 0a inner pages and the index: nothing in them is needed
    0x00       overflow, or a free page
    no kind    every so often a page that says which page belongs to which: auto-vacuum needs it, nobody else

That a row is what was written is known by its checksum, not by what is around it. A free page holds rows that were
deleted; it is left out where the list of free pages can be read.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"SQLite format 3\0"
DEFAULT_PAGE_BYTES: Final = 4096
"""What SQLite makes where nobody says otherwise: for a file whose header is gone."""
MIN_PAGE_BYTES: Final = 512
MAX_PAGE_BYTES: Final = 65536

_LEAF: Final = 0x0D
_KNOWN_KINDS: Final = frozenset({0x00, 0x02, 0x05, 0x0A, _LEAF})
_HEADER_BYTES: Final = 100
_KEY: Final = re.compile(r"[a-z]/[ -~]{1,400}")
_KEY_COLUMN: Final = 1
_VALUE_COLUMN: Final = 11
_COLUMNS: Final = 12
_FIRST_BLOB: Final = 12
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
_MORE_FOLLOWS: Final = 0x80
_MAX_VALUE_BYTES: Final = 2**30


class Pages(Protocol):
    """A file of pages, numbered from 1."""

    page_bytes: int
    count: int

    def read(self, number: int) -> bytes | None:
        """One whole page; None where it cannot be read or is not there."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is."""

    page: int
    cell: int


@dataclass(frozen=True, slots=True)
class Row:
    """A row that could be read. Whether it is what was written, its checksum says."""

    key: str
    value: bytes
    place: Place


class _DamagedError(Exception):
    """This cell is not what SQLite writes."""


def page_bytes(header: bytes) -> int:
    """The page size that a file's first bytes tell, or the usual one."""
    if header[: len(MAGIC)] == MAGIC and len(header) >= _HEADER_BYTES:
        size = int.from_bytes(header[16:18], "big")
        size = MAX_PAGE_BYTES if size == 1 else size
        if MIN_PAGE_BYTES <= size <= MAX_PAGE_BYTES and size.bit_count() == 1:
            return size
    return DEFAULT_PAGE_BYTES


class Carver:
    """Goes over all pages once. ``damaged`` counts pages and cells that should have carried rows and did not."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.damaged = 0

    def rows(self) -> Iterator[Row]:
        """Every row that is readable; the same key can come more than once where old copies are left."""
        free = self._free_pages()
        for number in range(2, self._pages.count + 1):
            if number in free:
                continue
            page = self._pages.read(number)
            if page is not None and page[0] == _LEAF:
                yield from self._leaf(number, page)
            elif (page is None or page[0] not in _KNOWN_KINDS) and not _is_map(number, self._pages.page_bytes):
                self.damaged += 1

    def row(self, place: Place) -> Row | None:
        """The row at a place; None where it cannot be read any more."""
        page = self._pages.read(place.page)
        if page is None:
            return None
        try:
            return self._row(page, place)
        except (_DamagedError, IndexError, struct.error):
            return None

    def _leaf(self, number: int, page: bytes) -> Iterator[Row]:
        count = int.from_bytes(page[3:5], "big")
        if count > (len(page) - 8) // 2:
            self.damaged += 1
            count = (len(page) - 8) // 2
        for cell in range(count):
            try:
                row = self._row(page, Place(number, cell))
            except (_DamagedError, IndexError, struct.error):
                self.damaged += 1
                continue
            if row is not None:
                yield row

    def _row(self, page: bytes, place: Place) -> Row | None:
        """The row of a cell; None for a row of another table."""
        (start,) = struct.unpack_from(">H", page, 8 + 2 * place.cell)
        length, start = _varint(page, start)
        _rowid, start = _varint(page, start)
        if not 0 < length < _MAX_VALUE_BYTES:
            raise _DamagedError
        payload = self._payload(page, start, length)
        return _record(payload, place)

    def _payload(self, page: bytes, start: int, length: int) -> bytes:
        usable = self._pages.page_bytes
        local = _local_bytes(length, usable)
        if start + local > usable:
            raise _DamagedError
        if local == length:
            return page[start : start + length]
        parts = [page[start : start + local]]
        missing = length - local
        (following,) = struct.unpack_from(">I", page, start + local)
        while missing > 0:
            # No page number comes twice: what is missing shrinks with each page.
            overflow = self._pages.read(following) if 0 < following <= self._pages.count else None
            if overflow is None:
                raise _DamagedError
            (following,) = struct.unpack_from(">I", overflow)
            parts.append(overflow[4 : 4 + min(missing, usable - 4)])
            missing -= usable - 4
        return b"".join(parts)

    def _free_pages(self) -> set[int]:
        """Pages that hold deleted rows only, as far as their list can be read."""
        free: set[int] = set()
        first = self._pages.read(1)
        if first is None or first[: len(MAGIC)] != MAGIC:
            return free
        (trunk,) = struct.unpack_from(">I", first, 32)
        while 1 < trunk <= self._pages.count and trunk not in free:
            page = self._pages.read(trunk)
            if page is None:
                break
            following, count = struct.unpack_from(">II", page)
            if count > len(page) // 4 - 2:
                break
            free.add(trunk)
            free.update(struct.unpack_from(f">{count}I", page, 8))
            trunk = following
        return free


def _is_map(number: int, usable: int) -> bool:
    """Whether it is one of auto-vacuum's own pages: the second, and one for each full one of them."""
    return (number - 2) % (usable // 5 + 1) == 0


def _local_bytes(length: int, usable: int) -> int:
    """How much of a row of this length is in the leaf itself."""
    if length <= usable - 35:
        return length
    least = (usable - 12) * 32 // 255 - 23
    fitting = least + (length - least) % (usable - 4)
    return fitting if fitting <= usable - 35 else least


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[start + index]
        value = value << 7 | byte & 0x7F
        if byte < _MORE_FOLLOWS:
            return value, start + index + 1
    return value << 8 | data[start + 8], start + 9


def _record(payload: bytes, place: Place) -> Row | None:
    """Take a journal's row apart; None for a row of another table."""
    header_bytes, at = _varint(payload, 0)
    if not at <= header_bytes <= len(payload):
        raise _DamagedError
    kinds: list[int] = []
    while at < header_bytes:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if len(kinds) != _COLUMNS:
        return None
    starts = [header_bytes]
    for kind in kinds:
        starts.append(starts[-1] + _column_bytes(kind))
    if starts[-1] != len(payload) or kinds[_KEY_COLUMN] % 2 == 0 or kinds[_VALUE_COLUMN] % 2 == 1:
        raise _DamagedError
    try:
        key = payload[starts[_KEY_COLUMN] : starts[_KEY_COLUMN + 1]].decode("ascii")
    except UnicodeDecodeError:
        raise _DamagedError from None
    if _KEY.fullmatch(key) is None:
        raise _DamagedError
    return Row(key, payload[starts[_VALUE_COLUMN] :], place)


def _column_bytes(kind: int) -> int:
    if kind < len(_INTEGER_BYTES):
        return _INTEGER_BYTES[kind]
    if kind < _FIRST_BLOB:
        raise _DamagedError
    return (kind - _FIRST_BLOB) // 2
