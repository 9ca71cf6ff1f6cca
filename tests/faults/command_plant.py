"""A plant for commands: mosquitto with devices that answer, a stream server, and a gateway between them."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

from ds_gateway import control
from ds_gateway.records import rfc3339
from harness.audit import StreamReader
from harness.command_audit import CommandFindings, Sent, audit, final_statuses, receipts_in
from harness.gateway_process import GatewayProcess
from harness.mosquitto import Mosquitto
from harness.mqtt_device import Device
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from paho.mqtt.client import MQTTMessage

    from harness.processes import Processes

GATEWAY: Final = "line-7"
COMMANDS: Final = f"commands/{GATEWAY}"
RECEIPTS: Final = f"receipts/{GATEWAY}"
PLUGS: Final = ("plugs/1", "plugs/2")
"""They answer as MQTT 5 has it."""
LAMP: Final = "lamps/1"
"""It answers on a topic of its own, with the command's id."""
SINK: Final = "sinks/1"
"""It does not answer: `published` is the end."""
SLOW: Final = "slow/1"
"""As a sink, at most four commands a second."""
DEVICES: Final = (*PLUGS, LAMP, SINK)


def settings(base_url: str, broker_url: str, **downlink: Any) -> dict[str, Any]:
    """The gateway's configuration. Without an expiry of its own a command lives for ten minutes."""

    def entry(kind: str, more: Mapping[str, Any] | None = None, **reply: Any) -> dict[str, Any]:
        topic = f"{kind}/{{number}}"
        commands = {"topic": f"{topic}/set", "expires_after": "10m", **reply}
        return {"topic": f"{topic}/telemetry", "name": topic, "commands": commands, **(more or {})}

    return {
        "gateway": {"id": GATEWAY},
        "server": {"url": base_url},
        "journal": {"min_free_bytes": 0},
        "batch": {"max_delay_seconds": 0.005},
        "downlink": {"clock": "trusted", "start": "beginning", **downlink},
        "mqtt": {
            "hall": {
                "url": broker_url,
                "devices": [
                    entry("plugs", reply="response_topic"),
                    entry("lamps", reply={"topic": "stat/{number}/RESULT", "id": "/id", "timeout_seconds": 20}),
                    entry("sinks"),
                    entry("slow", {"max_rate": 4}),
                ],
            }
        },
    }


def respond(device: Device, message: MQTTMessage) -> None:
    """As a plug does."""
    device.respond(message, b"done")


def report(device: Device, message: MQTTMessage) -> None:
    """As a lamp does: the command has its id in its payload."""
    device.say("stat/1/RESULT", json.dumps({"id": json.loads(message.payload)["id"], "on": True}).encode())


def keep_silent(_device: Device, _message: MQTTMessage) -> None:
    """As a sink does."""


class CommandPlant:
    """Everything, running except for the gateway. The stream server is the test's to start.

    ``server_url`` is where commands are put and receipts are read; ``gateway_url`` and ``broker_url`` what the
    gateway uses instead, if something stands between. ``answers`` replaces what devices do.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        server_url: str,
        *,
        gateway_url: str | None = None,
        broker_url: Callable[[Mosquitto], str] = lambda broker: broker.url,
        answers: Mapping[str, Callable[[Device, MQTTMessage], None]] | None = None,
        serial: Mapping[str, Any] | None = None,
    ) -> None:
        self.sent: list[Sent] = []
        self.server_url = server_url
        self.gateway_url = gateway_url or server_url
        self.receipts = StreamReader(f"{server_url}/{RECEIPTS}")
        self.mosquitto = Mosquitto(folder / "mosquitto", max_queued_messages=0)
        self.devices: dict[str, Device] = {}
        self._processes = processes
        self._folder = folder
        self._broker_url = broker_url
        self._answers = dict.fromkeys(PLUGS, respond) | {LAMP: report} | dict(answers or {})
        self._serial = dict(serial or {})
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.mosquitto)
        for name in (*DEVICES, SLOW):
            answer = self._answers.get(name, keep_silent)
            device = Device(self.mosquitto.port, f"{name}/set", answer, name=name.replace("/", "-"))
            self.devices[name] = self._stack.enter_context(device)
        self.gateway = self.another("gateway")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def another(self, name: str, downlink: Mapping[str, Any] | None = None, **mqtt: Any) -> GatewayProcess:
        """A gateway with this identity, and a data folder of this name."""
        configuration = settings(self.gateway_url, self._broker_url(self.mosquitto), **(downlink or {}))
        configuration["mqtt"]["hall"].update(mqtt)
        if self._serial:
            configuration["serial"] = self._serial
        return GatewayProcess(self._processes, self._folder / name, configuration)

    # -- commands

    def send(self, devices: Sequence[str], **more: Any) -> list[str]:
        """Append a command for each of these devices in one request, and return their ids."""
        return self.send_all([(device, {}) for device in devices], **more)

    def send_all(self, commands: Sequence[tuple[str, Mapping[str, Any]]], **more: Any) -> list[str]:
        """Append commands in one request, each with what is its own, and return their ids."""
        elements = []
        for device, own in commands:
            command = Sent(f"c{len(self.sent)}", device)
            self.sent.append(command)
            elements.append(
                {
                    "id": command.id,
                    "device": device,
                    "payload": {"id": command.id},
                    "issued_at": rfc3339(time.time_ns()),
                    **more,
                    **own,
                }
            )
        url = f"{self.server_url}/{COMMANDS}"
        headers = {"content-type": "application/json"}
        with httpx.Client(trust_env=False, timeout=20, verify=False) as client:
            assert client.put(url, headers=headers).status_code in {200, 201}
            answer = client.post(url, headers=headers, content=json.dumps(elements).encode())
            assert answer.status_code in {200, 204}, answer.text
        return [each["id"] for each in elements]

    # -- what became of them

    @property
    def seen(self) -> dict[str, list[str]]:
        """The ids that each device saw, in order, copies too."""
        return {name: list(device.ids) for name, device in self.devices.items()}

    @property
    def progress(self) -> int:
        """How many commands were seen, or have ended."""
        ended = {self.sent[number].id for number in final_statuses(self.receipts.try_read())}
        return len(ended.union(*self.seen.values()))

    def wait_progress(self, count: int) -> None:
        """Wait until so many commands were seen, or have ended."""
        wait_until(
            lambda: self.progress >= count, timeout_seconds=60, what=f"{count} commands were seen or have ended"
        )

    def statuses(self) -> dict[str, str]:
        """The final status of each command that has one, by id."""
        return {
            self.sent[number].id: status for number, status in final_statuses(self.receipts.try_read()).items()
        }

    def wait_ended(self, *, timeout_seconds: float = 60.0) -> dict[str, str]:
        """Wait until every command has ended, and its device has all that the receipts speak of."""

        def is_over() -> bool:
            statuses = self.statuses()
            seen = {each for ids in self.seen.values() for each in ids}
            done = {each for each, status in statuses.items() if status in {"published", "acknowledged"}}
            return len(statuses) == len(self.sent) and done <= seen

        try:
            wait_until(is_over, timeout_seconds=timeout_seconds, what="every command has ended")
        except AssertionError as error:
            ended = self.statuses()
            missing = [each for each in self.sent if each.id not in ended]
            error.add_note(f"without a final receipt: {missing[:5]} and more, {len(missing)} in all")
            error.add_note(f"open: {json.dumps(self.open_commands()[:5])}")
            raise
        return self.statuses()

    def open_commands(self) -> list[dict[str, Any]]:
        """What ``ds-gateway commands`` shows; nothing while the gateway does not answer."""
        if self.gateway.status() is None:
            return []
        found: list[dict[str, Any]] = control.call(self.gateway.data_dir / "control.sock", "commands")["commands"]
        return found

    def told_open(self, command_id: str) -> bool:
        """Whether the gateway has this command, and it has not ended."""
        return command_id in [each["command"] for each in self.open_commands()]

    def reasons(self) -> list[str]:
        """Why commands are open."""
        return [each["reason"] for each in self.open_commands()]

    def finish(self) -> CommandFindings:
        """Wait until every command has ended, end the gateway, and compare."""
        self.wait_ended()
        # A process killed last may have left nothing to be done: its successor may only just have begun, and a
        # program that does not mind SIGTERM yet dies of it.
        self.gateway.wait_for(lambda _: True, what="the gateway runs")
        status = self.gateway.terminate()
        assert status == 0, status
        findings = audit(self.sent, self.seen, self.receipts.read())
        print(findings)
        return findings

    def told(self, command_id: str) -> list[dict[str, Any]]:
        """The receipts of one command."""
        return [each for each in receipts_in(self.receipts.read()) if each["command"] == command_id]
