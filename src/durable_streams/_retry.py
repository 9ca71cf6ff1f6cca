"""When to try again: capped exponential back-off with full jitter, and ``Retry-After``.

The random source and the clock are arguments, so that every delay can be tested without waiting for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class RandomSource(Protocol):
    """What is needed of `random.Random`."""

    def uniform(self, a: float, b: float) -> float:
        """Return a float between a and b."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay after failed attempt n: half to all of ``first_seconds * 2**n``, at most ``max_seconds``."""

    first_seconds: float = 0.1
    max_seconds: float = 30.0

    def delay(self, attempt: int, random: RandomSource) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (counted from 0)."""
        # The exponent is capped before it is used: 2.0**1100 raises OverflowError after a long outage.
        ceiling = min(self.max_seconds, self.first_seconds * 2.0 ** min(attempt, 60))
        return random.uniform(ceiling / 2, ceiling)


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110, 10.2.3), at least 0; None when absent or malformed.

    ``now`` is an aware UTC time, used for the date form only. The value is bounded to one hour: a server that
    asks for a day must not silence a gateway for a day.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), 3600.0)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), 3600.0)
