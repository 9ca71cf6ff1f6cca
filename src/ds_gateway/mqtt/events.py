"""What happens on a connection, in the order in which the broker said it."""

from __future__ import annotations

from dataclasses import dataclass

from ds_gateway.mqtt.packets import Publication


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker took us. ``session_present``: it remembers the session, its packet ids and subscriptions."""

    session_present: bool
    receive_maximum: int = 0xFFFF
    """How many messages it takes before it has confirmed the first."""
    maximum_qos: int = 2
    maximum_packet_bytes: int = 0x10000004
    """Larger packets end the connection; this one is the largest of the protocol."""


@dataclass(frozen=True, slots=True)
class Suback:
    """The broker's answer to the subscription: filter -> reason for every one that it refused."""

    granted: tuple[str, ...]
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker's answer to a message of ours: ``code`` is 0 in MQTT 3.1.1; ``reason`` is for people."""

    mid: int
    code: int
    reason: str


Event = Publication | Connack | Suback | Puback
