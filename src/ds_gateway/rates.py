"""How fast streams fill and empty, and when a backlog will be sent: from a minute of what the journal said. Pure.

Two spans, because they answer two questions. A device that speaks every ten seconds has a rate only over a
minute. When a backlog is sent depends on what happens now: a minute that began while the server was away says
nothing of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ds_gateway.journal import StreamSnapshot

LOOK_SECONDS: Final = 2.0
"""The least time between two looks that are kept."""
SPAN_SECONDS: Final = 60.0
CATCH_UP_SECONDS: Final = 10.0
_MAX_CATCH_UP_SECONDS: Final = 30 * 86400.0
"""What takes longer is not going to be."""


@dataclass(frozen=True, slots=True)
class StreamRate:
    """One stream's pace. None: not known yet, or there is none."""

    accepted_per_second: float | None = None
    sent_per_second: float | None = None
    """Records that were confirmed to be in the stream."""
    catch_up_seconds: float | None = None
    """When the backlog will be sent, if all goes on as it does; 0: there is none."""


UNKNOWN: Final = StreamRate()


@dataclass(frozen=True, slots=True)
class _Seen:
    accepted: int
    in_stream: int
    in_journal: int


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    streams: Mapping[int, _Seen]


class Rates:
    """Remembers a minute of looks, however many there are: one for each two seconds."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def note(self, streams: Iterable[StreamSnapshot], now: float) -> None:
        """Look at the streams; ``now`` is monotonic, in seconds."""
        if self._looks and now - self._looks[-1].at < LOOK_SECONDS:
            return
        seen = {each.number: _Seen(each.accepted, each.in_stream, each.in_journal) for each in streams}
        self._looks.append(_Look(now, seen))
        # One look at least as old as the span stays, or the span would never be full.
        while len(self._looks) > 2 and self._looks[1].at <= now - SPAN_SECONDS:
            self._looks.popleft()

    def now(self) -> dict[int, StreamRate]:
        """The pace of each stream at the last look, by its number."""
        if not self._looks:
            return {}
        return {number: self._of(number, seen) for number, seen in self._looks[-1].streams.items()}

    def _of(self, number: int, seen: _Seen) -> StreamRate:
        slow, fast = self._earlier(number, SPAN_SECONDS), self._earlier(number, CATCH_UP_SECONDS)
        if slow is None or fast is None:
            return StreamRate(catch_up_seconds=None if seen.in_journal else 0.0)
        then, seconds = slow
        recently, recent_seconds = fast
        return StreamRate(
            accepted_per_second=round((seen.accepted - then.accepted) / seconds, 3),
            sent_per_second=round((seen.in_stream - then.in_stream) / seconds, 3),
            catch_up_seconds=_catch_up(seen, recently, recent_seconds),
        )

    def _earlier(self, number: int, span_seconds: float) -> tuple[_Seen, float] | None:
        """What was seen of the stream at the begin of the span, and how long before the last look that was."""
        last = self._looks[-1]
        oldest: tuple[_Seen, float] | None = None
        for look in reversed(self._looks):
            seen = look.streams.get(number)
            if look is last:
                continue
            if seen is None:
                break
            oldest = seen, last.at - look.at
            if last.at - look.at >= span_seconds:
                break
        return oldest


def _catch_up(seen: _Seen, then: _Seen, seconds: float) -> float | None:
    if not seen.in_journal:
        return 0.0
    shrinking_per_second = (then.in_journal - seen.in_journal) / seconds
    if shrinking_per_second <= 0:
        return None
    left = seen.in_journal / shrinking_per_second
    return round(left, 1) if left <= _MAX_CATCH_UP_SECONDS else None
