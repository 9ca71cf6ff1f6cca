"""The source's account of itself: written by the network thread, read by any."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ds_gateway.mqtt.snapshot import MqttSnapshot, State
from ds_gateway.records import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.mqtt.dedupe import GateView
    from ds_gateway.mqtt.handover import Handover
    from ds_gateway.mqtt.keyless import Keyless
    from ds_gateway.mqtt.sending import Sender


class Status:
    """Counters and states. Each field is replaced whole; a snapshot may be a message apart between two fields."""

    def __init__(
        self, name: str, clock: Callable[[], int], monotonic: Callable[[], float], keyless: Keyless | None = None
    ) -> None:
        self._name = name
        self._keyless = keyless
        self._clock = clock
        self._monotonic = monotonic
        self._connected_at: float | None = None
        self._state: State = "connecting"
        self._reason = ""
        self._failure = ""
        self._connected_ns: int | None = None
        self._session_present = False
        self._connections = 0
        self._received = 0
        self._dropped = 0
        self._repeated: Mapping[str, int] = {}
        self._without_key = 0
        self._last_message_ns: int | None = None

    def connecting(self, address: str) -> None:
        """A connection is being made. Why the last one failed stays in sight until this one is there."""
        self._state, self._reason = "connecting", self._failure or f"to {address}"

    def connected(self, *, session_present: bool) -> None:
        """The broker took us."""
        self._state, self._reason, self._failure = "connected", "", ""
        self._connected_ns = self._clock()
        self._connected_at = self._monotonic()
        self._session_present = session_present
        self._connections += 1

    def subscribed(self, refused: Mapping[str, str]) -> None:
        """The broker answered the subscription, and refused these filters for a reason."""
        self._reason = "; ".join(
            f"the broker refuses the subscription to {topic!r}: {reason}" for topic, reason in refused.items()
        )

    def waiting(self, reason: str) -> None:
        """Nothing can be done before something outside changes."""
        self._state, self._reason = "waiting", reason

    @property
    def connected_seconds(self) -> float | None:
        """Since when it is connected; None while it is not."""
        return None if self._connected_at is None else self._monotonic() - self._connected_at

    def disconnected(self, reason: str) -> None:
        """The connection is over, or there never was one."""
        self._connected_at, self._connected_ns = None, None
        self._failure = reason
        self.waiting(reason)

    def received(self, count: int) -> None:
        """Messages came in."""
        if count:
            self._received += count
            self._last_message_ns = self._clock()

    def judged(self, view: GateView) -> None:
        """The gate has looked at the messages of a commit."""
        self._dropped += view.duplicates
        self._without_key += view.without_key
        if view.repeated:
            self._repeated = Counter(self._repeated) + Counter(view.repeated)

    def snapshot(self, view: GateView, handover: Handover, sender: Sender) -> MqttSnapshot:
        """Return what is known at this moment."""
        return MqttSnapshot(
            name=self._name,
            state=self._state,
            reason=self._reason or (self._keyless.reason if self._keyless is not None else ""),
            connected_since=_instant(self._connected_ns),
            received=self._received,
            duplicates_dropped=self._dropped,
            repeated=self._repeated,
            without_key=self._without_key,
            unacked=handover.unacked,
            lost_qos0=handover.lost_qos0,
            last_message_time=_instant(self._last_message_ns),
            reconnects=max(self._connections - 1, 0),
            session_present=self._session_present,
            packet_ids=view.verdict,
            sessions_lost=view.sessions_lost,
            ids_missing=view.ids_missing,
            orders_waiting=sender.waiting,
            orders_unacknowledged=sender.unacknowledged,
        )


def _instant(time_ns: int | None) -> datetime | None:
    return None if time_ns is None else datetime.fromtimestamp(time_ns / NANOSECONDS, UTC)
