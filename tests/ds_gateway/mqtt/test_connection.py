"""One connection, with brokers that play a script, and over TLS."""

from __future__ import annotations

import inspect
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import Client

from ds_gateway import clock
from ds_gateway.mqtt import _connection
from ds_gateway.mqtt.transport import Address, explain
from harness.mosquitto import Mosquitto
from harness.mqtt_bench import Publisher, record
from harness.ports import free_port
from harness.scripted_broker import (
    CONNACK_BAD_PROTOCOL,
    CONNACK_OK,
    CONNACK_OK_PRESENT,
    Peer,
    ScriptedBroker,
    publish,
    suback,
)
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.records import Record, Rejected
    from harness.mqtt_bench import Bench

TLS = Path(__file__).parent / "tls"
MANY = TLS.parent.parent / "tls"
"""Certificates of every kind; see the README there."""


class TestPaho:
    """What is used of paho beside its documented names; if this fails, look at `_connection` first."""

    SIGNATURES = {  # noqa: RUF012
        "_create_socket": ["self"],
        "_sock_recv": ["self", "bufsize"],
        "_sock_send": ["self", "buf"],
        "_packet_queue": ["self", "command", "packet", "mid", "qos", "info"],
        "_reset_sockets": ["self", "sockpair_only"],
        "_send_pingreq": ["self"],
    }

    def test_has_the_private_names_that_are_used(self) -> None:
        assert set(self.SIGNATURES) == set(_connection.PAHO_PRIVATE_NAMES)
        for name, parameters in self.SIGNATURES.items():
            assert list(inspect.signature(getattr(Client, name)).parameters) == parameters, name

    def test_calls_them_where_it_is_expected_to(self) -> None:
        assert "self._create_socket()" in inspect.getsource(Client.reconnect)
        assert "self._sock_recv(" in inspect.getsource(Client._packet_read)
        assert "self._send_pingreq()" in inspect.getsource(Client._check_keepalive)
        assert "self._sock_send(" in inspect.getsource(Client._packet_write)
        # A queued packet is written as it is, whatever its length: several PUBACKs can be one.
        assert "packet['packet'][packet['pos']:]" in inspect.getsource(Client._packet_write)


def greet(peer: Peer, connack: bytes = CONNACK_OK) -> None:
    assert peer.packet_of(1)
    peer.send(connack)


class TestAScriptedBroker:
    def test_that_never_answers_is_left(self, bench: Bench) -> None:
        with ScriptedBroker(lambda peer: [*iter(peer.packet, b"")].clear()) as broker:
            bench.start(broker.url, options={"connect_seconds": 0.2})
            bench.wait_for_reason("no CONNACK within 0.2 s")

    def test_that_refuses_3_1_1_is_not_asked_for_3_1(self, bench: Bench) -> None:
        greetings: list[bytes] = []

        def script(peer: Peer) -> None:
            greetings.append(peer.packet_of(1))
            peer.send(CONNACK_BAD_PROTOCOL)
            peer.packet()

        with ScriptedBroker(script) as broker:
            bench.start(broker.url, version="3.1.1")
            bench.wait_for_reason("the broker refuses MQTT 3.1.1")
            wait_until(lambda: len(greetings) > 1, what="the next attempt")
            assert all(b"MQTT\x04" in greeting for greeting in greetings)

    def test_that_knows_no_5_says_so(self, bench: Bench) -> None:
        with ScriptedBroker(lambda peer: greet(peer, CONNACK_BAD_PROTOCOL)) as broker:
            bench.start(broker.url, version="5")
            bench.wait_for_reason("refuses the connection: Unsupported protocol version")

    def test_that_refuses_a_filter_is_named_with_it(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        def script(peer: Peer) -> None:
            greet(peer)
            peer.send(suback(peer.packet_of(8), 0x01, 0x80))
            peer.packet()

        with caplog.at_level("WARNING", "ds_gateway.mqtt"), ScriptedBroker(script) as broker:
            source = bench.start(broker.url, version="3.1.1", filters=["a"], options={"reply_filters": ["b"]})
            bench.wait_for_reason("the broker refuses the subscription to 'b': Unspecified error")
            wait_until(lambda: "mqtt.subscription.refused" in caplog.messages, what="a warning is logged")
            assert source.snapshot().state == "connected"
            wait_until(lambda: bench.disk.rows.get("filters") == b"1\na", what="the granted filter is known")

    def test_that_grants_less_is_named_with_it(self, bench: Bench) -> None:
        def script(peer: Peer) -> None:
            greet(peer)
            peer.send(suback(peer.packet_of(8), 0x00))
            peer.packet()

        with ScriptedBroker(script) as broker:
            bench.start(broker.url, version="3.1.1")
            bench.wait_for_reason("granted at QoS 0 only")

    def test_that_says_why_it_ends_the_connection_is_quoted(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        def script(peer: Peer) -> None:
            greet(peer, b"\x20\x03\x00\x00\x00")
            peer.send(b"\xe0\x01\x8e")

        with caplog.at_level("INFO", "ds_gateway.mqtt"), ScriptedBroker(script) as broker:
            bench.start(broker.url, version="5")
            bench.wait_for_reason("Session taken over: another client uses the client id 'gateway-1', too; stop")

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (b"\x32\x05\x00\x01t\x00\x00", "malformed PUBLISH"),
            (b"\x36\x05\x00\x01t\x00\x01", "QoS 3"),
            (b"\x30\xff\xff\xff\xff\x7f", "four bytes"),
            (b"\x10\x00", "Protocol error"),
            (b"", "closed the connection"),
        ],
    )
    def test_that_talks_nonsense_is_left_with_the_reason(self, bench: Bench, said: bytes, reason: str) -> None:
        def script(peer: Peer) -> None:
            greet(peer, CONNACK_OK_PRESENT)
            peer.send(said)
            if said:
                peer.packet_of(15)

        with ScriptedBroker(script) as broker:
            bench.start(broker.url, version="3.1.1")
            bench.wait_for_reason(reason)

    def test_that_publishes_before_its_connack_is_left(self, bench: Bench) -> None:
        def script(peer: Peer) -> None:
            peer.packet_of(1)
            peer.send(publish(1, b"x") + CONNACK_OK)
            peer.packet_of(15)

        with ScriptedBroker(script) as broker:
            bench.start(broker.url, version="3.1.1")
            bench.wait_for_reason("before its CONNACK")
            assert bench.disk.tails == []

    def test_that_delivers_again_on_a_live_connection_is_understood(self, bench: Bench) -> None:
        acknowledged: list[bytes] = []

        def script(peer: Peer) -> None:
            greet(peer, CONNACK_OK_PRESENT)
            peer.send(publish(1, b"a") + publish(1, b"a", dup=True) + publish(2, b"b"))
            acknowledged.extend(peer.packet_of(4) for _ in range(3))
            peer.packet_of(15)

        with ScriptedBroker(script) as broker:
            source = bench.start(broker.url, version="3.1.1")
            bench.wait_for([b"a", b"b"])
            wait_until(lambda: len(acknowledged) == 3, what="all copies are acknowledged")
            assert acknowledged == [b"\x40\x02\x00\x01", b"\x40\x02\x00\x01", b"\x40\x02\x00\x02"]
            source.stop(10)

    def test_that_hands_out_the_lowest_free_id_loses_no_identical_message(self, bench: Bench) -> None:
        def first(peer: Peer) -> None:
            greet(peer, CONNACK_OK_PRESENT)
            peer.send(publish(1, b"same"))
            assert peer.packet_of(4)

        def second(peer: Peer) -> None:
            # The PUBACK arrived, the id is given out again, and the first copy of this one was lost on the way.
            greet(peer, CONNACK_OK_PRESENT)
            peer.send(publish(1, b"same", dup=True))
            peer.packet_of(15)

        with ScriptedBroker(first, second) as broker:
            bench.start(broker.url, version="3.1.1")
            bench.wait_for([b"same", b"same"])

    def test_that_is_gone_loses_nothing_of_what_it_has_sent(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The PUBACK of the first message fails while the others wait in the socket: that broker was killed, and
        # delivers nothing again.
        monkeypatch.setattr(_connection, "RECEIVE_BYTES", len(publish(1, b"0")))
        gone, payloads = threading.Event(), [b"%d" % number for number in range(9)]

        def script(peer: Peer) -> None:
            greet(peer, CONNACK_OK_PRESENT)
            assert peer.packet_of(8)
            peer.send(b"".join(publish(1 + number, payload) for number, payload in enumerate(payloads)))
            peer.reset()
            gone.set()

        def another(peer: Peer) -> None:
            greet(peer)
            peer.packet_of(15)

        def pipeline(topic: str, payload: bytes, time_ns: int) -> Record | Rejected:
            assert gone.wait(10)
            if payload == payloads[1]:
                wait_until(lambda: bench.disk.tails, what="the first message is committed")
            return record(topic, payload, time_ns)

        with ScriptedBroker(script, another) as broker:
            bench.start(broker.url, version="3.1.1", pipeline=pipeline)
            bench.wait_for(payloads)

    def test_that_needs_pings_gets_them(self, bench: Bench) -> None:
        pinged: list[bytes] = []

        def script(peer: Peer) -> None:
            # Server Keep Alive of 1 second.
            greet(peer, b"\x20\x06\x01\x00\x03\x13\x00\x01")
            for _ in range(2):
                pinged.append(peer.packet_of(12))
                peer.send(b"\xd0\x00")
            peer.packet_of(14)

        with ScriptedBroker(script) as broker:
            source = bench.start(broker.url, version="5")
            wait_until(lambda: len(pinged) == 2, what="two pings came")
            assert source.snapshot().reconnects == 0
            source.stop(10)


class TestTls:
    @pytest.fixture
    def broker(self, tmp_path: Path) -> Mosquitto:
        return Mosquitto(tmp_path / "broker", tls=(TLS / "ca.pem", TLS / "server.pem", TLS / "server.key"))

    @pytest.mark.parametrize("version", ["5", "3.1.1"])
    def test_carries_everything(self, bench: Bench, tmp_path: Path, version: str) -> None:
        plain = f"listener {(port := free_port())} 127.0.0.1"
        tls = (TLS / "ca.pem", TLS / "server.pem", TLS / "server.key")
        with Mosquitto(tmp_path / "both", tls=tls, extra=[plain], max_queued_messages=0) as broker:
            url = f"mqtts://127.0.0.1:{broker.port}"
            bench.start(url, version=version, tls={"ca": str(TLS / "ca.pem")})
            bench.wait_until_subscribed()
            payloads = [b"%04d" % number * 1000 for number in range(300)]
            publisher = Publisher(port)
            publisher.publish(payloads)
            publisher.close()
            bench.wait_for(payloads)
            bench.wait_until_acknowledged()

    def test_leaves_nothing_where_no_selector_sees_it(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # One TLS record then takes more reads than one pass makes.
        monkeypatch.setattr(_connection, "RECEIVE_BYTES", 100)
        plain = f"listener {(port := free_port())} 127.0.0.1"
        tls = (TLS / "ca.pem", TLS / "server.pem", TLS / "server.key")
        with Mosquitto(tmp_path / "both", tls=tls, extra=[plain]) as broker:
            bench.start(f"mqtts://127.0.0.1:{broker.port}", tls={"ca": str(TLS / "ca.pem")})
            bench.wait_until_subscribed()
            publisher = Publisher(port)
            publisher.publish([bytes(10_000)])
            publisher.close()
            bench.wait_for([bytes(10_000)])

    def test_with_an_unknown_authority_names_the_reason(self, bench: Bench, broker: Mosquitto) -> None:
        with broker:
            bench.start(f"mqtts://127.0.0.1:{broker.port}")
            bench.wait_for_reason("the broker's certificate is not accepted: ")

    @pytest.mark.parametrize(
        "case",
        [
            ("elsewhere.pem", "right", "it is for another name (IP address mismatch"),
            ("self-signed.pem", "right", "it is self-signed, and no authority vouches for it"),
            ("expired.pem", "right", "has expired (it is 20"),
            (
                "future.pem",
                "unset",
                "not valid yet by this machine's clock, which is not synchronised and shows 20",
            ),
            ("future.pem", "right", "not valid yet, and this machine's clock, which is synchronised, shows 20"),
        ],
    )
    def test_with_a_certificate_that_is_not_accepted_names_the_reason(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]
    ) -> None:
        certificate, clock_is, reason = case
        monkeypatch.setattr(clock, "is_synchronised", lambda: clock_is == "right")
        with Mosquitto(tmp_path / "b", tls=(MANY / "ca.pem", MANY / certificate, MANY / "server.key")) as broker:
            bench.start(f"mqtts://127.0.0.1:{broker.port}", tls={"ca": str(MANY / "ca.pem")})
            bench.wait_for_reason(reason)

    def test_is_accepted_as_soon_as_the_broker_has_another_certificate(self, bench: Bench, tmp_path: Path) -> None:
        shown: list[Sequence[bytes]] = []
        key, ca = MANY / "server.key", MANY / "ca.pem"
        with Mosquitto(tmp_path / "old", tls=(ca, MANY / "expired.pem", key)) as broker:
            url = f"mqtts://127.0.0.1:{broker.port}"
            source = bench.start(url, tls={"ca": str(ca)}, options={"on_shown": shown.append})
            bench.wait_for_reason("has expired")
        assert shown == []
        with Mosquitto(tmp_path / "new", port=broker.port, tls=(ca, MANY / "chain.pem", key)):
            wait_until(lambda: source.snapshot().state == "connected", what="the new one is accepted")
        assert len(shown[0]) == len(["its own", "the intermediate authority's", "the authority's"])

    def test_a_client_certificate_is_read_again_when_it_was_refused(self, bench: Bench, tmp_path: Path) -> None:
        cert, key = tmp_path / "cert.pem", str(MANY / "client.key")
        shutil.copy(MANY / "client-expired.pem", cert)
        tls = (MANY / "ca.pem", MANY / "server.pem", MANY / "server.key")
        with Mosquitto(tmp_path / "strict", tls=tls, extra=["require_certificate true"]) as broker:
            files = {"ca": str(MANY / "ca.pem"), "cert": str(cert), "key": key}
            source = bench.start(f"mqtts://127.0.0.1:{broker.port}", tls=files)
            bench.wait_for_reason(
                "says that the client certificate has expired: renew tls.cert, which is read again"
            )
            shutil.copy(MANY / "client.pem", tmp_path / "fresh")
            (tmp_path / "fresh").replace(cert)
            wait_until(lambda: source.snapshot().state == "connected", what="the new one is accepted")

    def test_without_a_wanted_client_certificate_names_the_reason(self, bench: Bench, tmp_path: Path) -> None:
        tls = (TLS / "ca.pem", TLS / "server.pem", TLS / "server.key")
        with Mosquitto(tmp_path / "strict", tls=tls, extra=["require_certificate true"]) as broker:
            url = f"mqtts://127.0.0.1:{broker.port}"
            bench.start(url, tls={"ca": str(TLS / "ca.pem")})
            bench.wait_for_reason("the broker wants a client certificate (see tls.cert and tls.key)")
            bench.kill()
            files = {"ca": TLS / "ca.pem", "cert": TLS / "server.pem", "key": TLS / "server.key"}
            source = bench.start(url, tls={name: str(path) for name, path in files.items()})
            wait_until(lambda: source.snapshot().state == "connected", what="the certificate is accepted")

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ({"ca": "missing.pem"}, "cannot read missing.pem: No such file"),
            ({"ca": str(TLS / "server.key")}, "has no certificate in PEM form"),
            ({"cert": str(TLS / "server.pem"), "key": str(TLS / "ca.pem")}, "are not a certificate and its key"),
        ],
    )
    def test_with_unusable_files_names_them(self, bench: Bench, files: dict[str, str], reason: str) -> None:
        bench.start("mqtts://127.0.0.1:1", tls=files)
        bench.wait_for_reason(reason)

    def test_to_a_plain_port_names_the_reason(self, bench: Bench, tmp_path: Path) -> None:
        with Mosquitto(tmp_path / "plain") as broker:
            bench.start(f"mqtts://127.0.0.1:{broker.port}")
            bench.wait_for_reason("no TLS connection to 127.0.0.1")
            bench.wait_for_reason("the broker hung up: see whether it speaks TLS on this port")


class TestAnAddress:
    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("mqtt://broker.local", Address("broker.local", 1883, secure=False)),
            ("mqtts://broker.local/", Address("broker.local", 8883, secure=True)),
            ("mqtt://[::1]:1884", Address("::1", 1884, secure=False)),
        ],
    )
    def test_is_read_from_the_url(self, url: str, address: Address) -> None:
        assert Address.parse(url) == address

    def test_is_written_as_people_do(self) -> None:
        assert str(Address("::1", 1883, secure=False)) == "[::1]:1883"
        assert str(Address("broker", 1883, secure=False)) == "broker:1883"


class TestAnExplanation:
    def test_of_an_error_without_words_is_its_kind(self) -> None:
        assert explain(ConnectionError()) == "ConnectionError"
        assert explain(TimeoutError()) == "no answer in time"
