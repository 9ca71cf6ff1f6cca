"""Commands through the whole gateway: its own process, mosquitto, a pseudo-terminal, a stream server."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway import control
from ds_gateway.records import control_info, rfc3339
from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer
from harness.gateway_process import GatewayProcess
from harness.mosquitto import Mosquitto
from harness.mqtt_device import Device
from harness.pty_device import PtyDevice
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from paho.mqtt.client import MQTTMessage

    from harness.processes import Processes

GATEWAY = "line-7"
COMMANDS, RECEIPTS = f"v1/commands/{GATEWAY}", f"v1/receipts/{GATEWAY}"


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as server:
        yield server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def scale(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as scale:
        scale.plug()
        yield scale


@pytest.fixture
def gateway(
    processes: Processes, tmp_path: Path, server: InMemoryStreamServer, broker: Mosquitto, scale: PtyDevice
) -> GatewayProcess:
    """Not started yet."""
    return GatewayProcess(processes, tmp_path, settings(server, broker, scale))


def settings(server: InMemoryStreamServer, broker: Mosquitto, scale: PtyDevice) -> dict[str, Any]:
    plug = {
        "topic": "sensors/{hall}/{plug}",
        "commands": {"topic": "sensors/{hall}/{plug}/set", "reply": "response_topic", "expires_after": "10m"},
    }
    return {
        "gateway": {"id": GATEWAY},
        "server": {"url": server.url("v1")},
        "journal": {"min_free_bytes": 0},
        "downlink": {"clock": "trusted", "start": "beginning", "gateway_commands": ["status"]},
        "mqtt": {"hall": {"url": broker.url, "devices": [plug]}},
        "serial": {
            "scale": {"port": str(scale.path), "commands": {"write": "T\r\n", "reply": {"pattern": "^OK"}}},
        },
    }


def send(server: InMemoryStreamServer, *commands: dict[str, Any]) -> None:
    issued = {"issued_at": rfc3339(time.time_ns())}
    with DurableStream.create(server.url(COMMANDS), content_type="application/json") as handle:
        for command in commands:
            handle.append(issued | command)


def receipts(server: InMemoryStreamServer) -> list[dict[str, Any]]:
    with (
        DurableStream.create(server.url(RECEIPTS), content_type="application/json") as handle,
        handle.stream(live=False) as response,
    ):
        return [info for each in response.read_json() if (info := control_info(each, "receipt"))]


def wait_for(server: InMemoryStreamServer, count: int) -> list[dict[str, Any]]:
    wait_until(
        lambda: sum(each["final"] for each in receipts(server)) >= count,
        timeout_seconds=40,
        what=f"{count} commands have ended",
    )
    return receipts(server)


def answer(device: Device, message: MQTTMessage) -> None:
    """As a device that knows MQTT 5."""
    device.respond(message, b"done")


def tare(scale: PtyDevice) -> None:
    scale.receive_to(b"T\r\n")
    scale.send(b"OK tared\r\n")


class TestCommands:
    def test_reach_a_broker_a_port_and_the_gateway_itself(
        self,
        gateway: GatewayProcess,
        server: InMemoryStreamServer,
        broker: Mosquitto,
        scale: PtyDevice,
    ) -> None:
        with Device(broker.port, "sensors/+/+/set", answer) as plug:
            gateway.start()
            gateway.wait_connected()
            scale.send(b"rest of a line\r\n")  # what comes first after the opening may be half of something
            tared = threading.Thread(target=tare, args=(scale,))
            tared.start()
            send(
                server,
                {"id": "plug", "device": "a/1", "payload": {"on": True}},
                {"id": "scale", "device": "scale", "payload": None},
                {"id": "self", "device": "@gateway", "payload": "status"},
                {"id": "nobody", "device": "a", "payload": 1},
            )
            found = wait_for(server, 4)
            tared.join()
            assert [message.payload for message in plug.commands] == [b'{"on":true}']
        last = {each["command"]: each for each in found if each["final"]}
        assert {name: each["status"] for name, each in last.items()} == {
            "plug": "acknowledged",
            "scale": "acknowledged",
            "self": "acknowledged",
            "nobody": "failed",
        }
        assert (last["plug"]["reply"], last["scale"]["reply"].strip()) == ("done", "OK tared")
        assert '"devices"' in last["self"]["reply"]
        status = gateway.status()
        assert status is not None
        assert (status["downlink"]["state"], status["downlink"]["number"]) == ("reading", 4)
        assert control.call(gateway.data_dir / "control.sock", "commands")["commands"] == []
        assert gateway.terminate() == 0

    def test_are_done_where_records_are_cloud_events(
        self, gateway: GatewayProcess, server: InMemoryStreamServer, broker: Mosquitto, scale: PtyDevice
    ) -> None:
        given = settings(server, broker, scale)
        gateway.configure({**given, "gateway": {"id": GATEWAY, "envelope": "cloudevents"}})
        gateway.start()
        send(server, {"id": "self", "device": "@gateway", "payload": "status"})
        assert wait_for(server, 1)[-1]["status"] == "acknowledged"

    def test_a_command_that_is_open_at_a_stop_goes_on_after_it(
        self, gateway: GatewayProcess, server: InMemoryStreamServer, broker: Mosquitto
    ) -> None:
        broker.stop()
        gateway.start()
        gateway.wait_ready()
        send(server, {"id": "plug", "device": "a/1", "payload": 1, "expires_after": 600})
        socket = gateway.data_dir / "control.sock"
        wait_until(lambda: control.call(socket, "commands")["commands"], what="it is open")
        assert gateway.terminate() == 0
        broker.start()
        with Device(broker.port, "sensors/+/+/set", answer) as plug:
            gateway.start()
            found = wait_for(server, 1)
            assert [message.payload for message in plug.commands] == [b"1"]
        assert [each["status"] for each in found] == ["accepted", "published", "acknowledged"]
        assert gateway.terminate() == 0

    @pytest.mark.soak
    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_survive_kills(
        self,
        gateway: GatewayProcess,
        server: InMemoryStreamServer,
        broker: Mosquitto,
        delivery: str,
    ) -> None:
        count = 60
        with Device(broker.port, "sensors/+/+/set", answer) as plug:
            gateway.start()
            for number in range(count):
                send(
                    server,
                    {"id": f"c{number}", "device": f"a/{number % 3}", "payload": number, "delivery": delivery},
                )
                if number % 20 == 19:
                    enough = len(plug.commands) + 5
                    wait_until(lambda enough=enough: len(plug.commands) >= enough, what="some are done")  # type: ignore[misc]
                    gateway.kill()
                    gateway.start()
            found = wait_for(server, count)
            times = Counter(int(message.payload) for message in plug.commands)
        assert gateway.terminate() == 0
        assert Counter(each["number"] for each in found if each["final"]) == Counter(range(count))
        unknown = {each["number"] for each in found if each["status"] == "unknown"}
        if delivery == "at_most_once":
            assert set(times.values()) == {1}
            assert set(range(count)) - set(times) <= unknown
        else:
            assert set(times) == set(range(count))
