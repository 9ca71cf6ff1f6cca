"""PUBACKs that the broker may not have read: bounded by what the ring can recognise."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from ds_gateway.mqtt.proof import AckProof
from ds_gateway.mqtt.ring import RING_ENTRIES
from harness.scripted_broker import CONNACK_OK, CONNACK_OK_PRESENT, Peer, ScriptedBroker, publish, suback
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.mqtt_bench import Bench

MESSAGES = 40_000
PUBACK, PINGREQ, DISCONNECT = 0x40, 0xC0, 0xE0


def taken(proof: AckProof, count: int) -> int:
    return sum(proof.take() for _ in range(count))


class TestAnAckProof:
    def test_no_more_is_taken_than_the_ring_holds(self) -> None:
        proof = AckProof()
        assert taken(proof, RING_ENTRIES) == RING_ENTRIES
        assert not proof.exhausted
        assert not proof.take()
        assert proof.exhausted

    def test_what_is_not_acknowledged_yet_counts_as_well(self) -> None:
        proof = AckProof()
        taken(proof, 30_000)
        proof.acknowledged(20_000)
        assert taken(proof, 10_000) == RING_ENTRIES - 30_000

    def test_it_asks_now_and_then(self) -> None:
        proof = AckProof()
        asked = 0
        for _ in range(RING_ENTRIES // 64):
            taken(proof, 64)
            proof.acknowledged(64)
            if proof.wants_proof:
                proof.asked()
                asked += 1
        assert asked == 4

    def test_an_answer_proves_what_was_sent_before_it_was_asked_for(self) -> None:
        proof = AckProof()
        taken(proof, RING_ENTRIES)
        proof.acknowledged(20_000)
        proof.asked()
        proof.acknowledged(10_000)
        for _ in range(2):  # the second is an answer to nobody's PINGREQ
            proof.answered()
        assert taken(proof, RING_ENTRIES) == 20_000

    def test_behind_one_that_was_refused_none_is_taken(self) -> None:
        proof = AckProof()
        taken(proof, RING_ENTRIES)
        proof.acknowledged(RING_ENTRIES)
        proof.asked()
        assert not proof.take()
        proof.answered()
        assert not proof.take()

    def test_with_the_answers_coming_it_is_never_exhausted(self) -> None:
        proof = AckProof()
        for _ in range(200):
            assert taken(proof, 1000) == 1000
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
