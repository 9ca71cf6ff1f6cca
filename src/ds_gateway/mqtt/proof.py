"""How far the broker provably has read our PUBACKs: pure.

A PUBACK that was sent may still be unread when the connection breaks, and then all that it was for comes again.
What comes again is recognised by its packet id as long as the ring holds it. A broker that keeps to the window can
have no more than that unread. Not all do: mosquitto 2.0.11 sends all it has at once when it was restarted
meanwhile. So a PINGREQ follows the PUBACKs now and then, and its PINGRESP proves that what stood before it was
read. Where too many stay without a proof, the connection is left in good order: DISCONNECT is read behind them.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ds_gateway.mqtt.ring import RING_ENTRIES

_ASKED_IN_BETWEEN: Final = 4
_MIN_UNPROVED: Final = 1000


class AckProof:
    """Counts one connection's PUBACKs. ``window`` is how many messages may be unacknowledged."""

    def __init__(self, window: int) -> None:
        # Messages may be committed and not acknowledged yet, and acknowledged together: a window of each.
        self._max_unproved = max(RING_ENTRIES - 2 * window, _MIN_UNPROVED)
        self._sent = 0
        self._proved = 0
        self._asked: deque[int] = deque()
        """How many had been sent before each PINGREQ that is not answered yet."""

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
        return self._sent - last >= self._max_unproved // _ASKED_IN_BETWEEN

    @property
    def exhausted(self) -> bool:
        """Whether more PUBACKs without a proof could be more than the ring holds."""
        return self._sent - self._proved >= self._max_unproved
