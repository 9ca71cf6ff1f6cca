"""What is wrong with a port that is open: nothing comes, or nothing of what comes can be read. Without I/O.

Times are on the monotonic clock, in seconds.
"""

from __future__ import annotations

import math
from typing import Final

MAX_BAD_FRAMES: Final = 20
"""So many frames in a row that could not be read are no glitch."""
MAX_BAD_BYTES: Final = 16 * 1024
"""So many bytes without one frame that could be read are none, either."""


class Health:
    """Of one port. Not thread-safe. ``silent_after_seconds`` None: silence is no alarm."""

    def __init__(self, silent_after_seconds: float | None) -> None:
        self._silent_after_seconds = silent_after_seconds
        self._heard_at = math.inf
        self._bad_frames = 0
        self._bad_bytes = 0
        self._last_reason = ""

    def opened(self, now: float) -> None:
        """The port is open: whatever there was before, it may be another device now."""
        self._heard_at = now
        self._bad_frames = self._bad_bytes = 0

    def closed(self) -> None:
        """There is nothing to hear."""
        self._heard_at = math.inf
        self._bad_frames = self._bad_bytes = 0

    def received(self, size_bytes: int) -> None:
        """Bytes came, whatever they are."""
        self._bad_bytes += size_bytes

    def good(self, now: float) -> None:
        """A frame could be read, or was an answer."""
        self.heard(now)
        self._bad_frames = self._bad_bytes = 0

    def heard(self, now: float) -> None:
        """A frame came, whatever it is."""
        self._heard_at = now

    def bad(self, count: int, reason: str) -> None:
        """Frames could not be read, for that reason."""
        self._bad_frames += count
        self._last_reason = reason if count else self._last_reason

    @property
    def unreadable(self) -> str:
        """Why it may be another device; empty if there is no reason to think so. The reason stays the same."""
        if self._bad_frames < MAX_BAD_FRAMES and self._bad_bytes < MAX_BAD_BYTES:
            return ""
        return "nothing of what comes can be read: this may be another device, or another baud rate"

    @property
    def last_reason(self) -> str:
        """Why the last frame could not be read."""
        return self._last_reason if self._bad_frames else "no frame at all"

    def silence(self, now: float) -> str:
        """What to say of the silence; empty if it is fine."""
        if self._silent_after_seconds is None or now < self._heard_at + self._silent_after_seconds:
            return ""
        return f"it is open, and no frame came for {self._silent_after_seconds:g} s"
