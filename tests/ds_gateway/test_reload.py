"""A configuration taken up while the gateway runs: a process, mosquitto, a stream server, a service manager."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway import control
from ds_gateway.errors import ControlError
from ds_gateway.records import rfc3339
from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer
from harness.audit import StreamReader, telemetry
from harness.gateway_process import GatewayProcess, stream_of
from harness.mosquitto import Mosquitto
from harness.mqtt_device import Device
from harness.publisher import Publisher, Traffic
from harness.service_manager import Manager
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from paho.mqtt.client import MQTTMessage

    from harness.gateway_process import Status
    from harness.processes import Processes

GATEWAY = "line-7"
COMMANDS, RECEIPTS, TELEMETRY = f"v1/commands/{GATEWAY}", f"v1/receipts/{GATEWAY}", f"v1/telemetry/{GATEWAY}"


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as server:
        yield server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify") as manager:
        yield manager


@pytest.fixture
def settings(server: InMemoryStreamServer, broker: Mosquitto) -> dict[str, Any]:
    plug = {
        "topic": "sensors/{hall}/{plug}",
        "commands": {"topic": "sensors/{hall}/{plug}/set", "reply": "response_topic", "expires_after": "10m"},
    }
    return {
        "gateway": {"id": GATEWAY},
        "server": {"url": server.url("v1")},
        "journal": {"min_free_bytes": 0},
        "downlink": {"clock": "trusted", "start": "beginning", "gateway_commands": ["status", "reload"]},
        "mqtt": {"hall": {"url": broker.url, "devices": [plug]}},
    }


@pytest.fixture
def gateway(processes: Processes, tmp_path: Path, settings: dict[str, Any], manager: Manager) -> GatewayProcess:
    """Running and connected."""
    gateway = GatewayProcess(processes, tmp_path, settings, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert manager.told == []
    gateway.start()
    gateway.wait_connected()
    return gateway


def with_another_topic(settings: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    changed["mqtt"]["hall"]["devices"].append({"topic": "meters/{meter}", "name": "meter-{meter}"})
    return changed


def send(server: InMemoryStreamServer, *commands: dict[str, Any]) -> None:
    issued = {"issued_at": rfc3339(time.time_ns())}
    with DurableStream.create(server.url(COMMANDS), content_type="application/json") as handle:
        for command in commands:
            handle.append(issued | command)


def receipts(server: InMemoryStreamServer) -> list[dict[str, Any]]:
    return [each["info"] for each in StreamReader(server.url(RECEIPTS)).read() if each.get("kind") == "receipt"]


def wait_for(server: InMemoryStreamServer, *ids: str) -> dict[str, dict[str, Any]]:
    """The final receipts of commands, once all have one; none has two."""
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        found[:] = [each for each in receipts(server) if each["final"]]
        return {each["command"] for each in found} >= set(ids)

    wait_until(ended, timeout_seconds=40, what=f"{ids} have ended")
    assert max(Counter(each["command"] for each in found).values()) == 1
    return {each["command"]: each for each in found}


def ask(gateway: GatewayProcess) -> dict[str, Any]:
    return control.call(gateway.data_dir / "control.sock", "reload", timeout_seconds=20)


def wait_started(gateway: GatewayProcess, times: int) -> Status:
    """Wait until it has started so often, and is connected."""
    wait_until(
        lambda: len(gateway.events("gateway.started")) >= times,
        timeout_seconds=40,
        what=f"it has started {times} times\n{gateway.child.output[-4000:]}",
    )
    return gateway.wait_connected()


def answer(device: Device, message: MQTTMessage) -> None:
    device.respond(message, b"done")


class TestAValidChange:
    def test_takes_effect_in_the_same_process(
        self,
        gateway: GatewayProcess,
        settings: dict[str, Any],
        server: InMemoryStreamServer,
        broker: Mosquitto,
        manager: Manager,
    ) -> None:
        before = gateway.wait_connected()
        descriptors = len(list(Path(f"/proc/{gateway.child.pid}/fd").iterdir()))
        gateway.configure(with_another_topic(settings))
        send(server, {"id": "reload", "device": "@gateway", "payload": "reload"})
        found = wait_for(server, "reload")
        after = wait_started(gateway, 2)
        assert found["reload"]["status"] == "acknowledged"
        assert after["gateway"]["pid"] == before["gateway"]["pid"] == gateway.child.pid
        assert after["gateway"]["config_digest"] != before["gateway"]["config_digest"]
        assert after["gateway"]["config_digest"] in found["reload"]["reply"]
        assert manager.states[:2] == ["READY=1", "RELOADING=1"]
        assert manager.states[2:] == ["READY=1"]
        assert any("\nMONOTONIC_USEC=" in each for each in manager.told if each.startswith("RELOADING=1"))
        with Publisher(broker.port) as publisher:
            publisher.publish([("meters/3", b"7"), ("sensors/a/1", b"8")])
        gateway.wait_delivered(4)
        assert {each["name"] for each in gateway.wait_connected()["devices"]} == {"meter-3", "a/1"}
        assert [each["status"] for each in receipts(server)] == ["accepted", "acknowledged"]
        # One more than before: not all are open at every moment. A journal left open alone is three.
        assert len(list(Path(f"/proc/{gateway.child.pid}/fd").iterdir())) <= descriptors + 2
        assert gateway.terminate() == 0
        wait_until(lambda: manager.states[3:] == ["STOPPING=1"], what="it says that it stops")

    def test_by_the_signal(
        self, gateway: GatewayProcess, settings: dict[str, Any], broker: Mosquitto, manager: Manager
    ) -> None:
        before = gateway.wait_connected()
        gateway.configure({**settings, "jurnal": {}})
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        os.kill(gateway.child.pid, signal.SIGHUP)
        wait_until(lambda: manager.states == ["READY=1", "RELOADING=1", "READY=1"], what="it has refused it")
        assert "jurnal: unknown key" in str(gateway.events("gateway.reload.refused")[0])
        began, ended = (each for each in manager.told if "checking" in each or "refused" in each)
        assert int(began.split("\n")[1].removeprefix("MONOTONIC_USEC=")) >= microseconds
        assert "jurnal: unknown key" in ended
        gateway.configure(with_another_topic(settings))
        for _ in range(5):
            os.kill(gateway.child.pid, signal.SIGHUP)
        after = wait_started(gateway, 2)
        assert after["gateway"]["pid"] == before["gateway"]["pid"]
        assert after["gateway"]["config_digest"] != before["gateway"]["config_digest"]
        # Each signal begins one that may be another one's, too; all of them end with one start.
        assert [state for state, _ in groupby(manager.states)] == ["READY=1", "RELOADING=1"] * 2 + ["READY=1"]
        with Publisher(broker.port) as publisher:
            publisher.publish([("meters/3", b"7")])
        gateway.wait_delivered(1)
        assert gateway.terminate() == 0

    def test_by_the_control_socket_with_arguments_and_overrides_kept(
        self, processes: Processes, tmp_path: Path, settings: dict[str, Any], server: InMemoryStreamServer
    ) -> None:
        (tmp_path / "other").mkdir()
        environ = {"DS_GATEWAY__SERVER__URL": server.url("v1")}
        broken = copy.deepcopy(settings) | {"server": {"url": "http://127.0.0.1:1/nobody"}}
        gateway = GatewayProcess(processes, tmp_path / "other", broken, environ=environ)
        gateway.start("--dry-run-commands")
        gateway.wait_connected()
        answered = ask(gateway)
        assert (answered["config"], answered["changed"]) == (str(gateway.config), False)
        after = wait_started(gateway, 2)
        assert after["server"]["url"] == server.url("v1")
        send(server, {"id": "dry", "device": "a/1", "payload": 1})
        assert wait_for(server, "dry")["dry"]["code"] == "dry_run"
        assert gateway.terminate() == 0


class TestAnInvalidChange:
    def test_is_told_with_file_and_line_and_nothing_else_happens(
        self,
        gateway: GatewayProcess,
        settings: dict[str, Any],
        server: InMemoryStreamServer,
        manager: Manager,
    ) -> None:
        before = gateway.wait_connected()
        wrong = copy.deepcopy(settings)
        wrong["mqtt"]["hall"]["devices"][0]["max_rat"] = 2
        wrong["mqtt"]["hall"]["devices"] += [{"topic": f"sensors/{{hall}}/{{plug}}/{'x' * 200}#"}] * 9
        gateway.configure(wrong)
        line = next(
            number for number, text in enumerate(gateway.config.read_text().splitlines(), 1) if "max_rat" in text
        )
        send(
            server,
            {"id": "reload", "device": "@gateway", "payload": "reload"},
            {"id": "status", "device": "@gateway", "payload": "status"},
        )
        found = wait_for(server, "reload", "status")
        assert (found["reload"]["status"], found["reload"]["code"]) == ("failed", "configuration")
        first, *_, last = found["reload"]["reason"].splitlines()
        assert first.startswith(f"{gateway.config}:{line}: mqtt.hall.devices[0].max_rat: ")
        assert last.endswith("more: ds-gateway check tells all")
        assert found["status"]["status"] == "acknowledged"
        with pytest.raises(ControlError, match=rf"gateway.yaml:{line}: mqtt.hall.devices\[0\].max_rat"):
            ask(gateway)
        after = gateway.wait_connected()
        assert after["gateway"]["config_digest"] == before["gateway"]["config_digest"]
        assert (len(gateway.events("gateway.started")), manager.states) == (1, ["READY=1"])
        assert gateway.terminate() == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"gateway": {"id": "line-8"}},
            {"data_dir": "/somewhere/else"},
        ],
        ids=["gateway.id", "data_dir"],
    )
    def test_another_gateway_is_for_an_operator(
        self,
        gateway: GatewayProcess,
        settings: dict[str, Any],
        server: InMemoryStreamServer,
        change: dict[str, Any],
    ) -> None:
        gateway.configure(settings | change)
        send(server, {"id": "reload", "device": "@gateway", "payload": "reload"})
        found = wait_for(server, "reload")["reload"]
        assert (found["status"], found["code"]) == ("failed", "configuration")
        assert "restart the service" in found["reason"]
        with pytest.raises(ControlError, match="a reload does not change it"):
            ask(gateway)
        assert gateway.terminate() == 0
        assert len(gateway.events("gateway.started")) == 1

    def test_a_gateway_that_is_not_told_so_by_its_file_takes_no_reload(
        self, gateway: GatewayProcess, settings: dict[str, Any], server: InMemoryStreamServer
    ) -> None:
        settings["downlink"]["gateway_commands"] = ["reload"]
        gateway.configure(settings)
        ask(gateway)
        wait_started(gateway, 2)
        send(server, {"id": "status", "device": "@gateway", "payload": "status"})
        assert wait_for(server, "status")["status"]["code"] == "not_allowed"
        assert gateway.terminate() == 0


class TestWhileItReloads:
    def test_readings_are_neither_lost_nor_repeated(
        self, gateway: GatewayProcess, settings: dict[str, Any], server: InMemoryStreamServer, broker: Mosquitto
    ) -> None:
        messages = [("sensors/a/1", b'{"n": %d}' % number) for number in range(3000)]
        with (
            Publisher(broker.port) as publisher,
            Traffic(publisher, messages, lambda: 20) as traffic,
        ):
            for times in range(2, 5):
                traffic.allow(500)
                ask(gateway)
                traffic.wait_confirmed(500 * (times - 1))
                gateway.configure(with_another_topic(settings) if times % 2 else settings)
                traffic.allow(500)
                wait_started(gateway, times)
            traffic.allow(len(messages))
            traffic.wait_confirmed(len(messages))
        name = f"telemetry/{GATEWAY}"
        gateway.wait_for(
            lambda status: (
                stream_of(status, name).get("accepted", 0) >= len(messages)
                and stream_of(status, name)["in_journal"] == 0
            ),
            what="all are in the stream",
        )
        assert telemetry(StreamReader(server.url(TELEMETRY)).read()) == [{"n": n} for n in range(len(messages))]
        assert gateway.terminate() == 0

    def test_commands_are_done_once(
        self, gateway: GatewayProcess, server: InMemoryStreamServer, broker: Mosquitto
    ) -> None:
        count = 40
        ids = [f"c{number}" for number in range(count)]
        with Device(broker.port, "sensors/+/+/set", answer) as plug:
            for number, name in enumerate(ids):
                if number % 20 == 10:
                    send(server, {"id": f"reload{number}", "device": "@gateway", "payload": "reload"})
                send(server, {"id": name, "device": f"a/{number % 3}", "payload": number})
            found = wait_for(server, *ids, "reload10", "reload30")
            assert Counter(plug.ids) == Counter(ids)
        assert {each["status"] for each in found.values()} == {"acknowledged"}
        wait_started(gateway, 2)
        assert gateway.terminate() == 0

    def test_a_command_that_is_with_its_device_is_waited_for(
        self, gateway: GatewayProcess, server: InMemoryStreamServer, broker: Mosquitto
    ) -> None:
        def answer_late(device: Device, message: MQTTMessage) -> None:
            wait_until(lambda: gateway.events("gateway.stopping"), what="the gateway stops")
            device.respond(message, b"done")

        with Device(broker.port, "sensors/+/+/set", answer_late) as plug:
            send(server, {"id": "late", "device": "a/1", "payload": 1, "delivery": "at_most_once"})
            wait_until(lambda: plug.commands, what="the device has it")
            ask(gateway)
            found = wait_for(server, "late")
            wait_started(gateway, 2)
            assert (found["late"]["status"], plug.ids) == ("acknowledged", ["late"])
        assert gateway.terminate() == 0

    def test_the_watchdog_is_fed_while_it_waits(
        self, processes: Processes, tmp_path: Path, settings: dict[str, Any], manager: Manager, broker: Mosquitto
    ) -> None:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        gateway = GatewayProcess(processes, tmp_path, settings, environ=environ)
        gateway.start()
        gateway.wait_connected()
        with Device(broker.port, "sensors/+/+/set") as plug:  # which never answers: it is waited for
            url = f"{settings['server']['url']}/commands/{GATEWAY}"
            with DurableStream.create(url, content_type="application/json") as handle:
                handle.append({"id": "held", "device": "a/1", "payload": 1, "issued_at": time.time()})
            wait_until(lambda: plug.commands, what="the device has it")
            ask(gateway)
            wait_started(gateway, 2)
            wait_until(lambda: manager.states == ["READY=1", "RELOADING=1", "READY=1"], what="it has started anew")
            words = [each.split("\n")[0] for each in manager.told]
            began = words.index("RELOADING=1")
            fed = words[began : words.index("READY=1", began)].count("WATCHDOG=1")
            # One comes before it executes itself anew; three seconds at two in a second are the others.
            assert fed >= 4, words
        assert gateway.terminate() == 0

    def test_a_file_that_is_wrong_by_then_is_not_taken_up(
        self, gateway: GatewayProcess, server: InMemoryStreamServer, broker: Mosquitto, settings: dict[str, Any]
    ) -> None:
        right = gateway.status()
        assert right is not None

        def spoil(device: Device, message: MQTTMessage) -> None:
            wait_until(lambda: gateway.events("gateway.stopping"), what="the gateway stops")
            gateway.configure(settings | {"jurnal": {}})
            device.respond(message, b"done")

        with Device(broker.port, "sensors/+/+/set", spoil) as plug:
            send(server, {"id": "late", "device": "a/1", "payload": 1})
            wait_until(lambda: plug.commands, what="the device has it")
            gateway.configure(with_another_topic(settings))
            ask(gateway)
            status = wait_started(gateway, 2)
            (refused,) = gateway.events("gateway.reload.refused")
            assert "jurnal: unknown key" in str(refused)
            assert status["gateway"]["pid"] == right["gateway"]["pid"]
            assert status["gateway"]["config_digest"] == right["gateway"]["config_digest"]
        with Device(broker.port, "sensors/+/+/set", answer):
            send(server, {"id": "after", "device": "a/1", "payload": 1})
            assert wait_for(server, "late", "after")["after"]["status"] == "acknowledged"
            gateway.configure(with_another_topic(settings))
            assert ask(gateway)["changed"]
            wait_started(gateway, 3)
        assert gateway.terminate() == 0

    def test_a_signal_ends_it_for_good(
        self, gateway: GatewayProcess, server: InMemoryStreamServer, broker: Mosquitto, manager: Manager
    ) -> None:
        with Device(broker.port, "sensors/+/+/set") as plug:  # which never answers
            send(server, {"id": "held", "device": "a/1", "payload": 1})
            wait_until(lambda: plug.commands, what="the device has it")
            ask(gateway)
            wait_until(lambda: gateway.events("gateway.stopping"), what="the gateway stops")
            assert gateway.terminate() == 0
        assert len(gateway.events("gateway.started")) == 1
        wait_until(lambda: manager.states == ["READY=1", "RELOADING=1", "STOPPING=1"], what="it says so")
