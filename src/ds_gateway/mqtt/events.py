"""What happens on a connection, in the order in which the broker said it."""

from __future__ import annotations

from dataclasses import dataclass

from ds_gateway.mqtt.packets import Publication


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker took us. ``session_present``: it remembers the session, its packet ids and subscriptions."""

    session_present: bool


@dataclass(frozen=True, slots=True)
class Suback:
    """The broker's answer to the subscription: filter -> reason for every one that it refused."""

    granted: tuple[str, ...]
    refused: dict[str, str]


Event = Publication | Connack | Suback
