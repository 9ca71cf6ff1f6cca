"""What people and metrics see of an MQTT source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

State = Literal["connecting", "connected", "waiting"]


@dataclass(frozen=True, slots=True)
class MqttSnapshot:
    """One moment of a source. ``reason`` says what it waits for, or what is wrong although it is connected."""

    name: str
    state: State
    reason: str
    connected_since: datetime | None
    received: int
    duplicates_dropped: int
    repeated: Mapping[str, int]
    """Of these, readings of each device that has any."""
    without_key: int
    """Messages taken since the start that had no ``dedupe_key``, where the configuration wants one."""
    unacked: int
    lost_qos0: int
    last_message_time: datetime | None
    reconnects: int
    session_present: bool
    packet_ids: str
    """The verdict about the broker's numbering: sequential or unknown, and whether it was configured."""
    sessions_lost: int
    """Times that the broker had forgotten the session: messages may be missing."""
    orders_waiting: int
    """Commands that were not published yet, or wait to be published again."""
    orders_unacknowledged: int
    """Commands that were published, and whose confirmation or answer is waited for."""
    ids_missing: int
    """Packet ids that a sequential broker skipped: messages it may have dropped."""
