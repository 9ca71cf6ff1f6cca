"""The source with a real mosquitto, and a journal in memory that can stand still, fail and lose its reports."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ds_gateway.mqtt.marks import Mark, MarkFile, boot_id
from ds_gateway.mqtt.packets import Publication
from ds_gateway.mqtt.publications import Publications
from ds_gateway.records import Record, Rejected
from harness.mosquitto import Mosquitto
from harness.mqtt_bench import Publisher, numbered, record, take_over
from harness.ports import free_port
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from ds_gateway.mqtt import MqttSource
    from harness.mqtt_bench import Bench

VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


@VERSIONS
class TestMessages:
    def test_are_taken_in_order_and_acknowledged(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        publisher.publish(numbered(1, 3100))
        bench.wait_for(numbered(1, 3100))
        bench.wait_until_acknowledged()
        assert source.snapshot().received == 3100
        assert source.snapshot().duplicates_dropped == 0
        assert source.snapshot().packet_ids == ("sequential" if version == "5" else "unknown")

    def test_that_are_not_reported_are_acknowledged_in_their_turn(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        def every_third(topic: str, payload: bytes, time_ns: int) -> Record | None:
            return Record("stream", topic, payload) if int(payload) % 3 == 0 else None

        source = bench.start(broker.url, version=version, pipeline=every_third, receive_maximum=20)
        bench.wait_until_subscribed()
        # Many times the window: if one were not acknowledged, the broker would stop.
        publisher.publish([b"%d" % number for number in range(300)])
        bench.wait_for([b"%d" % number for number in range(0, 300, 3)])
        bench.wait_until_acknowledged()
        wait_until(lambda: source.snapshot().received == 300, what="all are counted")
        assert bench.disk.losses == []

    def test_wait_at_the_broker_while_the_gateway_is_away(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        assert source.stop(10)
        publisher.publish(numbered(1, 50))
        source = bench.start(broker.url, version=version)
        bench.wait_for(numbered(1, 50))
        assert source.snapshot().session_present

    def test_a_stop_loses_no_acknowledgement(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version, packet_ids="unknown")
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish(numbered(1, 3000))
        wait_until(lambda: source.snapshot().received >= 15, what="some are received")
        stopping = threading.Thread(target=source.stop, args=(10,))
        stopping.start()
        wait_until(lambda: source._stop_at is not None, what="it reads no more")
        bench.journal.release()
        stopping.join()
        # What is committed was acknowledged, though the broker sent more behind it; without that it comes again,
        # and nothing but a key would show that it was there before.
        bench.start(broker.url, version=version, packet_ids="unknown")
        bench.wait_for(numbered(1, 3000))

    def test_committed_but_not_acknowledged_are_taken_once(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        bench.journal.mute = True
        publisher.publish([b"same"] * 15)
        bench.wait_for([b"same"] * 15)
        bench.kill()
        source = bench.start(broker.url, version=version)
        wait_until(lambda: source.snapshot().duplicates_dropped == 15, what="the copies are dropped")
        publisher.publish([b"same"])
        bench.wait_for([b"same"] * 16)

    def test_received_but_not_committed_come_again(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish(numbered(1, 15))
        wait_until(lambda: source.snapshot().received == 15, what="all are received")
        take_over(broker.port)
        wait_until(lambda: source.snapshot().received == 30, what="all have come again")
        bench.journal.release()
        bench.wait_for(numbered(1, 15))
        bench.wait_until_acknowledged()
        assert source.snapshot().duplicates_dropped == 15
        assert source.snapshot().reconnects >= 1

    def test_survive_a_restart_of_the_broker(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish(numbered(1, 15))
        wait_until(lambda: source.snapshot().received == 15, what="all are received")
        broker.stop()
        bench.wait_for_reason("")
        wait_until(lambda: source.snapshot().state != "connected", what="the source has noticed")
        broker.start()
        bench.journal.release()
        wait_until(lambda: source.snapshot().state == "connected", what="the source is back")
        assert source.snapshot().session_present
        other = Publisher(broker.port)
        other.publish(numbered(16, 30))
        other.close()
        bench.wait_for(numbered(1, 30))

    def test_are_held_back_by_the_broker_while_nothing_is_committed(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version, receive_maximum=10)
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish(numbered(1, 500))
        window = 10 if version == "5" else 20
        wait_until(lambda: source.snapshot().unacked >= window, what="the window is used up")
        # mosquitto overruns its window a little.
        assert source.snapshot().unacked < 100
        assert source.snapshot().state == "connected"
        bench.journal.release()
        bench.wait_for(numbered(1, 500))
        assert source.snapshot().reconnects == 0

    def test_of_many_megabytes_are_kept_aside_and_do_not_stop_the_others(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        publisher.publish([b"1", bytes(5_000_000), b"2"])
        bench.wait_for([b"1", b"2"])
        (rejected,) = [each for each in bench.disk.accepted if isinstance(each, Rejected)]
        assert rejected.reason == "a payload of 5000000 bytes on s/1/t is too large; only its beginning is kept"
        assert 100_000 < len(rejected.raw) < 200_000
        bench.wait_until_acknowledged()

    def test_survive_failed_commits(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version)
        bench.wait_until_subscribed()
        bench.journal.failures_to_come = 3
        publisher.publish(numbered(1, 100))
        bench.wait_for(numbered(1, 100))
        assert bench.journal.failures_to_come == 0

    def test_survive_cut_after_cut(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        source = bench.start(broker.url, version=version, packet_ids="sequential")
        bench.wait_until_subscribed()

        def cut_eight_times() -> None:
            for _ in range(8):
                _cut(source, broker)

        cutting = threading.Thread(target=cut_eight_times)
        cutting.start()
        for first in range(1, 3001, 100):
            publisher.publish(numbered(first, first + 99))
        cutting.join()
        bench.wait_for(numbered(1, 3000))
        assert source.snapshot().reconnects >= 8


def _cut(source: MqttSource, broker: Mosquitto) -> None:
    before = source.snapshot().reconnects
    take_over(broker.port)
    wait_until(lambda: source.snapshot().reconnects > before, what="the source is connected again")


class TestTheBroker:
    def test_may_be_absent_at_the_start(self, bench: Bench, tmp_path: Path) -> None:
        port = free_port()
        source = bench.start(f"mqtt://127.0.0.1:{port}")
        bench.wait_for_reason("refused")
        assert source.snapshot().state in {"waiting", "connecting"}
        with Mosquitto(tmp_path / "late", port=port):
            wait_until(lambda: source.snapshot().state == "connected", what="the source has connected")
            assert source.snapshot().connected_since is not None

    @VERSIONS
    def test_that_wants_another_password_is_told_apart(self, bench: Bench, tmp_path: Path, version: str) -> None:
        with Mosquitto(tmp_path / "locked", users={"gw": "right"}) as locked:
            bench.start(locked.url, version=version, username="gw", password="wrong")
            bench.wait_for_reason("refuses the connection: Not authorized (see username and password)")
            bench.kill()
            source = bench.start(locked.url, version=version, username="gw", password="right")
            wait_until(lambda: source.snapshot().state == "connected", what="the source is let in")

    def test_that_forgot_the_session_is_subscribed_again(self, bench: Bench, tmp_path: Path) -> None:
        with Mosquitto(tmp_path / "forgetful", persistence=False) as forgetful:
            source = bench.start(forgetful.url)
            bench.wait_until_subscribed()
            forgetful.restart()
            wait_until(lambda: source.snapshot().sessions_lost == 1, what="the loss is counted")
            bench.wait_until_subscribed()
            publisher = Publisher(forgetful.port)
            publisher.publish(numbered(1, 10))
            publisher.close()
            bench.wait_for(numbered(1, 10))


class TestSubscriptions:
    @VERSIONS
    def test_are_left_alone_when_nothing_changed(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        publisher.publish([b"kept"], retain=True)
        source = bench.start(broker.url, version=version)
        bench.wait_for([b"kept"])
        bench.wait_until_acknowledged()
        wait_until(lambda: "filters" in bench.disk.rows, what="the subscription is known")
        source.stop(10)
        assert broker.log.count("Received SUBSCRIBE") == 1
        source = bench.start(broker.url, version=version)
        wait_until(lambda: source.snapshot().state == "connected", what="the source is back")
        publisher.publish([b"live"])
        bench.wait_for([b"kept", b"live"])
        assert broker.log.count("Received SUBSCRIBE") == 1

    @VERSIONS
    def test_follow_the_configuration(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version, filters=["s/+/t", "old/#"])
        bench.wait_until_subscribed()
        bench.kill()
        bench.start(broker.url, version=version, filters=["s/+/t", "new/#"])
        wait_until(lambda: b"new/#" in bench.disk.rows["filters"], what="the new filter is granted")
        publisher.publish([b"1"], topic="old/x")
        publisher.publish([b"2"], topic="new/x")
        bench.wait_for([b"2"])
        assert b"old" not in bench.disk.rows["filters"]

    @VERSIONS
    def test_can_end_without_a_new_one(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, version: str
    ) -> None:
        bench.start(broker.url, version=version, filters=["s/+/t", "old/#"])
        bench.wait_until_subscribed()
        bench.kill()
        bench.start(broker.url, version=version)
        wait_until(lambda: bench.disk.rows["filters"] == b"1\ns/+/t", what="the old filter is gone")
        publisher.publish([b"1"], topic="old/x")
        publisher.publish([b"2"])
        bench.wait_for([b"2"])

    @VERSIONS
    def test_made_anew_bring_a_retained_message_only_once(
        self, bench: Bench, tmp_path: Path, version: str
    ) -> None:
        with Mosquitto(tmp_path / "forgetful", persistence=False) as forgetful:
            for start in ("first", "second"):
                publisher = Publisher(forgetful.port)
                publisher.publish([b"kept"], retain=True)
                publisher.close()
                bench.start(forgetful.url, version=version)
                bench.wait_until_received(1)
                bench.wait_until_acknowledged()
                assert bench.disk.tails == [b"kept"], start
                bench.kill()
                forgetful.restart()


class TestTheMark:
    def test_is_there_before_the_puback_and_is_settled_after_the_subscription(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        source = bench.start(broker.url)
        bench.wait_until_subscribed()
        publisher.publish(numbered(1, 10))
        bench.wait_for(numbered(1, 10))
        bench.wait_until_acknowledged()
        source.stop(10)
        marks = MarkFile(bench.folder / "mqtt" / "hall.acks.mark", boot_id())
        assert marks.read() == (Mark(session=1, commit=bench.disk.commit, settled=True), True)
        marks.close()


class TestStopping:
    def test_waits_for_what_was_received(self, bench: Bench, broker: Mosquitto, publisher: Publisher) -> None:
        source = bench.start(broker.url)
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish(numbered(1, 10))
        wait_until(lambda: source.snapshot().unacked == 10, what="all are received")
        stopping = threading.Thread(target=source.stop, args=(20,))
        stopping.start()
        bench.journal.release()
        stopping.join()
        assert source.snapshot().unacked == 0
        assert len(bench.disk.tails) == 10
        source = bench.start(broker.url)
        wait_until(lambda: source.snapshot().state == "connected", what="the source is back")
        publisher.publish([b"11"])
        bench.wait_for(numbered(1, 11))
        assert source.snapshot().duplicates_dropped == 0

    def test_does_not_wait_for_a_journal_that_stands_still(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        source = bench.start(broker.url)
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish([b"1"])
        wait_until(lambda: source.snapshot().unacked == 1, what="it is received")
        assert source.stop(0.5)
        assert "disconnected" in broker.log

    def test_twice_is_harmless(self, bench: Bench, broker: Mosquitto) -> None:
        source = bench.start(broker.url)
        assert source.stop(10)
        assert source.stop(10)


class TestLiveness:
    def test_advances_while_the_thread_turns(self, bench: Bench, broker: Mosquitto) -> None:
        source = bench.start(broker.url)
        first = source.alive_at
        wait_until(lambda: source.alive_at > first, what="the thread has turned")
        assert source.is_running
        source.stop(10)
        assert not source.is_running


def test_a_topic_that_is_not_utf_8_is_kept_aside(bench: Bench) -> None:
    publications = Publications("hall", record, clock=lambda: 7)
    item = publications.item(Publication(b"\xff", b"x", 1, 1, False, False, b""), acked=0, generation=1)
    assert item.payload == Rejected("hall", "", "the topic is not UTF-8", b"x", 7)
