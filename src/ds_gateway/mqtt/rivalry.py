"""Another client with the same client id: a broker lets only one of the two be connected, the last that came.

MQTT 5 has a reason for it. A broker of MQTT 3.1.1 only ends the connection: then it is guessed, when that happens
again and again soon after the broker took us.
"""

from __future__ import annotations

from typing import Final

TAKEN_OVER: Final = "Session taken over"
SUSPICIOUS: Final = 3
"""Short connections in a row."""


class Rivalry:
    """Looks at how connections end. Network thread only."""

    def __init__(self, source: str, client_id: str, *, short_seconds: float) -> None:
        """A connection of less than ``short_seconds`` is a short one."""
        self._way_out = (
            f"stop the other one, or give one of the two another client id (here mqtt.{source}.client_id)"
        )
        self._client_id = client_id
        self._short_seconds = short_seconds
        self._short = 0

    def ended(self, reason: str, connected_seconds: float | None, *, cut: bool) -> str:
        """Return the reason, with the rival in it if there seems to be one.

        ``connected_seconds`` None: the broker never took us. ``cut``: it ended from outside, without a reason.
        """
        if TAKEN_OVER in reason:
            return f"{reason}: another client uses the client id {self._client_id!r}, too; {self._way_out}"
        if connected_seconds is None:
            # That the broker is away says nothing of a rival.
            return reason
        self._short = self._short + 1 if cut and connected_seconds < self._short_seconds else 0
        if self._short < SUSPICIOUS:
            return reason
        return (
            f"{reason}, {self._short} times in a row within {self._short_seconds:g} s after it had accepted the "
            f"client: perhaps another client uses the client id {self._client_id!r}, too; then {self._way_out}"
        )
