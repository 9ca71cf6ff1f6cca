"""Retained messages come again, with a new packet id, whenever a subscription is made anew.

A retained message is dropped if it equals the message delivered last on its topic, whether that one came as a
retained or as a live one: most publishers that retain do so with every message, and a broker does not say so with
the live copy. After A, B, a retained A is news.

Kept is a digest of the last value for each topic. Topics beyond the bound are not remembered: their retained value
is taken again, never lost.

Durable: one row for each commit with the topics that changed in it. What is still needed of the oldest row is
moved to the newest one before there are too many of them.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ENTRY: Final = struct.Struct(">8s8s")
MAX_TOPICS: Final = 4096
SLACK: Final = 1024
"""Entries that may be out of date, beside as many as there are topics."""
_PREFIX: Final = "last-"

_Row = dict[bytes, bytes]


def row_name(commit: int) -> str:
    """Name of a commit's row; names sort as commits do."""
    return f"{_PREFIX}{commit:016x}"


class LastValues:
    """Digest of topic -> digest of the message delivered last. Knows its rows, writes none."""

    def __init__(self, max_topics: int = MAX_TOPICS) -> None:
        self._max_topics = max_topics
        self._rows: deque[tuple[int, _Row]] = deque()
        self._newest: dict[bytes, _Row] = {}
        """For each topic the row that has its last value."""
        self._entries = 0
        self._changed = False

    def __len__(self) -> int:
        return len(self._newest)

    def is_last(self, topic: bytes, digest: bytes) -> bool:
        """Whether this is the message delivered last on its topic."""
        row = self._newest.get(topic)
        return row is not None and row[topic] == digest

    def record(self, topic: bytes, digest: bytes, commit: int) -> None:
        """Remember a message of the coming commit."""
        if not self.is_last(topic, digest):
            self._put(topic, digest, self._row_of(commit))
            self._changed = True

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """The row to write, and those to delete (None), since the last call."""
        if not self._changed:
            return
        self._changed = False
        yield from self._tidy()
        commit, row = self._rows[-1]
        yield row_name(commit), b"".join(map(_ENTRY.pack, row.keys(), row.values()))

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Begin again from these rows. Raises `struct.error` or ValueError if one is none of these."""
        self._rows.clear()
        self._newest.clear()
        self._entries = 0
        for name in sorted(name for name in rows if name.startswith(_PREFIX)):
            row = self._row_of(int(name.removeprefix(_PREFIX), 16))
            for topic, digest in _ENTRY.iter_unpack(rows[name]):
                self._put(topic, digest, row)
        self._changed = False

    def _row_of(self, commit: int) -> _Row:
        if not self._rows or self._rows[-1][0] != commit:
            self._rows.append((commit, {}))
        return self._rows[-1][1]

    def _put(self, topic: bytes, digest: bytes, row: _Row) -> None:
        self._entries += topic not in row
        row[topic] = digest
        self._newest[topic] = row

    def _tidy(self) -> Iterator[tuple[str, None]]:
        newest = self._rows[-1][1]
        while len(self._rows) > 1 and (
            len(self._newest) > self._max_topics or self._entries > 2 * len(self._newest) + SLACK
        ):
            is_crowded = len(self._newest) > self._max_topics
            commit, row = self._rows.popleft()
            self._entries -= len(row)
            for topic, digest in row.items():
                if self._newest[topic] is not row:
                    continue
                if is_crowded:
                    del self._newest[topic]
                else:
                    self._put(topic, digest, newest)
            yield row_name(commit), None
