"""The verdict about a broker's numbering, with real brokers of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.lowest_id_broker import LowestIdBroker
from harness.mqtt_bench import Publisher, numbered, take_over
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.mosquitto import Mosquitto
    from harness.mqtt_bench import Bench


class TestTheLowestFreeId:
    @pytest.mark.parametrize("version", ["5", "3.1.1"])
    def test_is_not_taken_for_a_sequence_and_nothing_is_lost(self, bench: Bench, version: str) -> None:
        with LowestIdBroker() as broker:
            source = bench.start(broker.url, version=version, receive_maximum=10)
            bench.wait_until_subscribed()
            publisher = Publisher(broker.port)
            for count in (50, 100, 150, 200):
                publisher.publish([b"same"] * 50)
                bench.wait_for([b"same"] * count)
                bench.wait_until_acknowledged()
                assert source.snapshot().packet_ids == "unknown"
                reconnects = source.snapshot().reconnects
                broker.cut()
                wait_until(lambda: source.snapshot().reconnects > reconnects, what="the source is back")  # noqa: B023
            publisher.close()

    def test_a_window_without_bounds_is_not_taken_for_a_sequence(self, bench: Bench) -> None:
        """Until the first PUBACK arrives, the lowest free ids are a sequence of any length."""
        with LowestIdBroker(window=None) as broker:
            source = bench.start(broker.url, version="3.1.1", receive_maximum=10)
            bench.wait_until_subscribed()
            assert source.stop(10)
            publisher = Publisher(broker.port)
            publisher.publish([b"same"] * 3000)
            source = bench.start(broker.url, version="3.1.1", receive_maximum=10)
            bench.wait_for([b"same"] * 3000)
            bench.wait_until_acknowledged()
            verdicts = [source.snapshot().packet_ids]
            # The first copy of the next message, which has an id that all the others had, is lost on the way.
            bench.kill()
            publisher.publish([b"same"])
            bench.journal.mute = False
            source = bench.start(broker.url, version="3.1.1", receive_maximum=10)
            bench.wait_for([b"same"] * 3001)
            verdicts.append(source.snapshot().packet_ids)
            wait_until(lambda: source.snapshot().unacked == 0, what="everything is acknowledged")
            publisher.close()
            assert broker.highest_id > 100
            assert verdicts == ["unknown", "unknown"]


class TestASequence:
    @pytest.mark.parametrize("version", ["5", "3.1.1"])
    def test_is_known_over_kills(self, bench: Bench, broker: Mosquitto, version: str) -> None:
        publisher = Publisher(broker.port)
        bench.start(broker.url, version=version, receive_maximum=10)
        bench.wait_until_subscribed()
        publisher.publish(numbered(1, 300))
        bench.wait_for(numbered(1, 300))
        bench.wait_until_acknowledged()
        for last in (301, 302, 303):
            bench.kill()
            source = bench.start(broker.url, version=version, receive_maximum=10)
            if version == "5" or last > 301:
                # Before any message of this process could teach it.
                wait_until(lambda: source.snapshot().packet_ids == "sequential", what="it is remembered")  # noqa: B023
            publisher.publish(numbered(last, last))
            bench.wait_for(numbered(1, last))
            bench.wait_until_acknowledged()
            assert source.snapshot().packet_ids == "sequential"
        publisher.close()

    def test_is_known_over_cuts_without_a_message(self, bench: Bench, broker: Mosquitto) -> None:
        publisher = Publisher(broker.port)
        source = bench.start(broker.url, receive_maximum=10)
        bench.wait_until_subscribed()
        publisher.publish(numbered(1, 300))
        bench.wait_for(numbered(1, 300))
        bench.wait_until_acknowledged()
        for number in range(1, 4):
            take_over(broker.port)
            wait_until(lambda: source.snapshot().reconnects == number, what="the source is back")  # noqa: B023
        assert source.snapshot().packet_ids == "sequential"
        publisher.close()
