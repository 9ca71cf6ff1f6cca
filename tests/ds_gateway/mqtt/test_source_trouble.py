"""The source when the program, the disk or the journal fails it: no QoS 1 message is lost, the reason is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.config.models import LimitSettings
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.mapping import MqttPipeline
from ds_gateway.mqtt.marks import Mark, MarkFile
from harness.memory_journal import MemoryJournal
from harness.mqtt_bench import Publisher, numbered, record
from harness.waiting import wait_until

if TYPE_CHECKING:
    import pytest

    from ds_gateway.records import Record, Rejected
    from harness.mosquitto import Mosquitto
    from harness.mqtt_bench import Bench


class TestTrouble:
    def test_in_a_callback_does_not_end_the_thread(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        trouble = iter([True])

        def pipeline(topic: str, payload: bytes, time_ns: int) -> Record | Rejected:
            if payload == b"7" and next(trouble, False):
                raise ZeroDivisionError("a mistake in the program")
            return record(topic, payload, time_ns)

        source = bench.start(broker.url, pipeline=pipeline)
        bench.wait_until_subscribed()
        publisher.publish(numbered(1, 20))
        bench.wait_for(numbered(1, 20))
        assert source.is_running
        assert source.snapshot().reconnects == 1

    def test_in_a_callback_is_told(self, bench: Bench, broker: Mosquitto, publisher: Publisher) -> None:
        def pipeline(topic: str, payload: bytes, time_ns: int) -> Record | Rejected:
            raise ZeroDivisionError("a mistake in the program")

        bench.start(broker.url, pipeline=pipeline, options={"max_unacked_bytes": 1000})
        bench.wait_until_subscribed()
        publisher.publish([b"x"])
        bench.wait_for_reason("internal error: ZeroDivisionError: a mistake in the program")

    def test_with_the_mark_withholds_the_pubacks(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = MarkFile.write
        broken = True

        def failing(marks: MarkFile, mark: Mark) -> None:
            if broken and mark.settled:
                raise OSError(28, "No space left on device")
            write(marks, mark)

        source = bench.start(broker.url)
        bench.wait_until_subscribed()
        monkeypatch.setattr(MarkFile, "write", failing)
        publisher.publish(numbered(1, 10))
        bench.wait_for_reason("No space left")
        broken = False
        wait_until(lambda: source.snapshot().duplicates_dropped > 0, what="the broker has sent again")
        bench.wait_for(numbered(1, 10))
        bench.wait_until_acknowledged()

    def test_with_the_data_directory_is_told_and_retried(self, bench: Bench, broker: Mosquitto) -> None:
        (bench.folder / "mqtt").write_text("in the way")
        source = bench.start(broker.url)
        bench.wait_for_reason("File exists")
        (bench.folder / "mqtt").unlink()
        wait_until(lambda: source.snapshot().state == "connected", what="the source has connected")


class TestReports:
    def test_a_repetition_does_not_count_as_the_state_of_now(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        """Its publisher tried once more, late: the door has been opened since."""
        report = {"on_change": True, "ignore": ["id"]}
        device = DeviceSettings.model_validate({"topic": "s/{name}/t", "report": report})
        pipeline = MqttPipeline("hall", "g", [device], LimitSettings())
        options = {"on_dropped": pipeline.forget_reports}
        bench.start(broker.url, pipeline=pipeline, options=options, dedupe_key="/id")
        bench.wait_until_subscribed()
        for count, (number, state) in enumerate([(1, 0), (2, 1), (1, 0), (3, 0)], 1):
            publisher.publish([b'{"id":%d,"is":%d}' % (number, state)], topic="s/door/t")
            bench.wait_until_received(count)
            bench.wait_until_acknowledged()
        assert [tail[-16:-1] for tail in bench.disk.tails] == [
            b'{"id":1,"is":0}',
            b'{"id":2,"is":1}',
            b'{"id":3,"is":0}',
        ]


class TestAFullJournal:
    def test_loses_qos_0_messages_and_counts_them(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        source = bench.start(broker.url, journal=MemoryJournal(bench.disk, max_items=10))
        bench.wait_until_subscribed()
        bench.journal.hold()
        for first in range(1, 101, 10):
            publisher.publish(numbered(first, first + 9), qos=0)
        publisher.publish([b"end"])
        wait_until(lambda: source.snapshot().received == 101, what="all are received")
        lost = source.snapshot().lost_qos0
        assert lost > 0
        bench.journal.release()
        wait_until(lambda: b"end" in bench.disk.tails, what="the QoS 1 message is accepted")
        assert len(bench.disk.tails) + lost == 101

    def test_loses_nothing_of_qos_1(self, bench: Bench, broker: Mosquitto, publisher: Publisher) -> None:
        source = bench.start(broker.url, journal=MemoryJournal(bench.disk, max_items=10, group_items=3))
        bench.wait_until_subscribed()
        bench.journal.hold()
        publisher.publish(numbered(1, 400))
        wait_until(lambda: source.snapshot().unacked > 300, what="the broker has sent them")
        bench.journal.release()
        bench.wait_for(numbered(1, 400))
        assert source.snapshot().reconnects == 0

    def test_a_change_that_had_to_wait_is_reported_when_it_is_delivered_again(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        device = DeviceSettings.model_validate({"topic": "s/{name}/t", "report": {"on_change": True}})
        pipeline = MqttPipeline("hall", "g", [device], LimitSettings())
        source = bench.start(
            broker.url,
            journal=MemoryJournal(bench.disk, max_items=10),
            pipeline=pipeline,
            options={"on_dropped": pipeline.forget_reports},
        )
        bench.wait_until_subscribed()
        bench.journal.hold()
        for first in range(1, 41, 10):
            publisher.publish([b"%d" % number for number in range(first, first + 10)])
            wait_until(lambda first=first: source.snapshot().received == first + 9, what="they came")  # type: ignore[misc]
        publisher.publish([b'"open"'], topic="s/door/t")
        wait_until(lambda: source.snapshot().received == 41, what="the door's came")
        broker.stop()
        wait_until(lambda: source.snapshot().state != "connected", what="the connection is gone")
        bench.journal.release()
        broker.start()
        wait_until(lambda: source.snapshot().received > 41, what="it is delivered again")
        bench.wait_until_acknowledged()
        opened = [tail for tail in bench.disk.tails if b'"device":"door"' in tail]
        assert len(opened) == 1

    def test_bounds_what_is_read_from_the_broker(
        self, bench: Bench, broker: Mosquitto, publisher: Publisher
    ) -> None:
        source = bench.start(broker.url, options={"max_unacked_bytes": 200_000})
        bench.wait_until_subscribed()
        bench.journal.hold()
        payloads = [bytes([65 + number]) * 20_000 for number in range(50)]
        publisher.publish(payloads)
        # Ten of them reach it: where a read pass ends just there, no eleventh comes.
        wait_until(lambda: source.snapshot().unacked >= 10, what="the bound is reached")
        wait_until(lambda: broker.log.count("Sending PUBLISH to gateway-1") == 50, what="the broker has sent all")
        stamp = source.alive_at
        wait_until(lambda: source.alive_at > stamp + 1, what="the thread has turned, and could have read on")
        # One read pass of 64 KiB may go beyond the bound.
        assert source.snapshot().unacked <= 14
        bench.journal.release()
        bench.wait_for(payloads)
        assert source.snapshot().reconnects == 0

    def test_at_the_start_delays_the_connection(self, bench: Bench, broker: Mosquitto) -> None:
        journal = MemoryJournal(bench.disk)
        journal._open.clear()
        source = bench.start(broker.url, journal=journal)
        bench.wait_for_reason("the journal takes nothing now")
        assert "New client connected" not in broker.log
        bench.journal.release()
        wait_until(lambda: source.snapshot().state == "connected", what="the source has connected")
