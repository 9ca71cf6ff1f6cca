"""The whole gateway as its own process, with real parts: mosquitto, pseudo-terminals, stream servers."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams.testing import InMemoryStreamServer
from faults.plant import GATEWAY, Device, Plant
from harness.audit import StreamReader, telemetry
from harness.gateway_process import GatewayProcess, source_of, stream_of, total
from harness.mosquitto import Mosquitto
from harness.ports import free_port
from harness.pty_device import PtyDevice
from harness.stream_server import Asked, Front, Reply, StreamServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import Processes

A, B = Device("a", "1", steady=False), Device("b", "1", steady=False)
STREAM_A, STREAM_B = f"telemetry/{GATEWAY}/a", f"telemetry/{GATEWAY}/b"
SCALE_STREAM = f"telemetry/{GATEWAY}/scales"


class InProcessServer:
    """A stream server in this process, where a test needs none that can be killed."""

    def __init__(self) -> None:
        self._server = InMemoryStreamServer()

    @property
    def base_url(self) -> str:
        return self._server.url("/v1")

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def stream_server() -> Iterator[InProcessServer]:
    with closing(InProcessServer()) as server:
        yield server


@pytest.fixture
def own_server(processes: Processes, tmp_path: Path) -> StreamServer:
    """Not started yet."""
    return StreamServer(processes, tmp_path / "streams")


@pytest.fixture
def front(stream_server: InProcessServer) -> Iterator[Front]:
    with Front(stream_server.base_url) as front:
        yield front


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as simulated:
        yield simulated


def serial_settings(base_url: str, device: PtyDevice) -> dict[str, Any]:
    return {
        "gateway": {"id": GATEWAY},
        "server": {"url": base_url},
        "journal": {"min_free_bytes": 0},
        "serial": {"scale": {"port": str(device.path), "stream": "telemetry/{gateway}/scales"}},
    }


def values(reader: StreamReader) -> list[Any]:
    return telemetry(reader.try_read())


def is_batch(asked: Asked) -> bool:
    """Whether a request carries records: neither a claim nor a probe."""
    return asked.method == "POST" and 0 < int(asked.headers["producer-seq"]) < 2**53 - 1


def batches(front: Front) -> int:
    """How many batches have come so far."""
    return sum(map(is_batch, front.asked))


class TestBoot:
    def test_ready_with_everything_absent_and_each_part_is_used_as_it_comes(
        self, processes: Processes, tmp_path: Path, own_server: StreamServer, device: PtyDevice
    ) -> None:
        broker = Mosquitto(tmp_path / "mosquitto")
        settings = serial_settings(own_server.base_url, device)
        settings["mqtt"] = {"hall": {"url": broker.url, "devices": [{"topic": "sensors/{hall}/{sensor}"}]}}
        address = str(tmp_path / "notify")
        gateway = GatewayProcess(processes, tmp_path, settings, environ={"NOTIFY_SOCKET": address})
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
            manager.bind(address)
            manager.settimeout(20)
            gateway.start()
            assert manager.recv(4096).decode().startswith("READY=1")
            told = drain(manager)
            status = gateway.wait_ready()
            assert [source["state"] for source in status["sources"]] != ["connected", "open"]

            device.plug()
            gateway.wait_for(lambda status: source_of(status, "scale")["state"] == "open", what="the port is open")
            device.send(b"\n12.5\n")
            status = gateway.wait_accepted(1)
            assert stream_of(status, SCALE_STREAM)["in_stream"] == 0
            assert source_of(status, "hall")["state"] != "connected"

            told += drain(manager)
            own_server.start()
            gateway.wait_delivered(1)
            assert values(StreamReader(f"{own_server.base_url}/{SCALE_STREAM}")) == [{"value": "12.5"}]
            with broker:
                gateway.wait_connected()
            told += drain(manager)
            assert gateway.terminate() == 0
            told += drain(manager)
        assert any("STOPPING=1" in datagram for datagram in told)
        assert any("STATUS=" in datagram and "hall" in datagram for datagram in told)

    def test_a_second_gateway_on_the_same_data_is_refused_and_the_holder_named(
        self, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        settings = serial_settings(f"http://127.0.0.1:{free_port()}/v1", device)
        first = GatewayProcess(processes, tmp_path, settings)
        first.start()
        first.wait_ready()
        second = GatewayProcess(processes, tmp_path, settings)
        second.start()
        assert second.child.wait() == 1
        assert f"another gateway (process {first.child.pid}) uses {first.data_dir}" in second.child.output
        assert first.status() is not None, "the first one goes on"

    def test_a_journal_of_another_gateway_is_refused_and_left_alone(
        self, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        settings = serial_settings(f"http://127.0.0.1:{free_port()}/v1", device)
        gateway = GatewayProcess(processes, tmp_path, settings)
        gateway.start()
        gateway.wait_ready()
        assert gateway.terminate() == 0
        gateway.configure({**settings, "gateway": {"id": "line-8"}})
        gateway.start()
        assert gateway.child.wait() == 1
        assert "belongs to gateway 'line-7', but the configuration says 'line-8'" in gateway.child.output
        gateway.configure(settings)
        gateway.start()
        gateway.wait_ready()

    def test_a_data_folder_that_cannot_be_used_is_named(
        self, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        file = tmp_path / "a-file"
        file.touch()
        settings = serial_settings(f"http://127.0.0.1:{free_port()}/v1", device)
        gateway = GatewayProcess(processes, tmp_path, {**settings, "data_dir": str(file / "data")})
        gateway.start()
        assert gateway.child.wait() == 1
        assert f"the journal's directory: {file}/data cannot be used: Not a directory" in gateway.child.output
        assert "Traceback" not in gateway.child.output


class TestStatus:
    def test_the_command_prints_what_the_running_gateway_says(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer, device: PtyDevice
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, serial_settings(stream_server.base_url, device))
        device.plug()
        gateway.start()
        gateway.wait_connected()
        device.send(b"\n12.5\n")
        gateway.wait_delivered(1)
        run = gateway.run_command("status", "--json")
        assert run.returncode == 0, run.stderr
        status = json.loads(run.stdout)
        assert status["gateway"]["pid"] == gateway.child.pid
        assert status["devices"][0]["last_data"] == {"value": "12.5"}
        assert {key: stream_of(status, SCALE_STREAM)[key] for key in ("state", "accepted", "in_stream")} == {
            "state": "idle",
            "accepted": 1,
            "in_stream": 1,
        }

    def test_without_a_gateway_it_says_so_and_fails(
        self, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, serial_settings("http://127.0.0.1:1/v1", device))
        run = gateway.run_command("status")
        assert run.returncode == 1
        assert "no gateway is running" in run.stderr


class TestSerialPort:
    def test_replugged_in_the_middle_of_a_frame(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer, device: PtyDevice
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, serial_settings(stream_server.base_url, device))
        device.plug()
        gateway.start()
        gateway.wait_connected()
        device.send(b"\n1\n2\n3.1")
        gateway.wait_for(lambda status: source_of(status, "scale")["received_bytes"] == 8, what="all was read")
        device.unplug()
        gateway.wait_for(lambda status: source_of(status, "scale")["state"] == "waiting", what="it is missed")
        device.plug()
        gateway.wait_for(lambda status: source_of(status, "scale")["reopens"] == 1, what="it is found again")
        device.send(b"4\n5\n6\n")
        gateway.wait_delivered(4)
        assert gateway.terminate() == 0
        reader = StreamReader(f"{stream_server.base_url}/{SCALE_STREAM}")
        assert values(reader) == [{"value": text} for text in "1256"], "neither 3.1 nor 4 nor 3.14"

    def test_a_kill_between_two_frames_repeats_none(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer, device: PtyDevice
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, serial_settings(stream_server.base_url, device))
        device.plug()
        for number in range(3):
            gateway.start()
            gateway.wait_connected()
            device.send(b"\n%d\n" % number)
            gateway.wait_delivered(number + 1)
            gateway.kill()
        gateway.start()
        gateway.wait_delivered(3)
        reader = StreamReader(f"{stream_server.base_url}/{SCALE_STREAM}")
        assert values(reader) == [{"value": "0"}, {"value": "1"}, {"value": "2"}]


class TestStop:
    def test_sigterm_commits_and_sends_what_was_taken_and_ends_with_0(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer
    ) -> None:
        with Plant(processes, tmp_path, stream_server, [A]) as plant:
            plant.establish_session()
            plant.publish(A, *range(500))
            plant.gateway.wait_accepted(1)
            assert plant.gateway.terminate() == 0
            assert plant.gateway.events("gateway.drained")[0]["backlog"] == 0
            assert values(plant.readers[0]), "what was taken is in the stream"
            plant.gateway.start()
            plant.finish()
            assert plant.audit().problems == ""

    def test_with_the_server_away_it_ends_as_well_and_the_rest_is_sent_after_the_next_start(
        self, processes: Processes, tmp_path: Path, own_server: StreamServer
    ) -> None:
        with Plant(processes, tmp_path, own_server, [A]) as plant:
            plant.establish_session()
            plant.publish(A, 1, 2, 3)
            plant.gateway.wait_accepted(3)
            plant.gateway.wait_stream(STREAM_A, "waiting")
            plant.gateway.child.send_signal(signal.SIGINT)
            assert plant.gateway.child.wait() == 0
            assert plant.gateway.events("gateway.drained")[0]["backlog"] == 3
            own_server.start()
            plant.gateway.start()
            plant.finish()
            assert plant.audit().problems == ""


class TestBroker:
    def test_a_broker_that_is_restarted_loses_and_repeats_nothing(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer
    ) -> None:
        with Plant(processes, tmp_path, stream_server, [A, B]) as plant:
            plant.establish_session()
            plant.publish(A, *range(300))
            plant.mosquitto.stop()
            plant.gateway.wait_for(
                lambda status: source_of(status, "hall")["state"] != "connected", what="the broker is missed"
            )
            plant.mosquitto.start()
            plant.publisher.reconnect()
            plant.publish(B, *range(300))
            plant.finish()
            assert plant.audit().problems == ""

    def test_what_cannot_be_decoded_goes_to_the_quarantine_and_the_rest_goes_on(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer
    ) -> None:
        with Plant(processes, tmp_path, stream_server, [A]) as plant:
            plant.establish_session()
            plant.publish(A, 1)
            plant.publisher.publish([(A.topic, b'{"n": '), (A.topic, b"\xff\xfe"), (A.topic, b'{"n": NaN}')])
            plant.publish(A, 2)
            status = plant.gateway.wait_delivered(2)
            assert values(plant.readers[0]) == [{"n": 1}, {"n": 2}]
            assert status["journal"]["quarantined"] == 3
            assert source_of(status, "hall")["state"] == "connected"
            assert status["devices"][0]["rejected"] == 3
            plant.gateway.wait_for(
                lambda status: source_of(status, "hall")["unacked"] == 0, what="the broker is rid of them"
            )

    def test_a_full_journal_leaves_the_messages_with_the_broker(
        self, processes: Processes, tmp_path: Path, own_server: StreamServer
    ) -> None:
        more = {"journal": {"max_bytes": 1024 * 1024, "min_free_bytes": 0}}
        device = LongWinded("a", "1", steady=False)
        with Plant(processes, tmp_path, own_server, [device], more_settings=more) as plant:
            plant.establish_session()
            plant.publish(device, *range(400))
            status = plant.gateway.wait_for(lambda status: status["journal"]["full"], what="the journal is full")
            assert 0 < total(status, "accepted") < 400
            plant.gateway.kill()
            plant.gateway.start()
            own_server.start()
            plant.finish()
            assert plant.audit().problems == ""


class LongWinded(Device):
    """A sensor whose messages fill a small journal."""

    def payload(self, number: int) -> bytes:
        return b'{"n": %d, "text": "%s"}' % (number, b"x" * 8000)


class TestServer:
    def test_refused_credentials_are_read_again_until_they_are_right(
        self, processes: Processes, tmp_path: Path
    ) -> None:
        good, ours = tmp_path / "good-token", tmp_path / "our-token"
        good.write_text("right\n")
        ours.write_text("wrong\n")
        server = StreamServer(processes, tmp_path / "streams", token_file=good)
        server.start()
        more = {"server": {"url": server.base_url, "token": f"${{file:{ours}}}"}}
        with Plant(processes, tmp_path, server, [A], more_settings=more) as plant:
            plant.establish_session()
            plant.publish(A, 1)
            assert "credentials" in plant.gateway.wait_stream(STREAM_A, "waiting")["reason"]
            ours.write_text("right\n")
            plant.gateway.wait_delivered(1)
            with httpx.Client(headers={"authorization": "Bearer right"}, trust_env=False) as client:
                records = client.get(f"{server.base_url}/{STREAM_A}", params={"offset": "-1"}).json()
            assert telemetry(records) == [{"n": 1}]
            assert "wrong" not in plant.gateway.child.output
            assert "right" not in plant.gateway.child.output

    def test_a_captive_portal_acknowledges_nothing(
        self, processes: Processes, tmp_path: Path, front: Front
    ) -> None:
        portal = Reply(200, {"content-type": "text/html"}, b"<html>Welcome to our network</html>")
        front.rule = lambda _asked: portal
        with Plant(processes, tmp_path, front, [A]) as plant:
            plant.establish_session()
            plant.publish(A, 1)
            plant.gateway.wait_stream(STREAM_A, "waiting")
            front.rule = lambda _asked: None
            plant.gateway.wait_delivered(1)

            front.rule = lambda _asked: portal
            plant.publish(A, 2)
            waiting = plant.gateway.wait_stream(STREAM_A, "waiting")
            assert (waiting["in_stream"], waiting["in_journal"]) == (1, 1)
            assert "may not be the stream server's" in waiting["reason"]
            front.rule = lambda _asked: None
            plant.gateway.wait_delivered(2)
            plant.finish()
            assert plant.audit().problems == ""

    def test_too_many_requests_the_same_bytes_are_sent_when_the_server_said(
        self, processes: Processes, tmp_path: Path, front: Front
    ) -> None:
        refusals = [Reply(429, {"retry-after": "1"}, b"later"), Reply(503, {"retry-after": "0"}, b"later")]
        front.rule = lambda asked: refusals.pop() if is_batch(asked) and refusals else None
        with Plant(processes, tmp_path, front, [A]) as plant:
            plant.establish_session()
            plant.publish(A, 1)
            plant.gateway.wait_delivered(1)
            attempts = list(filter(is_batch, front.asked))
            assert len(attempts) == 3
            assert len({(asked.body, asked.headers["producer-seq"]) for asked in attempts}) == 1
            plant.finish()
            assert plant.audit().problems == ""

    def test_an_answer_that_is_lost_is_looked_for_in_the_stream(
        self, processes: Processes, tmp_path: Path, front: Front
    ) -> None:
        front.lose_answers(lambda asked: is_batch(asked) and front.lost < 3)
        with Plant(processes, tmp_path, front, [A]) as plant:
            plant.establish_session()
            for number in range(1, 6):
                plant.publish(A, number)
                plant.gateway.wait_delivered(number)
            plant.finish()
            assert front.lost == 3
            assert plant.audit().problems == ""
            sent = [asked.headers["producer-seq"] for asked in front.asked if is_batch(asked)]
            assert len(sent) == len(set(sent)), "what was found is not sent again"

    def test_another_content_type_halts_that_stream_only(
        self, processes: Processes, tmp_path: Path, stream_server: InProcessServer
    ) -> None:
        with httpx.Client(trust_env=False) as client:
            url = f"{stream_server.base_url}/{STREAM_A}"
            assert client.put(url, headers={"content-type": "text/plain"}).status_code == 201
        with Plant(processes, tmp_path, stream_server, [A, B]) as plant:
            plant.establish_session()
            plant.publish(A, 1)
            plant.publish(B, 1)
            halted = plant.gateway.wait_stream(STREAM_A, "halted")
            assert "content type is text/plain" in halted["reason"]
            assert halted["in_journal"] == 1
            plant.publish(B, 2)
            plant.gateway.wait_for(
                lambda status: stream_of(status, STREAM_B).get("in_stream") == 2, what="the other stream goes on"
            )

    def test_killed_in_the_middle_of_a_catch_up(self, processes: Processes, tmp_path: Path, front: Front) -> None:
        more = {"batch": {"max_bytes": 1024, "max_delay_seconds": 0}}
        with Plant(processes, tmp_path, front, [A], more_settings=more) as plant:
            plant.establish_session()
            plant.gateway.kill()
            plant.publish(A, *range(600))
            front.rule = lambda asked: Reply(429) if is_batch(asked) and batches(front) > 10 else None
            plant.gateway.start()
            plant.gateway.wait_accepted(600)
            status = plant.gateway.wait_stream(STREAM_A, "waiting")
            plant.gateway.kill()
            assert 0 < status["in_stream"] < 600
            front.rule = lambda _asked: None
            plant.gateway.start()
            plant.finish()
            assert plant.audit().problems == ""

    def test_with_a_batch_unresolved_a_change_of_the_server_halts_until_it_is_changed_back(
        self, processes: Processes, tmp_path: Path, front: Front, own_server: StreamServer
    ) -> None:
        with Plant(processes, tmp_path, front, [A]) as plant:
            plant.establish_session()
            plant.publish(A, 1)
            plant.gateway.wait_delivered(1)
            front.lose_answers(lambda asked: asked.method in {"POST", "HEAD"})
            plant.publish(A, 2)
            plant.gateway.wait_stream(STREAM_A, "waiting")
            plant.gateway.kill()

            settings = json.loads(plant.gateway.config.read_text())
            plant.gateway.configure({**settings, "server": {"url": own_server.base_url}})
            own_server.start()
            plant.gateway.start()
            halted = plant.gateway.wait_stream(STREAM_A, "halted")
            assert f"a batch is unresolved at {front.base_url}" in halted["reason"]
            assert plant.gateway.terminate() == 0
            assert values(StreamReader(f"{own_server.base_url}/{STREAM_A}")) == []

            front.lose_answers(lambda _asked: False)
            plant.gateway.configure(settings)
            plant.gateway.start()
            plant.finish()
            assert plant.audit().problems == ""


def drain(manager: socket.socket) -> list[str]:
    """Everything that the service manager's socket has got. Its queue is short, and what does not fit is lost."""
    told: list[str] = []
    manager.setblocking(False)
    while True:
        try:
            told.append(manager.recv(4096).decode())
        except BlockingIOError:
            return told
