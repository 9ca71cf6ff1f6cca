"""The last keys of publishers, one row for each commit, packed; they outlive their records, and sessions."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from ds_gateway.mqtt.keys import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY_ENTRIES: Final = 32_768
_PREFIX: Final = "key-"


def row_name(commit: int) -> str:
    """Name of a commit's row; names sort as commits do."""
    return f"{_PREFIX}{commit:016x}"


class KeyRing:
    """At least the last ``max_entries`` keys. Knows its rows, writes none."""

    def __init__(self, max_entries: int = KEY_ENTRIES) -> None:
        self._max_entries = max_entries
        self._keys: set[bytes] = set()
        self._rows: deque[tuple[int, bytearray]] = deque()
        self._changed = False

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, commit: int) -> bool:
        """Remember a key of the coming commit; False if it is known already."""
        if key in self._keys:
            return False
        self._keys.add(key)
        if not self._rows or self._rows[-1][0] != commit:
            self._rows.append((commit, bytearray()))
        self._rows[-1][1].extend(key)
        self._changed = True
        return True

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """The row to write, and those to delete (None), since the last call."""
        if not self._changed:
            return
        self._changed = False
        commit, packed = self._rows[-1]
        yield row_name(commit), bytes(packed)
        while len(self._keys) - len(self._rows[0][1]) // KEY_BYTES >= self._max_entries:
            commit, packed = self._rows.popleft()
            self._keys.difference_update(_keys_in(packed))
            yield row_name(commit), None

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Begin again from these rows. Raises ValueError if one is none of this ring."""
        self._keys.clear()
        self._rows.clear()
        for name in sorted(name for name in rows if name.startswith(_PREFIX)):
            row = rows[name]
            if not row or len(row) % KEY_BYTES:
                raise ValueError(f"the row {name} has {len(row)} bytes")
            self._rows.append((int(name.removeprefix(_PREFIX), 16), bytearray(row)))
            self._keys.update(_keys_in(row))
        self._changed = False


def _keys_in(packed: bytes | bytearray) -> Iterator[bytes]:
    return (bytes(packed[start : start + KEY_BYTES]) for start in range(0, len(packed), KEY_BYTES))
