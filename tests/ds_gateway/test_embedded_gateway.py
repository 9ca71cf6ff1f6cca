"""A gateway with its server in its own process: real processes, a real port, and nothing else of a server."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams import stream
from faults.plant import GATEWAY
from harness.audit import StreamReader, telemetry
from harness.embedded_streams import EmbeddedStreams
from harness.gateway_process import GatewayProcess, source_of, stream_of, total
from harness.pty_device import PtyDevice
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import Processes

SCALE_STREAM = f"telemetry/{GATEWAY}/scales"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as simulated:
        simulated.plug()
        yield simulated


@pytest.fixture
def streams() -> EmbeddedStreams:
    return EmbeddedStreams()


def settings(server: dict[str, Any], device: PtyDevice, **more: Any) -> dict[str, Any]:
    return {
        "gateway": {"id": GATEWAY},
        "server": server,
        "journal": {"min_free_bytes": 0},
        "serial": {"scale": {"port": str(device.path), "stream": "telemetry/{gateway}/scales"}},
        **more,
    }


def deliver_first(gateway: GatewayProcess, device: PtyDevice) -> None:
    """Start it, and wait until the device's first line is in the stream."""
    gateway.start()
    gateway.wait_connected()
    device.send(b"\n1\n")
    gateway.wait_delivered(1)


def send(device: PtyDevice, gateway: GatewayProcess, *values: str) -> None:
    """Send lines, and wait until they are read: a line is lost with the process that has not read it."""
    status = gateway.status()
    before = source_of(status, "scale")["received_bytes"] if status else 0
    lines = "".join(f"{value}\n" for value in values).encode()
    device.send(lines)
    gateway.wait_for(
        lambda status: source_of(status, "scale")["received_bytes"] >= before + len(lines),
        what="the lines are read",
    )


def read_with_client(url: str, **more: Any) -> list[Any]:
    with stream(url, live=False, **more) as res:
        return telemetry(res.read_json())


class TestOneMachine:
    def test_others_read_on_the_port_and_the_rest_is_told(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, settings(streams.settings(), device))
        gateway.start()
        gateway.wait_connected()
        device.send(b"\n12.5\n")
        status = gateway.wait_delivered(1)
        url = f"{streams.base_url}/{SCALE_STREAM}"
        assert read_with_client(url) == [{"value": "12.5"}]
        assert stream_of(status, SCALE_STREAM)["url"] == url
        status = gateway.wait_for(
            lambda status: status["embedded"]["state"] == "listening", what="it listens, and says so"
        )
        embedded = status["embedded"]
        assert (embedded["url"], embedded["reason"]) == (streams.base_url, "")
        assert embedded["directory"] == str(gateway.data_dir / "streams")
        assert 0 < embedded["bytes"] < embedded["max_bytes"]
        assert gateway.events("gateway.started")[0]["server"] == streams.base_url
        shown = gateway.run_command("status").stdout
        assert f"embedded server listening, streams in {gateway.data_dir}/streams" in shown
        assert gateway.terminate() == 0

    def test_a_reader_that_waits_does_not_delay_the_end_and_sees_the_last_record(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, settings(streams.settings(), device))
        deliver_first(gateway, device)
        with stream(f"{streams.base_url}/{SCALE_STREAM}", live="long-poll") as res:
            readings = (record["data"]["value"] for record in res.iter_json() if "data" in record)
            assert next(readings) == "1"
            # On the way down: what was taken before the signal is committed, sent and read, in this order.
            device.send(b"2\n")
            gateway.wait_accepted(2)
            assert gateway.terminate() == 0
            drained = gateway.events("gateway.drained")
            assert [each["backlog"] for each in drained] == [0]
            gateway.start()
            assert next(readings) == "2", "the read goes on over the restart"

    def test_a_stream_that_was_deleted_or_lost_with_its_store_is_waited_for(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, settings(streams.settings(), device))
        deliver_first(gateway, device)
        assert httpx.delete(f"{streams.base_url}/{SCALE_STREAM}", trust_env=False).status_code == 204
        send(device, gateway, "2")
        waiting = gateway.wait_stream(SCALE_STREAM, "waiting")
        assert "HTTP 404" in waiting["reason"] + waiting["last_error"]
        assert waiting["in_journal"] > 0
        assert gateway.terminate() == 0
        (gateway.data_dir / "streams").rename(tmp_path / "aside")
        gateway.start()
        waiting = gateway.wait_stream(SCALE_STREAM, "waiting")
        assert "HTTP 404" in waiting["reason"] + waiting["last_error"]
        assert gateway.terminate() == 0

    def test_a_store_that_another_process_serves(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, settings(streams.settings(), device))
        with streams.served(gateway.data_dir):
            gateway.start()
            gateway.wait_connected()
            device.send(b"\n1\n")
            status = gateway.wait_for(
                lambda status: (
                    total(status, "in_journal") == 1 and stream_of(status, SCALE_STREAM)["state"] == "waiting"
                ),
                what="the record waits in the journal",
            )
            assert status["embedded"]["state"] == "closed"
            assert f"another process serves {gateway.data_dir}/streams" in status["embedded"]["reason"]
            assert "another process serves" in stream_of(status, SCALE_STREAM)["reason"]
        gateway.wait_delivered(1)
        assert gateway.terminate() == 0


class TestThePort:
    def test_in_use_the_records_are_stored_all_the_same_and_read_when_it_is_free(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, settings(streams.settings(), device))
        address = str(tmp_path / "notify")
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
            manager.bind(address)
            manager.settimeout(20)
            with closing(socket.create_server(("127.0.0.1", streams.port))):
                gateway = GatewayProcess(
                    processes,
                    tmp_path,
                    settings(streams.settings(), device),
                    environ={"NOTIFY_SOCKET": address},
                )
                gateway.start()
                gateway.wait_connected()
                device.send(b"\n12.5\n")
                status = gateway.wait_delivered(1)
                status = gateway.wait_for(lambda status: status["embedded"]["reason"], what="it says so")
                assert status["embedded"]["state"] == "unheard"
                told = ""
                while "embedded server: cannot listen" not in told:
                    told = manager.recv(4096).decode()
                assert "Address already in use" in gateway.events("embedded.unheard")[0]["reason"]
            gateway.wait_for(lambda status: status["embedded"]["state"] == "listening", what="it listens")
            assert read_with_client(f"{streams.base_url}/{SCALE_STREAM}") == [{"value": "12.5"}]
            assert gateway.terminate() == 0

    def test_with_a_token_every_reader_needs_it(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        token = tmp_path / "token"
        token.write_text("right\n")
        server = streams.settings(token=f"${{file:{token}}}", listen=f"0.0.0.0:{streams.port}")
        gateway = GatewayProcess(processes, tmp_path, settings(server, device))
        gateway.start()
        gateway.wait_connected()
        token.write_text("another\n")  # counts from the next start
        device.send(b"\n12.5\n")
        gateway.wait_delivered(1)
        gateway.wait_for(lambda status: status["embedded"]["state"] == "listening", what="it listens")
        url = f"{streams.base_url}/{SCALE_STREAM}"
        assert httpx.get(url, trust_env=False).status_code == 401
        headers = {"Authorization": "Bearer right"}
        assert read_with_client(url, headers=headers) == [{"value": "12.5"}]
        assert gateway.terminate() == 0

    def test_beyond_this_machine_without_a_token_is_a_mistake_in_the_configuration(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        server = streams.settings(listen=f"0.0.0.0:{streams.port}")
        gateway = GatewayProcess(processes, tmp_path, settings(server, device))
        gateway.start()
        assert gateway.child.wait() == 2
        assert "server.listen: others than this machine could read" in gateway.child.output
        assert "set server.token" in gateway.child.output


class TestTheQuota:
    def test_beyond_it_the_journal_keeps_the_records_and_a_larger_one_takes_them(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
    ) -> None:
        small = settings(streams.settings(max_bytes=1024 * 1024), device, batch={"max_bytes": 16 * 1024})
        gateway = GatewayProcess(processes, tmp_path, small)
        gateway.start()
        gateway.wait_connected()
        device.send(b"\n")
        values = [f"{number} {'x' * 3000}" for number in range(500)]
        sent = len(values)
        for start in range(0, sent, 20):
            send(device, gateway, *values[start : start + 20])
        gateway.wait_accepted(sent)
        assert "HTTP 507" in gateway.wait_stream(SCALE_STREAM, "waiting")["reason"]
        status = gateway.wait_for(lambda status: status["embedded"]["reason"], what="it says that it is full")
        assert "the store is full: raise server.max_bytes" in status["embedded"]["reason"]
        url = f"{streams.base_url}/{SCALE_STREAM}"
        assert 0 < len(read_with_client(url)) < sent, "what is there is read"
        assert gateway.terminate() == 0

        gateway.configure({**small, "server": streams.settings(max_bytes=64 * 1024 * 1024)})
        gateway.start()
        gateway.wait_delivered(sent)
        wait_until(
            lambda: len(StreamReader(url).try_read()) > sent, what="the port is there, and the stream is whole"
        )
        assert read_with_client(url) == [{"value": value} for value in values[:sent]]
        assert gateway.terminate() == 0


def test_the_server_is_stopped_behind_the_uplinks_and_its_lock_is_given_back(
    processes: Processes, tmp_path: Path, device: PtyDevice, streams: EmbeddedStreams
) -> None:
    gateway = GatewayProcess(processes, tmp_path, settings(streams.settings(), device))
    deliver_first(gateway, device)
    send(device, gateway, *map(str, range(2, 200)))
    assert gateway.terminate() == 0
    assert gateway.events("uplink.waiting") == [], "no uplink lost its server on the way down"
    with streams.served(gateway.data_dir):
        reader = StreamReader(f"{streams.base_url}/{SCALE_STREAM}")
        assert telemetry(reader.read()) == [{"value": str(number)} for number in range(1, 200)]
