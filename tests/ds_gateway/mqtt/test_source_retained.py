"""Retained messages and publishers' keys, with a real mosquitto."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ds_gateway.mqtt.marks import MarkFile, boot_id
from harness.mosquitto import Mosquitto
from harness.mqtt_bench import CLIENT_ID, Publisher
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.mqtt_bench import Bench

VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


def forget_the_answer(bench: Bench) -> None:
    """The gateway died between its CONNECT and the broker's answer: it will subscribe again."""
    marks = MarkFile(bench.folder / "mqtt" / "hall.acks.mark", boot_id())
    found = marks.read()
    assert found is not None
    marks.write(replace(found[0], settled=False))
    marks.close()


def retained_sent(broker: Mosquitto) -> int:
    return broker.log.count(f"Sending PUBLISH to {CLIENT_ID} (d0, q1, r1")


@VERSIONS
class TestARetainedMessage:
    def test_that_was_delivered_live_does_not_come_twice_when_the_gateway_dies_connecting(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        publisher.publish([b"1", b"2"], retain=True)
        bench.wait_for([b"1", b"2"])
        bench.wait_until_acknowledged()
        bench.kill()
        forget_the_answer(bench)
        subscribed = broker.log.count("Sending SUBACK")
        source = bench.start(broker.url, version=version)
        wait_until(lambda: broker.log.count("Sending SUBACK") > subscribed, what="it has subscribed again")
        publisher.publish([b"3"])
        bench.wait_for([b"1", b"2", b"3"])
        # Retain handling 1 of MQTT 5: not sent again where the subscription exists.
        assert retained_sent(broker) == (0 if version == "5" else 1)
        assert source.snapshot().duplicates_dropped == retained_sent(broker)

    def test_that_was_delivered_live_does_not_come_twice_after_a_lost_session(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        publisher.publish([b"1", b"2"], retain=True)
        bench.wait_for([b"1", b"2"])
        bench.wait_until_acknowledged()
        bench.kill()
        forget_session(broker)
        source = bench.start(broker.url, version=version)
        wait_until(lambda: source.snapshot().duplicates_dropped == 1, what="the retained message has come")
        publisher.publish([b"2", b"3"])
        bench.wait_for([b"1", b"2", b"2", b"3"])
        assert [loss.cause for loss in bench.disk.losses] == ["session_lost"]

    def test_that_changed_while_there_was_no_session_is_taken(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        publisher.publish([b"1"], retain=True)
        bench.start(broker.url, version=version)
        bench.wait_for([b"1"])
        bench.wait_until_acknowledged()
        bench.kill()
        forget_session(broker)
        publisher.publish([b"2"], retain=True)
        bench.start(broker.url, version=version)
        bench.wait_for([b"1", b"2"])


def forget_session(broker: Mosquitto) -> None:
    """Make the broker forget the gateway's session."""
    client = Client(CallbackAPIVersion.VERSION2, CLIENT_ID, clean_session=True)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    wait_until(client.is_connected, what="the session is taken over")
    client.disconnect()
    client.loop_stop()
    client._reset_sockets()


class TestAKey:
    @pytest.mark.parametrize("qos", [0, 1])
    def test_in_the_payload_makes_a_second_try_known(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, qos: int
    ) -> None:
        source = bench.start(broker.url, dedupe_key="/id")
        bench.wait_until_subscribed()
        sent = [b'{"id": 1}', b'{"id": 1, "second": true}', b'{"id": 2}', b"none", b"none"]
        publisher.publish(sent, qos=qos)
        publisher.publish([b'{"id": 3}'])
        bench.wait_for([sent[0], sent[2], b"none", b"none", b'{"id": 3}'])
        bench.wait_until_acknowledged()
        assert (source.snapshot().duplicates_dropped, source.snapshot().without_key) == (1, 2)
        assert source.snapshot().repeated == {"s/1/t": 1}

    def test_outlives_the_session_and_the_process(self, bench: Bench, tmp_path: Path) -> None:
        with Mosquitto(tmp_path / "forgetful", persistence=False) as broker:
            for number in range(1, 4):
                bench.start(broker.url, dedupe_key="/id")
                bench.wait_until_subscribed()
                publisher = Publisher(broker.port)
                publisher.publish([b'{"id": 1}', b'{"id": 2}', b'{"id": "%d"}' % number])
                publisher.close()
                bench.wait_for([b'{"id": 1}', b'{"id": 2}', *(b'{"id": "%d"}' % n for n in range(1, number + 1))])
                bench.wait_until_acknowledged()
                bench.kill()
                bench.disk.rows.pop("filters")
                broker.kill()
                broker.start()

    @pytest.mark.parametrize("setting", ["user_property:id", "correlation_data"])
    def test_in_the_properties_makes_a_second_try_known(
        self, bench: Bench, broker: Mosquitto, setting: str
    ) -> None:
        bench.start(broker.url, dedupe_key=setting)
        bench.wait_until_subscribed()
        client = Client(CallbackAPIVersion.VERSION2, "publisher", protocol=MQTTProtocolVersion.MQTTv5)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for key, payload in (("a", b"1"), ("a", b"2"), ("b", b"3")):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = [("id", key)]
            properties.CorrelationData = key.encode()
            client.publish("s/1/t", payload, qos=1, properties=properties).wait_for_publish(20)
        bench.wait_for([b"1", b"3"])
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()
