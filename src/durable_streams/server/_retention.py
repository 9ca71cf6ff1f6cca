"""What a stream keeps (PROTOCOL section 4, retention): by bytes, by age, or all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_streams.server._store import Kept, Stream


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of each stream is kept; None is no limit.

    Of more than ``max_bytes`` the oldest messages go, but never the newest one. ``max_age_seconds`` counts only
    the time in which the store was served: data may be kept longer, and never shorter.
    """

    max_bytes: int | None = None
    max_age_seconds: float | None = None

    def oldest_at(self, at: float) -> float | None:
        """What was stored before this is too old at ``at``."""
        return None if self.max_age_seconds is None else at - self.max_age_seconds

    def surplus(self, stream: Stream, oldest: Sequence[Kept], at: float) -> tuple[int, int]:
        """How many of the stream's ``oldest`` messages are to go, and their bytes."""
        newest = stream.tail - stream.head - 1
        too_old = self.oldest_at(at)
        gone = 0
        for number, message in enumerate(oldest):
            too_large = self.max_bytes is not None and stream.size - gone > self.max_bytes and number < newest
            if not too_large and (too_old is None or message.at >= too_old):
                return number, gone
            gone += message.size
        return len(oldest), gone
