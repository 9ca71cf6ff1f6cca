"""How the broker numbers its deliveries: learnt by watching packet ids, never assumed.

A broker with a sequential allocator counts 1 to 65,535 and begins again, so that an id comes back only after
65,534 others; one that takes the lowest free id uses it again at once. Only for the former does "the same id
and the same digest, marked as a duplicate" mean the same message (rule R2).
"""

from __future__ import annotations

from typing import Final, Literal

IDS: Final = 65_535
"""Packet ids are 1 to 65,535 (MQTT 2.2.1)."""

AHEAD: Final = IDS // 2
"""An id at most this many steps after the newest is a newer one; every other is an older one."""

Policy = Literal["auto", "sequential", "unknown"]
MAX_RUN: Final = IDS


class Numbering:
    """The newest packet id, and whether ids come one after the other. It sees every QoS 1 delivery in order."""

    def __init__(self, policy: Policy, learn_after: int) -> None:
        self._policy = policy
        # No allocator that hands out the lowest free id can make more steps by one in a row than messages
        # may be unacknowledged; so more steps than that are the proof.
        self._learn_after = learn_after
        self.head: int | None = None
        self.run = 0
        self.learnt = False
        self.missing = 0
        """Ids that were skipped while the broker counted: messages it may have lost."""

    @property
    def sequential(self) -> bool:
        """Whether rule R2 may be used."""
        return self.learnt if self._policy == "auto" else self._policy == "sequential"

    @property
    def verdict(self) -> str:
        """For people: the verdict, and where it comes from."""
        if self._policy != "auto":
            return f"{self._policy} (configured)"
        return "sequential" if self.learnt else "unknown"

    def older(self, mid: int) -> bool:
        """Whether the id is the newest one or lies behind it; if it lies ahead, no copy of it was ever seen."""
        return self.head is not None and not 1 <= (mid - self.head) % IDS <= AHEAD

    def see(self, mid: int, *, dup: bool) -> None:
        """Learn from one delivery."""
        if self.head is None:
            self.head = mid
            return
        step = (mid - self.head) % IDS
        ahead = 1 <= step <= AHEAD
        if dup and not ahead:
            return
        self.head = mid
        if not ahead:
            self.learnt, self.run = False, 0
        elif step > 1:
            # The broker dropped messages from its queue: it had numbered them already.
            self.missing += step - 1 if self.sequential else 0
            self.run = 0
        elif not dup:
            self.run = min(self.run + 1, MAX_RUN)
            self.learnt = self.learnt or self.run > self._learn_after

    def forget(self) -> None:
        """Begin anew, as for a broker never met: another one may answer under the same address (rule R0)."""
        self.head, self.run, self.learnt = None, 0, False
