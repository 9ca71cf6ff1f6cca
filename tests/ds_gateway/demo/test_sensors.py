from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from ds_gateway.demo.parts import accepts
from ds_gateway.demo.sensors import MqttSensor
from ds_gateway.demo.setup import broker_configuration
from harness.peers import require_mosquitto
from harness.ports import free_port
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import ChildProcess, Processes

TOPIC = "sensors/oven/telemetry"


class Broker:
    """The demo's broker."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.port = free_port()
        self._processes = processes
        self._file = folder / "mosquitto.conf"
        # The tests' folders belong to their user.
        self._file.write_text(broker_configuration(self.port, folder, as_root=True))

    def start(self) -> ChildProcess:
        child = self._processes.start([require_mosquitto(), "-c", self._file])
        wait_until(lambda: accepts(self.port), what="the broker listens")
        return child


class Subscriber:
    """Takes what the sensor publishes."""

    def __init__(self, port: int) -> None:
        self.numbers: list[int] = []
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id="subscriber", protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.on_message = lambda _client, _data, message: self.numbers.append(
            json.loads(message.payload)["seq"]
        )
        self.client.on_subscribe = lambda *_: self._subscribed()
        self.has_subscribed = False
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("sensors/+/telemetry", qos=1)

    def _subscribed(self) -> None:
        self.has_subscribed = True

    def turn(self) -> Any:
        return self.client.loop(0.01)

    def close(self) -> None:
        self.client.disconnect()


@pytest.fixture
def broker(processes: Processes, tmp_path: Path) -> Broker:
    return Broker(processes, tmp_path)


@pytest.fixture
def sensor(broker: Broker) -> Iterator[MqttSensor]:
    with MqttSensor("oven", TOPIC, broker.port, interval_seconds=0.001) as sensor:
        yield sensor


def subscribe(broker: Broker) -> Subscriber:
    subscriber = Subscriber(broker.port)
    wait_until(lambda: subscriber.turn() == 0 and subscriber.has_subscribed, what="the subscriber has subscribed")
    return subscriber


class TestSensor:
    def test_keeps_its_first_reading_until_somebody_subscribes(self, broker: Broker, sensor: MqttSensor) -> None:
        broker.start()
        wait_until(lambda: sensor._connected, what="the sensor is connected")
        subscriber = subscribe(broker)
        wait_until(lambda: subscriber.turn() == 0 and len(subscriber.numbers) > 20, what="readings come")
        sensor.stop()
        wait_until(lambda: sensor.has_ended, what="the sensor has ended")
        wait_until(
            lambda: subscriber.turn() == 0 and len(subscriber.numbers) >= sensor.sent,
            what="all readings have come",
        )
        assert subscriber.numbers == list(range(1, sensor.sent + 1))
        assert sensor.problem == ""
        subscriber.close()

    def test_goes_on_after_a_restart_of_the_broker_that_it_stayed_away_from(
        self, broker: Broker, sensor: MqttSensor
    ) -> None:
        first = broker.start()
        subscriber = subscribe(broker)
        wait_until(lambda: subscriber.turn() == 0 and sensor.sent > 20, what="readings are sent")
        sensor.leave()
        wait_until(lambda: sensor.is_away, what="the sensor is away")
        sent = sensor.sent
        wait_until(lambda: subscriber.turn() == 0 and len(subscriber.numbers) >= sent, what="all have come")
        assert subscriber.numbers == list(range(1, sent + 1))
        subscriber.close()
        first.terminate()
        broker.start()
        again = subscribe(broker)
        sensor.come_back()
        wait_until(lambda: again.turn() == 0 and len(again.numbers) > 20, what="readings come again")
        assert again.numbers[0] == sent + 1
        assert sensor.problem == ""
        again.close()

    def test_tells_that_it_lost_the_broker(self, broker: Broker, sensor: MqttSensor) -> None:
        child = broker.start()
        subscriber = subscribe(broker)
        wait_until(lambda: subscriber.turn() == 0 and sensor.sent > 0, what="readings are sent")
        child.kill()
        wait_until(lambda: sensor.has_ended, what="the sensor has ended")
        assert "the connection to the broker was lost after reading" in sensor.problem
        assert sensor.is_away
        subscriber.close()

    def test_tells_that_nobody_takes_its_readings_any_more(self, broker: Broker, sensor: MqttSensor) -> None:
        broker.start()
        subscriber = subscribe(broker)
        wait_until(lambda: subscriber.turn() == 0 and sensor.sent > 0, what="readings are sent")
        subscriber.close()
        wait_until(lambda: sensor.has_ended, what="the sensor has ended")
        assert "the broker has lost the gateway's subscription" in sensor.problem
