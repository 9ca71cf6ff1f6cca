"""The last deliveries, by packet id: one row for each commit, packed, as long as any of it is among the last.

A row is ``session u32, newest packet id u16, run u32``, then for each delivery ``packet id u16, digest 8 bytes``.
The newest row thereby also says where the broker's numbering stands (`numbering`).
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RING_ENTRIES: Final = 32_768
"""At most half of all packet ids: with more, an old entry and a new message could share an id."""

_HEAD: Final = struct.Struct(">IHI")
_ENTRY: Final = struct.Struct(">H8s")
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


class Ring:
    """The last deliveries of one session. Knows its rows, writes none."""

    def __init__(self, max_entries: int = RING_ENTRIES) -> None:
        self._max_entries = max_entries
        self._by_mid: dict[int, Entry] = {}
        self._rows: deque[tuple[int, bytearray]] = deque()
        self._entries = 0
        self._changed = False
        self._deleted: list[str] = []

    def __len__(self) -> int:
        return self._entries

    def find(self, mid: int) -> Entry | None:
        """Return the last delivery with this packet id."""
        return self._by_mid.get(mid)

    def record(self, mid: int, digest: bytes, commit: int) -> None:
        """Remember a delivery of the coming commit."""
        if not self._rows or self._rows[-1][0] != commit:
            self._rows.append((commit, bytearray()))
        self._rows[-1][1].extend(_ENTRY.pack(mid, digest))
        self._by_mid[mid] = Entry(digest, commit)
        self._entries += 1
        self._changed = True

    def clear(self) -> None:
        """Forget everything, rows too."""
        self._deleted.extend(row_name(commit) for commit, _ in self._rows)
        self._by_mid.clear()
        self._rows.clear()
        self._entries = 0
        self._changed = False

    def changes(self, *, session: int, newest_mid: int, run: int) -> Iterator[tuple[str, bytes | None]]:
        """Rows to delete (None) and the row to write since the last call."""
        self._trim()
        for name in self._deleted:
            yield name, None
        self._deleted = []
        if self._changed:
            commit, packed = self._rows[-1]
            yield row_name(commit), _HEAD.pack(session, newest_mid, run) + packed
            self._changed = False

    def restore(self, rows: Mapping[str, bytes], session: int) -> RowHead | None:
        """Begin again from this session's rows. Return what the newest one says, None without any."""
        self.clear()
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
        self._deleted = []
        return head

    def _trim(self) -> None:
        while self._rows:
            commit, packed = self._rows[0]
            count = len(packed) // _ENTRY.size
            if self._entries - count < self._max_entries:
                return
            self._rows.popleft()
            self._entries -= count
            self._deleted.append(row_name(commit))
            for mid, _ in _ENTRY.iter_unpack(packed):
                entry = self._by_mid.get(mid)
                if entry is not None and entry.commit == commit:
                    del self._by_mid[mid]
