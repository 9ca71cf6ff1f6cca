"""When a health record is due. Pure.

| records of the stream that wait to be sent | a record comes                                                  |
|--------------------------------------------|-----------------------------------------------------------------|
| fewer than `FREE`                          | each interval, and with a change, `CHANGES` of them at once      |
| `FREE` and more                            | after the interval, then after twice of it, four times, ...      |
| `most`                                     | never                                                           |

So a year without network leaves about thirty records, dense in its beginning. With the first that can be sent
again the state has changed, and the newest is told at once.
"""

from __future__ import annotations

from typing import Final, Literal

FREE: Final = 12
"""An hour of them, as they are configured by default."""
MOST: Final = 40
CHANGES: Final = 6
"""Changes that are told at once; after that one for each interval: what flaps must not fill a paid line."""

Reason = Literal["start", "interval", "change", "stop"]


class Pace:
    """Decides by the time (monotonic, in seconds) and by what is told already."""

    def __init__(self, interval_seconds: float, *, most: int = MOST) -> None:
        self._interval = interval_seconds
        self._most = most
        self._told_at: float | None = None
        self._changes = float(CHANGES)
        self._counted_at: float | None = None

    def due(self, now: float, *, has_changed: bool, waiting: int) -> Reason | None:
        """Why a record is to be written now; None: it is not. ``waiting``: those that are not sent yet."""
        if waiting >= self._most:
            return None
        if self._told_at is None:
            if waiting < FREE:
                return "start"
            # Who starts again and again without a network is not to fill what there is.
            self._told_at = now
        if now - self._told_at >= self._spacing(waiting):
            return "change" if has_changed else "interval"
        if has_changed and waiting < FREE and self._changes_left(now) >= 1:
            return "change"
        return None

    def told(self, now: float, reason: Reason) -> None:
        """It was written."""
        left = self._changes_left(now)
        self._changes, self._counted_at = left, now
        if reason == "change":
            self._changes = max(left - 1, 0.0)
        self._told_at = now

    def _spacing(self, waiting: int) -> float:
        return self._interval * 2.0 ** max(waiting - FREE, 0)

    def _changes_left(self, now: float) -> float:
        if self._counted_at is None:
            return self._changes
        return min(self._changes + (now - self._counted_at) / self._interval, float(CHANGES))
