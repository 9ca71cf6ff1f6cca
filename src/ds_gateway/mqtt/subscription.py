"""What to ask the broker for, once it has answered CONNECT: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds_gateway.mapping.topics import TopicPattern, covers

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


def merged(filters: Sequence[str]) -> list[str]:
    """Each filter once, and none that another one contains: a broker may deliver a message for each of them."""
    once = list(dict.fromkeys(filters))
    return [narrow for narrow in once if not any(wide != narrow and covers(wide, narrow) for wide in once)]


class AnswerTopics:
    """Which topics carry answers to commands and nothing else: what is telemetry, too, stays telemetry."""

    def __init__(self, telemetry: Sequence[str], answers: Sequence[str], response_topic: str | None) -> None:
        self._telemetry = [TopicPattern(each) for each in telemetry] if answers else []
        self._answers = [TopicPattern(each) for each in answers]
        self._response_topic = response_topic

    def __call__(self, topic: str) -> bool:
        """Whether what comes on this topic is no telemetry. The response topic is the gateway's own."""
        if topic == self._response_topic:
            return True
        return _matches(self._answers, topic) and not _matches(self._telemetry, topic)


def _matches(patterns: Sequence[TopicPattern], topic: str) -> bool:
    return any(each.match(topic) is not None for each in patterns)
