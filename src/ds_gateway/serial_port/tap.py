"""Hearing what a port reads and writes, without being in its way."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from ds_gateway.captures import Chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 256
"""What a chunk takes beside its bytes, roughly."""


class Tap:
    """Chunks that nobody has taken yet; at most `MAX_BYTES`, then what comes is lost and told. Any thread.

    ``begun_at`` is on the monotonic clock, as is the time of each chunk.
    """

    def __init__(self, begun_at: float, max_bytes: int = MAX_BYTES) -> None:
        self._begun_at = begun_at
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._lost = 0

    def heard(self, data: bytes, now: float, *, is_sent: bool = False) -> None:
        """The source read, or wrote, these bytes. Neither blocks nor raises."""
        after = max(now - self._begun_at, 0.0)
        size = len(data) + _CHUNK_BYTES
        with self._lock:
            if self._bytes + size > self._max_bytes:
                self._lost += len(data)
                return
            if self._lost:
                self._chunks.append(Chunk(after, b"", lost_bytes=self._lost))
                self._lost = 0
            self._chunks.append(Chunk(after, data, is_sent=is_sent))
            self._bytes += size

    def take(self) -> Sequence[Chunk]:
        """All since the last call, in their order."""
        with self._lock:
            taken, self._chunks, self._bytes = list(self._chunks), deque(), 0
        return taken
