"""Commands through a real mosquitto to a device that is a client of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.commands import MqttReply, Progress
from ds_gateway.records import Record, Rejected
from durable_streams import Backoff
from harness.memory_journal import MemoryJournal
from harness.mosquitto import Mosquitto
from harness.mqtt_bench import CLIENT_ID, Publisher, take_over
from harness.mqtt_device import Device, Fate, order
from harness.mqtt_proxy import MqttProxy
from harness.scripted_broker import Peer, ScriptedBroker, publish
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.client import MQTTMessage

    from ds_gateway.commands import Delivery, Order
    from ds_gateway.mqtt import MqttSource
    from harness.mqtt_bench import Bench
    from harness.mqtt_proxy import Cut

VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])
DELIVERIES = pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
ON_TOPIC = MqttReply("d/1/out")
BY_RESPONSE = MqttReply(None)
REPLIES: dict[str, Any] = {"reply_filters": ["d/+/out"], "has_response_topic": True}


def send(source: MqttSource, given: Order) -> Fate:
    fate = Fate(given)
    source.send(given, fate.told.append)
    return fate


def start(bench: Bench, url: str, *, version: str = "5", **options: Any) -> MqttSource:
    return bench.start(url, version=version, options={**REPLIES, **options})


def in_flight(source: MqttSource) -> int:
    return len(source._sender._outgoing._in_flight)


@VERSIONS
class TestACommand:
    def test_reaches_the_device_and_is_confirmed(self, bench: Bench, broker: Mosquitto, version: str) -> None:
        with Device(broker.port, version=version) as device:
            fate = send(start(bench, broker.url, version=version), order(payload=b"\x00on"))
            assert fate.wait() == Progress("published", is_final=True)
            wait_until(lambda: device.payloads == [b"\x00on"], what="the command is there")
        assert not device.commands[0].retain
        assert device.commands[0].qos == 1

    def test_is_answered_on_a_topic(self, bench: Bench, broker: Mosquitto, version: str) -> None:
        def answer(device: Device, _: MQTTMessage) -> None:
            device.say("d/1/out", b"done")

        source = start(bench, broker.url, version=version)
        with Device(broker.port, answer=answer, version=version):
            final = send(source, order(reply=ON_TOPIC)).wait()
        assert final == Progress("acknowledged", is_final=True, reply="done")
        bench.wait_until_acknowledged()
        assert bench.disk.accepted == [], "an answer is neither a record nor quarantined"

    def test_is_answered_with_an_error(self, bench: Bench, broker: Mosquitto, version: str) -> None:
        def answer(device: Device, _: MQTTMessage) -> None:
            device.say("d/1/out", b"busy")

        source = start(bench, broker.url, version=version)
        with Device(broker.port, answer=answer, version=version):
            final = send(source, order(reply=MqttReply("d/1/out", error=re.compile("busy")))).wait()
        assert (final.status, final.reason) == ("failed", "the device answered 'busy'")

    def test_without_an_answer_is_sent_again_as_often_as_wanted(
        self, bench: Bench, broker: Mosquitto, version: str
    ) -> None:
        source = start(bench, broker.url, version=version)
        with Device(broker.port, version=version) as device:
            fate = send(source, order(reply=MqttReply("d/1/out", timeout_seconds=0.2, retries=2)))
            assert fate.wait().reason == "no answer within 0.2 s"
            assert fate.statuses == ["published", "unknown"]
            wait_until(lambda: len(device.commands) == 3, what="all three attempts are there")

    def test_is_not_sent_after_its_deadline(self, bench: Bench, broker: Mosquitto, version: str) -> None:
        with Device(broker.port, version=version) as device:
            broker.stop()
            source = start(bench, broker.url, version=version)
            late = send(source, order("late", payload=b"late", seconds=0.3))
            waiting = send(source, order("waiting"))
            assert late.wait().status == "expired"
            assert late.told[0].reason == "its time was over before the broker was there"
            broker.start()
            assert waiting.wait().status == "published"
            wait_until(lambda: device.commands, what="the other command is there")
            assert device.payloads == [b"on"]

    def test_does_not_hold_back_telemetry(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = start(bench, broker.url, version=version)
        bench.wait_until_subscribed()
        with Device(broker.port, version=version) as device:
            fates = [send(source, order(f"c-{number}", payload=b"%d" % number)) for number in range(500)]
            readings = [b"%d" % number for number in range(500)]
            publisher.publish(readings)
            bench.wait_for(readings)
            assert {fate.wait().status for fate in fates} == {"published"}
            wait_until(lambda: len(device.commands) == 500, what="all commands are there")
            assert device.payloads == readings, "they come in the order in which they were given"


class TestOfMqtt5:
    def test_a_command_carries_its_id_and_its_lifetime(self, bench: Bench, broker: Mosquitto) -> None:
        with Device(broker.port) as device:
            send(start(bench, broker.url), order("c-7", seconds=1000, reply=BY_RESPONSE))
            wait_until(lambda: device.commands, what="the command is there")
        properties: Any = device.commands[0].properties
        assert properties.UserProperty == [("command-id", "c-7")]
        assert properties.CorrelationData == b"c-7"
        assert properties.ResponseTopic == f"ds-gateway/{CLIENT_ID}/reply"
        assert 900 < properties.MessageExpiryInterval < 1000

    def test_two_devices_answer_on_the_response_topic(self, bench: Bench, broker: Mosquitto) -> None:
        asked: list[MQTTMessage] = []

        def answer(device: Device, command: MQTTMessage) -> None:
            asked.append(command)
            if len(asked) == 2:
                # The second comes first, an answer without correlation data between them.
                device.respond(asked[1], b"two")
                device.say(f"ds-gateway/{CLIENT_ID}/reply", b"whose?")
                device.say(f"ds-gateway/{CLIENT_ID}/reply", b"other", correlation=b"c-3")
                device.respond(asked[0], b"one")

        source = start(bench, broker.url)
        with Device(broker.port, answer=answer):
            one = send(source, order("c-1", "d/1/set", reply=BY_RESPONSE))
            two = send(source, order("c-2", "d/2/set", reply=BY_RESPONSE))
            assert one.wait() == Progress("acknowledged", is_final=True, reply="one")
            assert two.wait() == Progress("acknowledged", is_final=True, reply="two")

    def test_a_command_that_nobody_is_subscribed_to_fails(self, bench: Bench, broker: Mosquitto) -> None:
        final = send(start(bench, broker.url), order()).wait()
        assert final == Progress("failed", is_final=True, reason="nobody is subscribed to d/1/set")

    def test_a_command_that_the_broker_forbids_fails(self, bench: Bench, tmp_path: Path) -> None:
        rules = tmp_path / "acl"
        rules.write_text("topic read #\ntopic write d/2/set\n")
        with Mosquitto(tmp_path / "strict", extra=[f"acl_file {rules}"]) as broker:
            source = start(bench, broker.url)
            final = send(source, order()).wait()
            assert final == Progress("failed", is_final=True, reason="the broker refuses it: Not authorized")
            assert send(source, order(topic="d/2/set")).wait().reason == "nobody is subscribed to d/2/set"

    def test_a_command_that_is_larger_than_the_broker_takes_fails(self, bench: Bench, tmp_path: Path) -> None:
        with Mosquitto(tmp_path / "small", extra=["max_packet_size 1000"]) as broker:
            source = start(bench, broker.url)
            final = send(source, order(payload=bytes(1000))).wait()
            assert "the broker takes packets of 1000 bytes at most" in final.reason
            assert source.snapshot().reconnects == 0

    def test_ten_thousand_at_once_are_sent_one_window_after_the_other(
        self, bench: Bench, broker: Mosquitto
    ) -> None:
        source = start(bench, broker.url)
        fates = [send(source, order(f"c-{number}")) for number in range(10_000)]
        wait_until(lambda: fates[-1].is_over, what="all are over", timeout_seconds=120)
        assert {fate.wait().reason for fate in fates} == {"nobody is subscribed to d/1/set"}
        assert source.snapshot().reconnects == 0

    def test_no_more_are_sent_than_the_broker_takes_unconfirmed(self, bench: Bench) -> None:
        before: list[bytes] = []
        after: list[bytes] = []

        def script(peer: Peer) -> None:
            assert peer.packet_of(1)
            peer.send(b"\x20\x06\x01\x00\x03\x21\x00\x28")  # session present, Receive Maximum 40
            subscribe = peer.packet_of(8)
            peer.send(b"\x90\x04" + subscribe[2:4] + b"\x00\x01")
            # The PUBACK of this message comes behind everything that is sent without one of ours.
            while len(before) < 40:
                before.append(peer.packet_of(3))
            peer.send(publish(9, b"\0reading", topic=b"s/1/t"))
            while (packet := peer.packet())[0] >> 4 == 3:
                before.append(packet)
            assert packet[0] >> 4 == 4
            peer.send(b"\x40\x02" + _mid(before[0]))
            after.append(peer.packet_of(3))
            while peer.packet():
                pass

        with ScriptedBroker(script) as broker:
            source = bench.start(broker.url)
            fates = [send(source, order(f"c-{number}")) for number in range(100)]
            wait_until(lambda: after, what="another one comes after the PUBACK")
            assert len(before) == 40
            assert fates[0].wait().status == "published"


class TestAnswers:
    def test_that_are_telemetry_too_stay_records(self, bench: Bench, broker: Mosquitto) -> None:
        def answer(device: Device, _: MQTTMessage) -> None:
            device.say("d/1/out", b"done")

        source = bench.start(broker.url, filters=["d/#", "s/#"], options=REPLIES)
        with Device(broker.port, answer=answer) as device:
            assert send(source, order(reply=ON_TOPIC)).wait().status == "acknowledged"
            device.say("s/1/t", b"end")
        # One filter contains the other and is subscribed to alone, so that nothing comes twice.
        bench.wait_for([b"on", b"done", b"end"])

    def test_on_the_response_topic_are_not_telemetry_under_a_filter_for_everything(
        self, bench: Bench, broker: Mosquitto
    ) -> None:
        def answer(device: Device, command: MQTTMessage) -> None:
            device.respond(command, b"done")
            device.say("else", b"1")

        source = bench.start(broker.url, filters=["#"], options={"has_response_topic": True})
        with Device(broker.port, answer=answer):
            assert send(source, order(reply=BY_RESPONSE)).wait().status == "acknowledged"
        bench.wait_for([b"on", b"1"])

    def test_that_are_retained_say_nothing(self, bench: Bench, broker: Mosquitto, publisher: Publisher) -> None:
        publisher.publish([b"of old"], topic="d/1/out", retain=True)
        source = start(bench, broker.url)
        with Device(broker.port):
            # Asked before the subscription is there, so that the old answer comes behind the command.
            assert send(source, order(reply=MqttReply("d/1/out", timeout_seconds=0.3))).wait().status == "unknown"

    def test_at_qos_0_that_find_no_room_are_no_loss(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        source = bench.start(broker.url, options=REPLIES, journal=MemoryJournal(bench.disk, max_items=10))
        bench.wait_until_subscribed()
        bench.journal.hold()
        for _ in range(5):
            publisher.publish([b"x"] * 10, topic="d/1/out", qos=0)
        publisher.publish([b"end"], qos=1)
        wait_until(lambda: source.snapshot().received == 1, what="all are received")
        bench.journal.release()
        bench.wait_for([b"end"])
        assert source.snapshot().lost_qos0 == 0
        assert bench.disk.losses == []


class TestABrokerThatIsAway:
    def test_does_not_delay_the_end_of_an_order(self, bench: Bench, broker: Mosquitto) -> None:
        """Nothing else happens for an hour: the order ends the wait, and so does its deadline."""
        broker.kill()
        source = start(bench, broker.url, backoff=Backoff(first_seconds=3600.0, max_seconds=3600.0))
        bench.wait_for_reason("Connection refused")
        assert send(source, order(seconds=0.1)).wait().status == "expired"


class TestStopping:
    @DELIVERIES
    def test_ends_orders_that_are_open(self, bench: Bench, broker: Mosquitto, delivery: Delivery) -> None:
        source = start(bench, broker.url)
        with Device(broker.port):
            asked = send(source, order("asked", reply=ON_TOPIC, delivery=delivery))
            wait_until(lambda: asked.statuses == ["published"], what="it is published")
        assert source.stop(10)
        assert asked.wait() == Progress("unknown", is_final=True, reason="the gateway stops")
        after = send(source, order("after"))
        assert after.wait() == Progress("expired", is_final=True, reason="the gateway stops")

    def test_while_the_broker_is_away_ends_orders_too(self, bench: Bench, broker: Mosquitto) -> None:
        broker.kill()
        source = start(bench, broker.url)
        fates = [send(source, order(f"c-{number}")) for number in range(100)]
        assert source.stop(10)
        assert {fate.wait().status for fate in fates} == {"expired"}


@VERSIONS
@DELIVERIES
class TestABrokerThatDies:
    def test_between_the_command_and_its_confirmation(
        self, bench: Bench, broker: Mosquitto, version: str, delivery: Delivery
    ) -> None:
        with Device(broker.port, version=version) as device:
            # Once with its sessions saved, so that the device's survives.
            broker.restart()
            source = start(bench, broker.url, version=version)
            bench.wait_until_subscribed()
            broker.pause()
            fate = send(source, order(delivery=delivery))
            wait_until(lambda: in_flight(source) == 1, what="the command has left")
            broker.kill()
            broker.start()
            marker = send(source, order("marker", payload=b"marker"))
            marker.wait()
            if delivery == "at_most_once":
                assert fate.wait().reason == "the connection was lost before the broker confirmed it"
                expected = [b"marker"]
            else:
                assert fate.wait().status == "published"
                expected = [b"on", b"marker"]
            wait_until(lambda: b"marker" in device.payloads, what="the marker is there")
            assert device.payloads == expected


@DELIVERIES
class TestConnectionsThatAreCut:
    COUNT = 100

    def test_around_what_is_published(self, bench: Bench, broker: Mosquitto, delivery: Delivery) -> None:
        """Every fifth PUBLISH is lost, every fifth arrives and its PUBACK is lost."""
        cuts: list[Cut] = ["pass", "before", "pass", "after", "pass"]
        judged = 0

        def judge(_: bytes) -> Cut:
            nonlocal judged
            judged += 1
            return cuts[judged % 5]

        options: dict[str, Any] = {"backoff": _AtOnce()}
        with Device(broker.port) as device, MqttProxy(broker.port, judge) as proxy:
            source = bench.start(proxy.url, options=options)
            fates = [send(source, order(f"c-{number}", delivery=delivery)) for number in range(self.COUNT)]
            wait_until(lambda: all(fate.is_over for fate in fates), what="all are over", timeout_seconds=60)
            statuses = {fate.order.command_id: fate.wait().status for fate in fates}
            published = {each for each, status in statuses.items() if status == "published"}
            wait_until(lambda: published <= set(device.ids), what="what is published has arrived")
            came = device.ids
        repeated = len(came) - len(set(came))
        missing = statuses.keys() - set(came)
        assert proxy.cuts >= 2
        if delivery == "at_least_once":
            assert not missing
            assert set(statuses.values()) == {"published"}
            assert repeated > 0, "a copy carries the id of the first"
        else:
            assert repeated == 0
            assert missing
            assert {statuses[each] for each in missing} == {"unknown"}
            assert set(statuses.values()) == {"published", "unknown"}

    def test_while_the_answer_is_on_its_way(self, bench: Bench, broker: Mosquitto, delivery: Delivery) -> None:
        def answer(device: Device, command: MQTTMessage) -> None:
            take_over(broker.port)
            device.respond(command, b"done")

        source = start(bench, broker.url)
        bench.wait_until_subscribed()
        with Device(broker.port, answer=answer):
            fate = send(source, order(reply=BY_RESPONSE, delivery=delivery))
            final = fate.wait()
        # The device may be faster than the PUBACK: then nobody knows whether the command had arrived.
        assert final.status == "acknowledged" or (delivery == "at_most_once" and fate.statuses == ["unknown"])


def test_a_message_on_an_unknown_topic_is_still_quarantined(bench: Bench, broker: Mosquitto) -> None:
    def pipeline(topic: str, payload: bytes, time_ns: int) -> Record | Rejected:
        return Rejected("hall", topic, "no device", payload, time_ns)

    bench.start(broker.url, pipeline=pipeline, options=REPLIES)
    bench.wait_until_subscribed()
    publisher = Publisher(broker.port)
    publisher.publish([b"x"], topic="d/1/out")
    publisher.publish([b"y"])
    publisher.close()
    wait_until(lambda: bench.disk.accepted, what="it is kept aside")
    bench.wait_until_acknowledged()
    assert [each.raw for each in bench.disk.accepted if isinstance(each, Rejected)] == [b"y"]


def _mid(packet: bytes) -> bytes:
    topic_end = 4 + int.from_bytes(packet[2:4], "big")
    return packet[topic_end : topic_end + 2]


class _AtOnce:
    """No pause between connections."""

    def delay(self, _attempt: int, _random: object) -> float:
        return 0.0
