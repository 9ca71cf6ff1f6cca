"""A device that takes commands from a broker, and orders for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ds_gateway.commands import MqttMessage, MqttReply, Order, Progress
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ds_gateway.commands import Delivery

FOREVER = 1_000_000.0


@dataclass
class Fate:
    """What was told of one order, in order."""

    order: Order
    told: list[Progress] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether the final word has come."""
        return any(each.is_final for each in self.told)

    @property
    def statuses(self) -> list[str]:
        """What it went through."""
        return [each.status for each in self.told]

    def wait(self) -> Progress:
        """The final word, when it has come; there is exactly one, and it is the last."""
        wait_until(lambda: self.is_over, what=f"order {self.order.command_id} is over ({self.told})")
        assert [each.is_final for each in self.told] == [False] * (len(self.told) - 1) + [True]
        return self.told[-1]


def order(
    command_id: str = "c-1",
    topic: str = "d/1/set",
    payload: bytes = b"on",
    *,
    reply: MqttReply | None = None,
    delivery: Delivery = "at_least_once",
    seconds: float = FOREVER,
) -> Order:
    """An order that must be sent within so many seconds."""
    message = MqttMessage(topic, payload, reply)
    return Order(command_id, topic, message, delivery, time.monotonic() + seconds)


class Device:
    """A client with a session that the broker keeps. ``answer`` is called in its thread for each command.

    It speaks MQTT 5 unless told otherwise.
    """

    def __init__(
        self,
        port: int,
        topic: str = "d/+/set",
        answer: Callable[[Device, MQTTMessage], None] | None = None,
        *,
        version: str = "5",
        name: str = "device",
    ) -> None:
        self.commands: list[MQTTMessage] = []
        self._answer = answer
        self._v5 = version == "5"
        self._topic = topic
        self._subscribed = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            name,
            clean_session=None if self._v5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 3600
        clean_start = False if self._v5 else MQTT_CLEAN_START_FIRST_ONLY
        self._client.connect("127.0.0.1", port, clean_start=clean_start, properties=properties)

    @property
    def ids(self) -> list[str]:
        """The ids of the commands that came, copies too."""
        properties: list[Any] = [each.properties for each in self.commands]
        return [dict(each.UserProperty)["command-id"] for each in properties]

    @property
    def payloads(self) -> list[bytes]:
        """The payloads of the commands that came, copies too."""
        return [bytes(each.payload) for each in self.commands]

    def say(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> None:
        """Publish something. In its own thread it does not wait for the broker."""
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)

    def respond(self, command: MQTTMessage, payload: bytes) -> None:
        """Answer as MQTT 5 has it: on the response topic, with the correlation data."""
        given: Any = command.properties
        self.say(given.ResponseTopic, payload, correlation=given.CorrelationData)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._subscribed.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # paho keeps its wake-up sockets until it is collected.
        self._client._reset_sockets()

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe(self._topic, qos=1)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self.commands.append(message)
        if self._answer is not None:
            self._answer(self, message)
