"""Commands while things break: the gateway is killed, connections are cut, the server is away, a second one comes.

at_least_once: every command reaches its device, and copies carry its id. at_most_once: none reaches it twice, and
what did not reach it is reported. In both every command has one final receipt, which says what is true.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

import pytest

from faults.command_plant import DEVICES, CommandPlant
from harness.mqtt_proxy import MqttProxy
from harness.stream_relay import StreamRelay
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.commands import Delivery
    from harness.command_audit import CommandFindings
    from harness.mosquitto import Mosquitto
    from harness.mqtt_proxy import Cut
    from harness.processes import Processes

DELIVERIES: Final = ("at_least_once", "at_most_once")


@pytest.fixture
def server(processes: Processes, tmp_path: Path) -> StreamServer:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    return server


class Disturbed:
    """A plant with what cuts its connections: to the broker around a command, to the server at any byte."""

    def __init__(self, processes: Processes, folder: Path, server: StreamServer) -> None:
        self._pending: deque[Cut] = deque()
        self._proxies: list[MqttProxy] = []
        self.relay = StreamRelay(server.base_url)
        self.plant = CommandPlant(
            processes,
            folder / "plant",
            server.base_url,
            gateway_url=self.relay.base_url,
            broker_url=self._proxy,
        )

    def _proxy(self, broker: Mosquitto) -> str:
        self.proxy = MqttProxy(broker.port, self._judge)
        self.proxy.__enter__()
        return self.proxy.url

    def _judge(self, _packet: bytes) -> Cut:
        return self._pending.popleft() if self._pending else "pass"

    def __enter__(self) -> Disturbed:
        self.relay.__enter__()
        self.plant.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.plant.__exit__(None, None, None)
        self.proxy.__exit__(None, None, None)
        self.relay.__exit__(None, None, None)

    @property
    def cuts(self) -> int:
        return self.relay.cuts + self.proxy.cuts

    def run(self, random: Random, delivery: Delivery, *, count: int, kills: int, cuts: int) -> CommandFindings:
        """Give commands in portions, and let something happen in the midst of each."""
        plant = self.plant
        happenings = ["kill"] * kills + [("before", "after", "stream")[each % 3] for each in range(cuts)]
        random.shuffle(happenings)
        plant.gateway.start()
        for place, happening in enumerate(happenings):
            share = count * (place + 1) // len(happenings) - len(plant.sent)
            before = plant.progress
            if happening == "stream":
                self.relay.cut(random.randrange(1, 1000))
            elif happening != "kill":
                self._pending.append(happening)
            plant.send([random.choice(DEVICES) for _ in range(share)], delivery=delivery)
            plant.wait_progress(random.randint(before + 1, len(plant.sent)))
            if happening == "kill":
                plant.gateway.kill()
                plant.gateway.start()
        return plant.finish()


def disturbed(
    processes: Processes,
    folder: Path,
    server: StreamServer,
    delivery: Delivery,
    *,
    count: int,
    kills: int,
    cuts: int,
) -> CommandFindings:
    seed = SystemRandom().randrange(10**9)
    started = time.monotonic()
    with Disturbed(processes, folder, server) as all_of_it:
        findings = all_of_it.run(Random(seed), delivery, count=count, kills=kills, cuts=cuts)
        took = time.monotonic() - started
        print(f"{delivery}, seed {seed}: {kills} kills, {all_of_it.cuts} cuts in {took:.1f} s")
    return findings


def judge(findings: CommandFindings, delivery: Delivery) -> None:
    assert findings.problems == ""
    if delivery == "at_least_once":
        assert (findings.missing, findings.unknown) == (0, 0)
    else:
        assert findings.repeated == 0
        assert findings.missing <= findings.unknown


class TestKillsAndCuts:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_no_command_is_lost_or_done_against_its_delivery(
        self, processes: Processes, tmp_path: Path, server: StreamServer, delivery: Delivery
    ) -> None:
        judge(disturbed(processes, tmp_path, server, delivery, count=40, kills=2, cuts=3), delivery)

    @pytest.mark.soak
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_no_command_of_four_hundred_is(
        self, processes: Processes, tmp_path: Path, server: StreamServer, delivery: Delivery
    ) -> None:
        judge(disturbed(processes, tmp_path, server, delivery, count=400, kills=8, cuts=10), delivery)
