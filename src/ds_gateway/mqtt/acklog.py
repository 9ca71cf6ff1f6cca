"""Which commits were provably never acknowledged to the broker: one line for each connection (rule R1).

A delivery belongs to the connection that brought its last copy. Its PUBACK can have been sent on that
connection only, and only if its commit is not above what the connection had acknowledged when it ended.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Final

_LINE: Final = struct.Struct(">QQ")
MAX_CONNECTIONS: Final = 64
"""Connections remembered; what older ones brought counts as acknowledged, which can duplicate but not lose."""


class AckLog:
    """For each connection: the commit it began in, and the highest commit that it may have acknowledged."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._acked: list[int] = []
        self.packed = b""
        """The lines, to be kept."""

    def begin(self, commit: int, acked: int) -> None:
        """Close the connection before with what it had acknowledged; a new one begins in this commit."""
        if self._acked:
            self._acked[-1] = acked
        self._starts.append(commit)
        self._acked.append(acked)
        del self._starts[:-MAX_CONNECTIONS], self._acked[:-MAX_CONNECTIONS]
        self.packed = b"".join(map(_LINE.pack, self._starts, self._acked))

    def unacked(self, commit: int, acked_now: int) -> bool:
        """Whether what this commit carried was provably not acknowledged.

        ``acked_now`` is what the present connection had acknowledged when the copy in question came in.
        """
        line = bisect_right(self._starts, commit) - 1
        if line < 0:
            return False
        acked = acked_now if line == len(self._starts) - 1 else self._acked[line]
        return commit > acked

    @classmethod
    def from_bytes(cls, data: bytes) -> AckLog:
        """Restore what was `packed`."""
        log = cls()
        log.packed = data
        for start, acked in _LINE.iter_unpack(data):
            log._starts.append(start)
            log._acked.append(acked)
        return log
