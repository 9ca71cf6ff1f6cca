"""How far the broker provably has read our PUBACKs, and how much may be taken from it meanwhile: pure.

A PUBACK that was sent may still be unread when the connection breaks, and then all that it was for comes again,
and with it what was taken and not acknowledged yet. What comes again is recognised by its packet id as long as
the ring holds it. A broker that keeps to the window can have no more than that on its way. Not all do: mosquitto
2.0.11 sends all it has at once when it was restarted meanwhile. So a PINGREQ follows the PUBACKs now and then,
and its PINGRESP proves that what stood before it was read. Nothing is taken beyond what the ring holds without
such a proof: the connection is left in good order then, because DISCONNECT is read behind the PUBACKs.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ds_gateway.mqtt.ring import RING_ENTRIES

_ASKED_IN_BETWEEN: Final = 4


class AckProof:
    """Counts one connection's QoS 1 messages and PUBACKs, which are in the same order."""

    def __init__(self) -> None:
        self._taken = 0
        self._sent = 0
        self._proved = 0
        self._asked: deque[int] = deque()
        """How many had been sent before each PINGREQ that is not answered yet."""
        self.exhausted = False
        """Whether a message was refused. So are all behind it then, for the order's sake, whatever is proved."""

    def take(self) -> bool:
        """Whether one more message may be taken; it is counted then."""
        if self._taken - self._proved >= RING_ENTRIES:
            self.exhausted = True
        if self.exhausted:
            return False
        self._taken += 1
        return True

    def acknowledged(self, count: int) -> None:
        """So many PUBACKs were sent."""
        self._sent += count

    def asked(self) -> None:
        """A PINGREQ was sent."""
        self._asked.append(self._sent)

    def answered(self) -> None:
        """A PINGRESP came: the answer to the oldest PINGREQ."""
        if self._asked:
            self._proved = self._asked.popleft()

    @property
    def wants_proof(self) -> bool:
        """Whether it is time for a PINGREQ."""
        last = self._asked[-1] if self._asked else self._proved
        return self._sent - last >= RING_ENTRIES // _ASKED_IN_BETWEEN
