"""How the broker numbers its deliveries: learnt by watching packet ids, never assumed.

A broker with a sequential allocator counts 1 to 65,535 and begins again, so that an id comes back only after
65,534 others. Only then does "the same id and the same digest, marked as a duplicate" mean the same message
(rule R2). Two other ways of numbering look like it for a while:

- the lowest free id: it makes no more steps by one in a row than messages may be unacknowledged;
- a counter that begins again with each connection, at the lowest id not in use: it is found out by the first new
  id of the next connection. But of any number of connections nothing may have come in, neither a CONNACK nor the
  messages, which then come again as copies.

Neither hands out, on any connection, an id greater than the number of deliveries on that connection: whatever is
in flight was delivered on it. So such an id, in sequence, is the *witness* of a sequential broker.

Without a witness, a window that is known limits what a counter can have begun again unseen: at most a window of
new messages, whose ids skip at most a window of ids in use. So these ids are at most two windows, and the verdict
holds while the newest id is above three: then the last window, all that may be in flight of what was seen, is out
of reach.

A broker in distress has far more than a window in flight, and sends it all again on each connection. That it is
what was seen before, the *beginning* of a connection tells: what is in flight comes again in the order it was
numbered in (MQTT 4.6.0), and PUBACKs go out in that order too, so whatever is in flight of the old numbering comes
first, up to the newest id. A new session, or a counter that began again, gave its first message the id 1, and that
one is not acknowledged before it is seen. So a connection that begins with the copy of another message continues
the old numbering, until its ids do not come nearer to the newest one any more.
"""

from __future__ import annotations

from typing import Final, Literal

IDS: Final = 65_535
"""Packet ids are 1 to 65,535 (MQTT 2.2.1)."""

AHEAD: Final = IDS // 2
"""An id at most this many steps after the newest is a newer one; every other is an older one."""

Policy = Literal["auto", "sequential", "unknown"]
MAX_RUN: Final = IDS


UNTRIED, STALE, FRESH, CONFIRMED = range(4)
"""How long ago the witness was. UNTRIED: there was none yet. CONFIRMED: on this connection. FRESH: on the one
before; this one brings again only what was numbered by then. STALE: earlier."""

REACH: Final = 3
"""Without a witness: the newest id is above so many windows."""

CERTAIN, DOUBTFUL, UNTOUCHED = range(3)
"""Whether the session may be another one than that of the newest id; UNTOUCHED: nothing has come in since."""

AT_BEGINNING, NOWHERE = -1, -2
"""Instead of the place of a copy: nothing came in on this connection yet; it does not continue what was before."""

_FIRST: Final = 1
"""The id that a counter begins with."""


class Numbering:
    """The newest packet id, and whether ids come one after the other. It sees every QoS 1 delivery in order.

    ``learn_after``: the window; more steps in a row are none of the lowest free id. With ``window_is_known`` the
    broker keeps to that window, and the ids are believed without a witness where no other counter can reach.
    """

    def __init__(self, policy: Policy, learn_after: int, *, window_is_known: bool = True) -> None:
        self._policy = policy
        self._learn_after = learn_after
        self._window_is_known = window_is_known
        self._deliveries = IDS
        """On this connection; more than any id where that is not known."""
        self.head: int | None = None
        self.run = 0
        self.learnt = False
        self.belief = UNTRIED
        self.doubt = CERTAIN
        self.place = NOWHERE
        """How far behind the newest id the last copy was, while the connection continues the old numbering."""
        self.missing = 0
        """Ids that were skipped while the broker counted: messages it may have lost."""

    @property
    def sequential(self) -> bool:
        """Whether the broker counts."""
        if self._policy == "auto":
            return self.learnt and (self.belief != UNTRIED or self._is_out_of_reach())
        return self._policy == "sequential"

    @property
    def verdict(self) -> str:
        """For people: the verdict, and where it comes from."""
        if self._policy != "auto":
            return f"{self._policy} (configured)"
        return "sequential" if self.sequential else "unknown"

    def repeats(self, mid: int) -> bool:
        """Whether a copy with this id is one of the message that was seen with it (rule R2).

        Not if the id lies ahead of the newest one: then no copy of its message was ever seen.
        """
        if self.head is None or not self.sequential:
            return False
        behind = (self.head - mid) % IDS
        # PUBACKs go out in order: what is in flight is the last of what was numbered.
        is_of_the_last = behind < self._learn_after
        if self._doubts(mid):
            return is_of_the_last and self._policy != "auto"
        if self._is_weak:
            # A counter that has begun again must not have come so far.
            return self._continues(mid, behind) or (is_of_the_last and self._is_out_of_reach())
        return behind < IDS - AHEAD

    def begins_anew(self, mid: int) -> bool:
        """Whether a new message with this id tells a doubtful session from the one before.

        A new session's ids begin at 1, so they are not above the number of deliveries.
        """
        if not self.doubt or not self.sequential or self.head is None or self._deliveries >= IDS:
            return False
        return mid <= self._deliveries + 1 and (mid - self.head) % IDS != 1

    def see(self, mid: int, *, dup: bool, repeated: bool = False) -> int:
        """Learn from one delivery. Return how many ids a counting broker has skipped before it.

        ``repeated``: it was recognised as a copy of what was seen before.
        """
        continues = self.head is not None and self._continues(mid, (self.head - mid) % IDS)
        self._deliveries += 1
        if self.doubt:
            self.doubt = DOUBTFUL if dup and self._doubts(mid) else CERTAIN
        if self.head is None:
            self.head = mid
            return 0
        step = (mid - self.head) % IDS
        ahead = 1 <= step <= AHEAD
        if dup and not ahead:
            self.place = (self.head - mid) % IDS if continues else NOWHERE
            if not repeated and self._is_weak and not self.doubt and self.sequential:
                # An id that is in use again, by a counter that has begun again: nothing that follows is certain.
                self._unlearn()
            return 0
        self.place = NOWHERE
        self.head = mid
        if not ahead:
            self._unlearn()
            return 0
        if not dup and mid > self._deliveries:
            self.belief = CONFIRMED
        if step > 1:
            # The broker dropped messages from its queue: it had numbered them already.
            self.run = 0
            skipped = step - 1 if self.sequential else 0
            self.missing += skipped
            return skipped
        if not dup:
            self.run = min(self.run + 1, MAX_RUN)
            self.learnt = self.learnt or self.run > self._learn_after
        return 0

    def connected(self, *, doubtful: bool = False) -> None:
        """Another connection of the same session; doubtful: perhaps of a new one."""
        self._deliveries = 0
        self.place = AT_BEGINNING
        if doubtful:
            self.doubt = self.doubt or UNTOUCHED
            self.connected()  # the one of which nothing came in
        if self.belief != UNTRIED:
            self.belief = max(self.belief - 1, STALE)

    def forget(self) -> None:
        """Begin anew, as for a broker never met: another one may answer under the same address (rule R0)."""
        self.head, self.run, self.learnt, self.belief = None, 0, False, UNTRIED
        self._deliveries = 0
        self.place = NOWHERE
        self.doubt = CERTAIN

    def found_out(self) -> None:
        """As `forget`, when it is known only now that the connection is of a new session."""
        self.forget()
        self._deliveries = IDS

    @property
    def _is_weak(self) -> bool:
        """Whether a counter may have begun again on a connection of which nothing came in."""
        return self._policy == "auto" and self.belief in {UNTRIED, STALE}

    def _doubts(self, mid: int) -> bool:
        """Whether the session may be a new one when a copy with this id has come in."""
        return self.doubt == DOUBTFUL or (self.doubt == UNTOUCHED and mid == _FIRST)

    def _continues(self, mid: int, behind: int) -> bool:
        """Whether the connection has continued the old numbering from its beginning to this copy."""
        if self.place == AT_BEGINNING:
            return mid != _FIRST and behind < IDS - AHEAD
        return behind < self.place

    def _unlearn(self) -> None:
        self.learnt, self.run, self.belief = False, 0, UNTRIED

    def _is_out_of_reach(self) -> bool:
        """Whether no counter that began again unseen can have used the last window of ids."""
        return self._window_is_known and self.head is not None and self.head > REACH * self._learn_after
