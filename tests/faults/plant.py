"""A plant for the fault tests: mosquitto, a stream server, a gateway between them, a publisher and an audit."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from harness.audit import Findings, StreamReader, check_positions, compare, of_kind
from harness.gateway_process import GatewayProcess, source_of
from harness.mosquitto import Mosquitto
from harness.publisher import Message, Publisher, Traffic
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from random import Random
    from types import TracebackType

    from harness.processes import Processes

GATEWAY: Final = "line-7"
END: Final = {"end": True}
"""The last message of each device: behind it, nothing of that device is still with the broker."""


class Server(Protocol):
    """What is needed of a stream server."""

    @property
    def base_url(self) -> str:
        """What goes into ``server.url``."""
        ...


@dataclass(frozen=True)
class Device:
    """A simulated sensor. ``steady``: all its payloads are the same bytes."""

    hall: str
    sensor: str
    steady: bool

    @property
    def name(self) -> str:
        return f"{self.hall}/{self.sensor}"

    @property
    def topic(self) -> str:
        return f"sensors/{self.name}/telemetry"

    def payload(self, number: int) -> bytes:
        return b'{"temp": 21.4}' if self.steady else b'{"n": %d}' % number


def numbered_and_steady() -> list[Device]:
    """Two halls, which are two streams, with a sensor of each kind."""
    return [Device(hall, sensor, steady) for hall in "ab" for sensor, steady in (("1", False), ("2", True))]


def all_alike(*, steady: bool) -> list[Device]:
    """Two halls with two sensors of one kind."""
    return [Device(hall, sensor, steady) for hall in "ab" for sensor in "12"]


def settings(base_url: str, broker_url: str, *, packet_ids: str = "sequential") -> dict[str, Any]:
    """The gateway's configuration."""
    return {
        "gateway": {"id": GATEWAY},
        "server": {"url": base_url},
        "journal": {"min_free_bytes": 0},
        # Short, so that as many commits as possible can be hit.
        "batch": {"max_delay_seconds": 0.005},
        "mqtt": {
            "hall": {
                "url": broker_url,
                "packet_ids": packet_ids,
                "devices": [
                    {
                        "topic": "sensors/{hall}/{sensor}/telemetry",
                        "name": "{hall}/{sensor}",
                        "stream": "telemetry/{gateway}/{hall}",
                    }
                ],
            }
        },
    }


class Broker(Protocol):
    """What is needed of a broker: a context that runs it."""

    @property
    def url(self) -> str:
        """Its address, as the configuration wants it."""
        ...

    @property
    def log(self) -> str:
        """What it has done; has the word SUBACK once somebody has subscribed."""
        ...

    port: int

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Plant:
    """Everything, running except for the gateway. The stream server is the test's to start and to kill."""

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        server: Server,
        devices: Sequence[Device],
        *,
        packet_ids: str = "sequential",
        broker: Broker | None = None,
        mqtt: Mapping[str, Any] | None = None,
        publisher_retries: bool = False,
        more_settings: Mapping[str, Any] | None = None,
        program: Sequence[str | Path] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.devices = devices
        self.packet_ids = packet_ids
        self.server = server
        self._publisher_retries = publisher_retries
        self.mosquitto = Mosquitto(folder / "mosquitto", max_queued_messages=0)
        self.broker = broker or self.mosquitto
        configuration = settings(server.base_url, self.broker.url, packet_ids=packet_ids)
        configuration["mqtt"]["hall"].update(mqtt or {})
        self.gateway = GatewayProcess(
            processes,
            folder / "gateway",
            {**configuration, **(more_settings or {})},
            program=program,
            environ=environ,
        )
        self.readers = [
            StreamReader(f"{server.base_url}/telemetry/{GATEWAY}/{hall}")
            for hall in sorted({device.hall for device in devices})
        ]
        self.ledger = StreamReader(f"{server.base_url}/gateway/{GATEWAY}")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.broker)
        self.publisher = self._stack.enter_context(Publisher(self.broker.port, retries=self._publisher_retries))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def establish_session(self, *arguments: str) -> None:
        """Start the gateway and let it subscribe: from here on the broker keeps what it misses."""
        self.gateway.start(*arguments)
        self.gateway.wait_for(
            lambda status: status["sources"] and "SUBACK" in self.broker.log, what="the gateway has subscribed"
        )

    def let_it_learn(self) -> None:
        """Until the gateway knows how the broker numbers, a message whose PUBACK was due may come twice.

        Three windows, because there is no reconnection.
        """
        for start in range(10**6, 10**6 + 3100, 50):
            self.publish(self.devices[0], *range(start, start + 50))
        self.gateway.wait_for(
            lambda status: source_of(status, "hall")["packet_ids"] == "sequential", what="the verdict is learnt"
        )

    def publish(self, device: Device, *numbers: int) -> None:
        """Publish these messages of a device."""
        self.publisher.publish([(device.topic, device.payload(number)) for number in numbers])

    def traffic(self, count: int, random: Random) -> Traffic:
        """Publish so many messages of randomly chosen devices."""
        counts = dict.fromkeys(self.devices, 0)
        messages: list[Message] = []
        for _ in range(count):
            device = random.choice(self.devices)
            counts[device] += 1
            messages.append((device.topic, device.payload(counts[device])))
        return self._stack.enter_context(Traffic(self.publisher, messages, lambda: random.choice((1, 1, 5, 50))))

    def finish(self, *, timeout_seconds: float = 60.0) -> None:
        """Publish the last message of each device, wait until it is in its stream, and end the gateway."""
        self.publisher.publish([(device.topic, json.dumps(END).encode()) for device in self.devices])
        wait_until(self._ends_arrived, timeout_seconds=timeout_seconds, what="every device's last message arrived")
        assert self.gateway.terminate() == 0

    def losses(self, cause: str) -> list[dict[str, Any]]:
        """What the ledger says of one cause."""
        records = of_kind(self.ledger.try_read(), "loss")
        return [record["info"] for record in records if record["info"]["cause"] == cause]

    def audit(self) -> Findings:
        """Compare what the broker confirmed with what is in the streams."""
        sent: dict[str, list[Any]] = {device.name: [] for device in self.devices}
        names = {device.topic: device.name for device in self.devices}
        for topic, payload in self.publisher.confirmed:
            sent[names[topic]].append(json.loads(payload))
        findings = compare(sent, [record for reader in self.readers for record in reader.read()])
        for reader in self.readers:
            check_positions(reader.records, findings)
        print(findings)
        return findings

    def _ends_arrived(self) -> bool:
        ended = {
            each["device"] for reader in self.readers for each in reader.try_read() if each.get("data") == END
        }
        return ended == {device.name for device in self.devices}


def random_kills(plant: Plant, random: Random, *, kills: int, messages: int) -> None:
    """Kill the gateway at random moments while publishing goes on, and start it again at once."""
    share = messages // kills
    traffic = plant.traffic(messages, random)
    moments: dict[str, Callable[[], object]] = {
        "starting": lambda: None,
        "connected": plant.gateway.wait_connected,
        "caught up": plant.gateway.wait_delivered,
    }
    for _ in range(kills):
        moments[random.choice(("starting", "connected", "connected", "caught up"))]()
        before = traffic.confirmed
        traffic.allow(share)
        traffic.wait_confirmed(before + random.randint(1, share))
        plant.gateway.kill()
        plant.gateway.start()
    traffic.allow(messages)
    traffic.wait_confirmed(messages)
