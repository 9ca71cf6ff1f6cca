"""Frames that end with a delimiter.

Rules
- A frame is what stands between two delimiters, without them. One of nothing but blanks is no frame: for lines
  these are CR and LF.
- A frame longer than ``max_bytes`` is discarded up to its delimiter and counted once.
- At most ``max_bytes`` and a delimiter are held between two calls, whatever the sender does.
- Each byte is searched once and copied a constant number of times, whatever the chunking.
"""

from __future__ import annotations

from ds_gateway.framing.framer import Counters


class LineFramer(Counters):
    """Cuts at a delimiter of one or more bytes. Not thread-safe; one for each link."""

    def __init__(self, delimiter: bytes, max_bytes: int, *, blanks: bytes = b"\r\n") -> None:
        super().__init__()
        if not delimiter:
            raise ValueError("a delimiter has at least one byte")
        if max_bytes < 1:
            raise ValueError("a frame may have at least one byte")
        self._delimiter = delimiter
        self._blanks = blanks
        # A delimiter that is not complete yet has at most this many bytes in the buffer.
        self._overlap = len(delimiter) - 1
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._discarding = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        return len(self._buffer)

    @property
    def begun_bytes(self) -> int:
        """See `ds_gateway.framing.Framer.begun_bytes`."""
        # Line ends alone are the rest of a delimiter, or make no frame.
        return len(self._buffer) if not self._discarding and self._buffer.strip(self._blanks) else 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that they complete, oldest first."""
        unseen = max(0, len(self._buffer) - self._overlap)
        self._buffer += data
        if self._buffer.find(self._delimiter, unseen) < 0:
            self._bound()
            return []
        *lines, rest = bytes(self._buffer).split(self._delimiter)
        self._buffer = bytearray(rest)
        if self._discarding:
            self._discarding = False
            del lines[0]
        frames = [line for line in lines if len(line) <= self._max_bytes]
        self.overlong += len(lines) - len(frames)
        self._bound()
        return [frame for frame in frames if frame.strip(self._blanks)]

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame; see `ds_gateway.framing.Framer.reset`."""
        self._buffer = bytearray()
        self._discarding = discard_to_boundary

    def _bound(self) -> None:
        """Give up an unfinished frame that is too long by now, whatever follows."""
        if not self._discarding and len(self._buffer) > self._max_bytes + self._overlap:
            self.overlong += 1
            self._discarding = True
        if self._discarding:
            # No delimiter is complete in the buffer, so one can only begin in its last bytes.
            del self._buffer[: max(0, len(self._buffer) - self._overlap)]
