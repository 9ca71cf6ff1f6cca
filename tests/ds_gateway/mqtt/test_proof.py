"""PUBACKs that the broker may not have read: bounded by what the ring can recognise."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from ds_gateway.mqtt.proof import AckProof
from ds_gateway.mqtt.ring import RING_ENTRIES
from harness.scripted_broker import CONNACK_OK, CONNACK_OK_PRESENT, Peer, ScriptedBroker, publish, suback
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.mqtt_bench import Bench

MESSAGES = 40_000
PUBACK, PINGREQ, DISCONNECT = 0x40, 0xC0, 0xE0


class TestAnAckProof:
    def test_asks_now_and_then_and_is_exhausted_without_an_answer(self) -> None:
        proof = AckProof(window=1000)
        asked = 0
        while not proof.exhausted:
            proof.acknowledged(100)
            if proof.wants_proof:
                proof.asked()
                asked += 1
        assert asked == 4

    @pytest.mark.parametrize("window", [1, 20, 1000, 10_000])
    def test_what_may_be_unread_is_less_than_the_ring_holds(self, window: int) -> None:
        proof = AckProof(window)
        sent = 0
        while not proof.exhausted:
            proof.acknowledged(window)
            sent += window
        assert sent + window <= RING_ENTRIES

    def test_an_answer_proves_what_was_sent_before_it_was_asked_for(self) -> None:
        proof = AckProof(window=1000)
        proof.acknowledged(20_000)
        proof.asked()
        proof.acknowledged(10_768)
        exhausted = [proof.exhausted]
        for _ in range(2):  # the second is an answer to nobody's PINGREQ
            proof.answered()
            exhausted.append(proof.exhausted)
        assert exhausted == [True, False, False]

    def test_with_the_answers_coming_it_is_never_exhausted(self) -> None:
        proof = AckProof(window=1000)
        for _ in range(1000):
            proof.acknowledged(1000)
            if proof.wants_proof:
                proof.asked()
                proof.answered()
            assert not proof.exhausted


class TestABrokerThatSendsWithoutLimit:
    def test_and_reads_little_is_left_in_good_order_and_nothing_is_taken_twice(self, bench: Bench) -> None:
        heard: list[list[int]] = []
        """For each connection: the kinds of packets, PUBACKs apart."""
        acknowledged: list[int] = []

        def flood(peer: Peer, *, dup: bool) -> None:
            """Send all that is not acknowledged at once; what is asked comes behind it, so it is not answered."""
            first = len(acknowledged) + 1
            packets = [publish(mid, b"%d" % mid, dup=dup) for mid in range(first, MESSAGES + 1)]
            sender = threading.Thread(target=send_all, args=(peer, b"".join(packets)))
            sender.start()
            kinds: list[int] = []
            heard.append(kinds)
            while len(acknowledged) < MESSAGES and (packet := peer.packet()):
                if packet[0] == PUBACK:
                    acknowledged.append(int.from_bytes(packet[2:4]))
                else:
                    kinds.append(packet[0])
                    if packet[0] == DISCONNECT:
                        break
            peer.end()
            sender.join()

        def first(peer: Peer) -> None:
            peer.packet_of(1)
            peer.send(CONNACK_OK)
            peer.send(suback(peer.packet_of(8), 1))
            flood(peer, dup=False)

        def second(peer: Peer) -> None:
            peer.packet_of(1)
            peer.send(CONNACK_OK_PRESENT)
            flood(peer, dup=True)

        with ScriptedBroker(first, second) as broker:
            bench.start(broker.url, version="3.1.1", packet_ids="sequential")
            wait_until(lambda: len(acknowledged) == MESSAGES, what="all is acknowledged", timeout_seconds=60)
        assert heard[0][-1] == DISCONNECT
        assert PINGREQ in heard[0]
        assert acknowledged == list(range(1, MESSAGES + 1))
        assert bench.disk.tails == [b"%d" % mid for mid in range(1, MESSAGES + 1)]


def send_all(peer: Peer, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the gateway has left
        peer.send(data)
