"""What to ask the broker for, once it has answered CONNECT: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.mqtt.tokens import Subscribed


@dataclass(frozen=True, slots=True)
class Plan:
    """Filters to subscribe to and to unsubscribe from; empty when the session has what is wanted."""

    subscribe: tuple[str, ...]
    unsubscribe: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.subscribe or self.unsubscribe)


def plan(wanted: Sequence[str], qos: int, subscribed: Subscribed | None) -> Plan:
    """Compare what is wanted with what the session is known to have (None: nothing is known).

    Filters the session has are left alone: asking again makes a broker of MQTT 3.1.1 repeat retained messages.
    """
    has = () if subscribed is None else subscribed.filters
    keeps = has if subscribed is not None and subscribed.qos == qos else ()
    return Plan(
        subscribe=tuple(topic for topic in wanted if topic not in keeps),
        unsubscribe=tuple(topic for topic in has if topic not in wanted),
    )
