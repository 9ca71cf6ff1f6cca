"""The last deliveries, by packet id: one row for each commit, packed, as long as any of it is among the last.

A row is ``session u32, newest packet id u16, run u32``, then for each delivery ``packet id u16, digest 8 bytes``.
The newest row thereby also says where the broker's numbering stands (`numbering`).
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RING_ENTRIES: Final = 32_768
"""At most half of all packet ids: with more, an old entry and a new message could share an id."""

_HEAD: Final = struct.Struct(">IHI")
_ENTRY: Final = struct.Struct(">H8s")
_PACKET_IDS: Final = 65_536
_DIGEST_BYTES: Final = 8
_NO_COMMIT: Final = 0
"""Commits are numbered from 1."""
_PREFIX: Final = "ring-"


class Entry(NamedTuple):
    """What is known of a packet id: the digest of its last delivery, and the commit that carried it."""

    digest: bytes
    commit: int


class RowHead(NamedTuple):
    """What the newest row says beside its entries; packet id 0 stands for none."""

    session: int
    newest_mid: int
    run: int


def row_name(commit: int) -> str:
    """Name of a commit's row; names sort as commits do."""
    return f"{_PREFIX}{commit:016x}"


class _Row:
    """One commit's deliveries."""

    __slots__ = ("live", "packed")

    def __init__(self) -> None:
        self.packed = bytearray()
        self.live = 0
        """Packet ids whose last delivery it has."""


class Ring:
    """The last deliveries of one session, one for each packet id. Knows its rows, writes none.

    What counts is how many packet ids are known, not how many deliveries: a broker that delivers the same messages
    again and again, to a gateway that is killed each time, must not push others out.
    """

    def __init__(self, max_entries: int = RING_ENTRIES) -> None:
        self._max_entries = max_entries
        # By packet id, in flat arrays: a dictionary of as many entries would take seven megabytes more.
        self._digests = bytearray(_PACKET_IDS * _DIGEST_BYTES)
        self._commits = array("Q", bytes(_PACKET_IDS * 8))
        self._rows: dict[int, _Row] = {}
        """By commit, in rising order."""
        self._newest = _NO_COMMIT
        self._live = 0
        self._changed = False
        self._deleted: list[str] = []

    def __len__(self) -> int:
        return self._live

    def find(self, mid: int) -> Entry | None:
        """Return the last delivery with this packet id."""
        commit = self._commits[mid]
        if commit == _NO_COMMIT:
            return None
        start = mid * _DIGEST_BYTES
        return Entry(bytes(self._digests[start : start + _DIGEST_BYTES]), commit)

    def record(self, mid: int, digest: bytes, commit: int) -> None:
        """Remember a delivery of the coming commit."""
        if self._newest != commit:
            self._newest = commit
            self._rows[commit] = _Row()
        row = self._rows[commit]
        row.packed.extend(_ENTRY.pack(mid, digest))
        start = mid * _DIGEST_BYTES
        self._digests[start : start + _DIGEST_BYTES] = digest
        before = self._commits[mid]
        if before != commit:
            row.live += 1
            self._commits[mid] = commit
            self._live += before == _NO_COMMIT
            if before != _NO_COMMIT:
                self._supersede(before)
        self._changed = True

    def clear(self) -> None:
        """Forget everything, rows too."""
        self._deleted.extend(map(row_name, self._rows))
        self._commits = array("Q", bytes(_PACKET_IDS * 8))
        self._rows.clear()
        self._newest = _NO_COMMIT
        self._live = 0
        self._changed = False

    def changes(self, *, session: int, newest_mid: int, run: int) -> Iterator[tuple[str, bytes | None]]:
        """Rows to delete (None) and the row to write since the last call."""
        self._trim()
        for name in self._deleted:
            yield name, None
        self._deleted = []
        if self._changed:
            yield row_name(self._newest), _HEAD.pack(session, newest_mid, run) + self._rows[self._newest].packed
            self._changed = False

    def restore(self, rows: Mapping[str, bytes], session: int) -> RowHead | None:
        """Begin again from this session's rows. Return what the newest one says, None without any."""
        self.clear()
        self._deleted = []
        head: RowHead | None = None
        for name in sorted(name for name in rows if name.startswith(_PREFIX)):
            commit, row = int(name[len(_PREFIX) :], 16), rows[name]
            row_head = RowHead(*_HEAD.unpack_from(row))
            if row_head.session != session:
                continue
            head = row_head
            for mid, digest in _ENTRY.iter_unpack(row[_HEAD.size :]):
                self.record(mid, digest, commit)
        self._changed = False
        return head

    def _supersede(self, commit: int) -> None:
        """One more of a row's deliveries is not the last one of its packet id any more."""
        row = self._rows[commit]
        row.live -= 1
        if row.live == 0:
            del self._rows[commit]
            self._deleted.append(row_name(commit))

    def _trim(self) -> None:
        while self._rows:
            commit, row = next(iter(self._rows.items()))
            if self._live - row.live < self._max_entries:
                return
            del self._rows[commit]
            self._live -= row.live
            self._deleted.append(row_name(commit))
            for mid, _ in _ENTRY.iter_unpack(row.packed):
                if self._commits[mid] == commit:
                    self._commits[mid] = _NO_COMMIT
