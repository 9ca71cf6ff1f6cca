"""Thousands of kills of gateway and server, with cuts between them, under steady traffic.

Payloads have numbers or are byte-identical. The broker is restarted by SIGTERM now and then. In the end the test's
own count and ``ds-gateway audit`` must agree that nothing is lost, repeated or out of order.
"""

from __future__ import annotations

import json
import threading
import time
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Self

import pytest

from faults.plant import GATEWAY, Device, Plant, numbered_and_steady
from harness.mosquitto import Mosquitto
from harness.processes import Processes
from harness.stream_server import StreamServer
from harness.streaming_audit import StreamingAudit
from harness.tcp_proxy import Cut, Deaf, TcpProxy
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from harness.publisher import Publisher
    from harness.zygote import Zygote

TICK_SECONDS = 0.02


class SteadyTraffic:
    """Publishes from a thread of its own, ``rate`` messages a second as far as the broker takes them."""

    def __init__(self, publisher: Publisher, devices: Sequence[Device], rate: int, random: Random) -> None:
        self.counts = dict.fromkeys((device.name for device in devices), 0)
        self._publisher = publisher
        self._devices = devices
        self._share = max(1, int(rate * TICK_SECONDS))
        self._random = random
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="steady-traffic")

    def restart_broker(self, plant: Plant) -> None:
        """Restart the broker between two bursts, when nothing is unconfirmed."""
        assert isinstance(plant.broker, Mosquitto)
        with self._lock:
            plant.broker.restart()
            self._publisher.reconnect()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stopping.is_set():
                with self._lock:
                    self._burst()
                # A broker that could not keep up is not flooded afterwards.
                due = max(due + TICK_SECONDS, time.monotonic() - 1.0)
                self._stopping.wait(max(due - time.monotonic(), 0.0))
        except (AssertionError, OSError) as error:
            self.failure = error

    def _burst(self) -> None:
        messages = []
        for device in self._random.choices(self._devices, k=self._share):
            self.counts[device.name] += 1
            messages.append((device.topic, device.payload(self.counts[device.name])))
        self._publisher.publish(messages)
        self._publisher.confirmed.clear()  # they number themselves


def run(folder: Path, zygote: Zygote, *, kills: int, rate: int) -> None:
    seed = SystemRandom().randrange(10**9)
    random = Random(seed)
    started = time.monotonic()
    devices = numbered_and_steady()
    done = dict.fromkeys(("gateway", "server", "cut", "broker"), 0)
    with Processes(folder, zygote, last_log_only=True) as processes:
        server = StreamServer(processes, folder / "streams")
        server.start()
        with (
            TcpProxy(server.base_url) as proxy,
            Plant(processes, folder, proxy, devices, more_settings={"log": {"level": "warning"}}) as plant,
        ):
            plant.establish_session()
            plant.mosquitto.log_no_packets()
            with SteadyTraffic(plant.publisher, devices, rate, random) as traffic:
                while done["gateway"] + done["server"] < kills:
                    fault = random.choices(tuple(done), (50, 25, 40, 0.5))[0]
                    done[fault] += 1
                    disturb(fault, plant, server, traffic, random)
                    assert traffic.failure is None, traffic.failure
            proxy.heal()
            sent = dict(traffic.counts)
            finish(plant, sum(sent.values()))
            assert plant.gateway.terminate() == 0
            plant.gateway.configure(
                {**json.loads(plant.gateway.config.read_text()), "server": {"url": server.base_url}}
            )
            audit = StreamingAudit()
            for hall in sorted({device.hall for device in devices}):
                audit.read(f"{server.base_url}/telemetry/{GATEWAY}/{hall}")
            findings = audit.compare(sent, {device.name: device.steady for device in devices})
            theirs = own_audit(plant)
    seconds = time.monotonic() - started
    print(f"seed {seed}: {done} in {seconds:.0f} s, {sum(sent.values()) / seconds:.0f} messages/s; {findings}")
    assert findings.problems == ""
    assert theirs["proven"], theirs


def disturb(fault: str, plant: Plant, server: StreamServer, traffic: SteadyTraffic, random: Random) -> None:
    """Let one thing go wrong, at a random moment of what follows on it."""
    match fault:
        case "gateway":
            plant.gateway.kill()
            plant.gateway.start()
            if random.random() < 0.8:
                plant.gateway.wait_connected()
        case "server":
            server.kill()
            server.start()
        case "broker":
            traffic.restart_broker(plant)
        case _:
            proxy = plant.server
            assert isinstance(proxy, TcpProxy)
            proxy.mix(
                [Cut("request", 100), Cut("answer"), Cut("answer", 20), Deaf(delivered=True, seconds=0.05)],
                random,
                share=0.3,
            )
            proxy.reset_connections()
            before = sum(traffic.counts.values())
            wait_until(
                lambda: sum(traffic.counts.values()) >= before + 50 or traffic.failure is not None,
                what="some messages are published while the network is bad",
            )
            proxy.heal()


def finish(plant: Plant, sent: int) -> None:
    """Wait until nothing is with the broker or in the journal any more."""
    plant.gateway.wait_connected()
    plant.gateway.wait_for(
        lambda status: (
            all(source["unacked"] == 0 for source in status["sources"])
            and sum(stream["in_journal"] for stream in status["streams"]) == 0
            and sum(stream["in_stream"] for stream in status["streams"]) >= sent
        ),
        what=f"all {sent} messages are in the streams",
        timeout_seconds=300.0,
    )


def own_audit(plant: Plant) -> dict[str, Any]:
    """What ``ds-gateway audit`` says of the same streams."""
    done = plant.gateway.run_command("audit", "--json", timeout_seconds=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_nothing_is_lost_or_repeated_in_twenty(tmp_path: Path, zygote: Zygote) -> None:
    run(tmp_path, zygote, kills=20, rate=500)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_nothing_is_lost_or_repeated_in_two_thousand(tmp_path: Path, zygote: Zygote) -> None:
    run(tmp_path, zygote, kills=2000, rate=2000)
