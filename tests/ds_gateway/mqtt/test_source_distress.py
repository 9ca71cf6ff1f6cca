"""A broker that reads late or never, and sends all it has in flight again, whatever window was agreed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.mqtt import proof
from harness.mqtt_bench import numbered
from harness.scripted_broker import CONNACK_OK, CONNACK_OK_PRESENT, Peer, ScriptedBroker, publish, suback
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.mqtt_bench import Bench

WINDOW = 10
RING = 300
IN_FLIGHT = 400
BEFORE = 41
LAST = BEFORE + IN_FLIGHT

_SUBSCRIBE, _PUBACK, _DISCONNECT = 8, 4, 14


class Distressed:
    """What the connections of one session do, one after the other."""

    def __init__(self) -> None:
        self.next = threading.Event()
        """Set when a script that waits may go on."""
        self.first_in_flight = BEFORE + 1
        self.sent_before = BEFORE
        self.pubacks: list[int] = []
        """So many were read on each connection that reads."""

    def establishes(self, peer: Peer) -> None:
        peer.packet()
        peer.send(CONNACK_OK)
        peer.send(suback(peer.packet_of(_SUBSCRIBE), 1))
        self._serve(peer, 1, BEFORE - 1)

    def goes_on(self, peer: Peer) -> None:
        """The witness that it counts: an id that is above the number of deliveries on the connection."""
        self._greet(peer)
        self._serve(peer, BEFORE, BEFORE)

    def is_deaf(self, peer: Peer) -> None:
        self._greet(peer)
        self._send_all(peer)
        self._wait()

    def loses_its_connack(self, peer: Peer) -> None:
        peer.packet()

    def reads_late(self, peer: Peer) -> None:
        """And until the end."""
        self._greet(peer)
        self._send_all(peer)
        self._wait()
        self._read_all(peer)

    def reads(self, peer: Peer) -> None:
        self._greet(peer)
        self._send_all(peer)
        self._read_all(peer)

    def _wait(self) -> None:
        assert self.next.wait(30)
        self.next.clear()

    def _greet(self, peer: Peer) -> None:
        peer.packet()
        peer.send(CONNACK_OK_PRESENT)

    def _serve(self, peer: Peer, first: int, last: int) -> None:
        peer.send(b"".join(publish(mid, b"%d" % mid, topic=b"s/1/t") for mid in range(first, last + 1)))
        for _ in range(first, last + 1):
            peer.packet_of(_PUBACK)

    def _send_all(self, peer: Peer) -> None:
        peer.send(
            b"".join(
                publish(mid, b"%d" % mid, dup=mid <= self.sent_before, topic=b"s/1/t")
                for mid in range(self.first_in_flight, LAST + 1)
            )
        )
        self.sent_before = LAST

    def _read_all(self, peer: Peer) -> None:
        self.pubacks.append(0)
        while self.first_in_flight <= LAST and (packet := peer.packet()):
            if packet[0] >> 4 == _PUBACK:
                assert int.from_bytes(packet[2:], "big") == self.first_in_flight
                self.first_in_flight += 1
                self.pubacks[-1] += 1
            elif packet[0] >> 4 == _DISCONNECT:
                return
        self._wait()


@pytest.fixture(autouse=True)
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "RING_ENTRIES", RING)


@pytest.fixture
def distressed() -> Distressed:
    return Distressed()


def settings(**options: Any) -> dict[str, Any]:
    return {"version": "3.1.1", "receive_maximum": WINDOW, "options": options}


def test_that_never_reads_makes_nothing_twice(
    bench: Bench, distressed: Distressed, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection in between, of which nothing came in, may have begun another session, or another numbering."""
    deaf = distressed.is_deaf
    scripts = [deaf, deaf, deaf, distressed.loses_its_connack, deaf, deaf, deaf, distressed.reads]
    with ScriptedBroker(distressed.establishes, distressed.goes_on, *scripts) as broker:
        bench.start(broker.url, **settings(leave_seconds=0.2))
        for connection, script in enumerate(scripts, start=3):
            if script == deaf:
                wait_until(
                    lambda: caplog.messages.count("mqtt.disconnected") == connection,  # noqa: B023
                    what=f"connection {connection} was left",
                )
                distressed.next.set()
        wait_until(lambda: distressed.first_in_flight > LAST, what="everything is acknowledged")
        bench.wait_for(numbered(1, LAST))
        # The one that reads is left once, too.
        assert caplog.messages.count("mqtt.unread_acknowledgements") == scripts.count(deaf) + 1
        distressed.next.set()


def test_that_reads_late_is_left_when_it_has_read(
    bench: Bench, distressed: Distressed, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedBroker(
        distressed.establishes, distressed.goes_on, distressed.reads_late, distressed.reads
    ) as broker:
        bench.start(broker.url, **settings())
        wait_until(lambda: "mqtt.unread_acknowledgements" in caplog.messages, what="the source leaves")
        assert distressed.pubacks == []
        distressed.next.set()
        wait_until(lambda: distressed.first_in_flight > LAST, what="everything is acknowledged")
        bench.wait_for(numbered(1, LAST))
        assert distressed.pubacks == [RING, IN_FLIGHT - RING]
        distressed.next.set()


def test_that_never_reads_does_not_delay_the_end(
    bench: Bench, distressed: Distressed, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedBroker(distressed.establishes, distressed.goes_on, distressed.is_deaf) as broker:
        source = bench.start(broker.url, **settings(leave_seconds=60.0))
        wait_until(lambda: "mqtt.unread_acknowledgements" in caplog.messages, what="the source leaves")
        assert source.stop(20)
        distressed.next.set()
