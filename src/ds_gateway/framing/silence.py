"""Frames with nothing but silence between them.

Rules
- A frame is what came between two calls of `idle`; whoever reads calls it when nothing came for ``gap_seconds``.
- A frame longer than ``max_bytes`` is discarded up to the next silence and counted once. No more is held.
"""

from __future__ import annotations

from ds_gateway.framing.framer import Counters


class SilenceFramer(Counters):
    """Cuts where nothing came for some time. Not thread-safe; one for each link."""

    def __init__(self, *, gap_seconds: float, max_bytes: int) -> None:
        super().__init__()
        self.gap_seconds = gap_seconds
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._discards = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        return len(self._buffer)

    @property
    def begun_bytes(self) -> int:
        """See `ds_gateway.framing.Framer.begun_bytes`."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came. Only a silence ends a frame."""
        if self._discards:
            return []
        self._buffer += data
        if len(self._buffer) > self._max_bytes:
            self.overlong += 1
            self._discards = True
            self._buffer.clear()
        return []

    def idle(self) -> list[bytes]:
        """Return what came since the last silence."""
        self._discards = False
        frame = bytes(self._buffer)
        self._buffer.clear()
        return [frame] if frame else []

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame; see `ds_gateway.framing.Framer.reset`."""
        self._buffer.clear()
        self._discards = discard_to_boundary
