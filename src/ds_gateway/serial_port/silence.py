"""When something may be written to a line: it is open, it has settled, and it has been silent for long enough.

Shared by all that write to one line. Times are on the monotonic clock, in seconds.
"""

from __future__ import annotations

import math


class Silence:
    """The state of one line, which is closed at first. Not thread-safe."""

    def __init__(self) -> None:
        self.is_open = False
        self.after_seconds = 0.0
        """What the last request wants of silence after it."""
        self._quiet_since = -math.inf
        self._settled_at = -math.inf

    def opened(self, now: float, settle_seconds: float) -> None:
        """It is open; nobody knows whether it was silent before. ``settle_seconds`` nothing is written."""
        self.is_open = True
        self._quiet_since = now
        self._settled_at = now + settle_seconds

    def closed(self) -> None:
        """It vanished, or was closed."""
        self.is_open = False

    def broken(self, now: float) -> None:
        """Bytes came, or left."""
        self._quiet_since = now

    def lasts_until(self, turnaround_seconds: float) -> float:
        """From when on a request may be written that wants so much silence before it; never while it is closed."""
        if not self.is_open:
            return math.inf
        return max(self._settled_at, self._quiet_since + max(self.after_seconds, turnaround_seconds))
