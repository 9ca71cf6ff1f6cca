"""How long a command may be executed. Pure; clocks are arguments.

    deadline = the earlier of expires_at and issued_at + expires_after (the command's, else the device's)

- With neither ``issued_at`` nor ``expires_at`` its age is unknown. It counts from its reading if it was read live;
  else it never fires.
- A deadline is watched on the wall clock and on the monotonic one. Either one that passes it ends it: a clock that
  is set back lets nothing live longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.records import NANOSECONDS, rfc3339

if TYPE_CHECKING:
    from ds_gateway.commands import Command, Status

MAX_AHEAD_SECONDS: Final = 60.0
"""How far a sender's clock may be ahead of ours."""
MAX_AGE_SECONDS: Final = 86400.0
"""Ids of what was done are known for so long: an older command may be one that was done."""


@dataclass(frozen=True, slots=True)
class Now:
    """One instant on both clocks."""

    wall_ns: int
    """UTC, nanoseconds since 1970."""
    monotonic: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """From when on a command must not be sent any more."""

    wall_ns: int
    monotonic: float

    @classmethod
    def at(cls, wall_ns: int, now: Now) -> Deadline:
        """What the wall clock says, on both clocks."""
        return cls(wall_ns, now.monotonic + (wall_ns - now.wall_ns) / NANOSECONDS)

    def is_over(self, now: Now) -> bool:
        """Whether either clock passed it."""
        return now.wall_ns >= self.wall_ns or now.monotonic >= self.monotonic


@dataclass(frozen=True, slots=True)
class TooOld:
    """Why a command is not executed: what its receipt says."""

    status: Status
    code: str
    reason: str


def age(
    command: Command, now: Now, *, expires_after_seconds: float, floor_ns: int, is_live: bool
) -> Deadline | TooOld:
    """Return a command's deadline, or why it must not be executed at all.

    ``expires_after_seconds`` is the device's. ``floor_ns``: ids of what was done before are not known any more.
    ``is_live``: it was read as it came, not in a catch-up.
    """
    issued_ns = command.issued_ns
    if issued_ns is not None:
        if issued_ns > now.wall_ns + MAX_AHEAD_SECONDS * NANOSECONDS:
            ahead = (issued_ns - now.wall_ns) / NANOSECONDS
            return TooOld(
                "failed",
                "clock",
                f"issued_at is {ahead:.0f} s ahead of the gateway's clock, {rfc3339(now.wall_ns)}: set both",
            )
        oldest_ns = max(floor_ns, now.wall_ns - int(MAX_AGE_SECONDS * NANOSECONDS))
        if issued_ns < oldest_ns:
            return TooOld(
                "expired",
                "too_old",
                f"it was issued at {rfc3339(issued_ns)}; what was done before {rfc3339(oldest_ns)} is not known "
                "any more: issue it again",
            )
    counts_from_ns = issued_ns
    if issued_ns is None and (command.expires_ns is None or command.expires_after_seconds is not None):
        if not is_live:
            return TooOld(
                "expired",
                "no_issued_at",
                "it was read in a catch-up and has no issued_at: nobody knows how old it is; give it one",
            )
        counts_from_ns = now.wall_ns
    ends = [] if command.expires_ns is None else [command.expires_ns]
    if counts_from_ns is not None:
        after_seconds = command.expires_after_seconds or expires_after_seconds
        ends.append(counts_from_ns + int(after_seconds * NANOSECONDS))
    deadline = Deadline.at(min(ends), now)
    if deadline.is_over(now):
        return TooOld(
            "expired", "expired", f"its time was over at {rfc3339(deadline.wall_ns)}, before it was read"
        )
    return deadline
