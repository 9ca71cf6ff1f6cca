"""kill -9 of the broker under load: what its own persistence allows, and no more can be had.

The publisher publishes again what was not confirmed. With keys nothing is there twice; without them the
publisher's second try is another message. mosquitto keeps queued messages in memory until it is stopped in order:
what it had confirmed when it was killed, and the gateway had not read, is gone. That is counted and not judged.
"""

from __future__ import annotations

from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any

import pytest

from faults.plant import GATEWAY, Device, Plant, all_alike
from harness.audit import StreamReader, telemetry
from harness.publisher import Publisher
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.audit import Findings
    from harness.processes import Processes


THIRTY_KILLS_SECONDS = 2400
"""A broker that was gone soon after it took us is called again after up to 30 s: that waiting takes the time."""


def run(processes: Processes, folder: Path, *, kills: int, messages: int, **mqtt: Any) -> tuple[Findings, int]:
    """What was found, and how many messages were published again."""
    server = StreamServer(processes, folder / "streams")
    server.start()
    random = Random(seed := SystemRandom().randrange(10**9))
    devices = all_alike(steady=False)
    with Plant(processes, folder, server, devices, mqtt=mqtt, publisher_retries=True) as plant:
        plant.establish_session()
        # A broker that is killed before it has ever saved its sessions does not know the gateway.
        plant.mosquitto.restart()
        plant.publisher.reconnect()
        share = messages // kills
        traffic = plant.traffic(messages, random)
        for kill in range(kills):
            plant.gateway.wait_connected()
            before = traffic.confirmed
            traffic.allow(share)
            traffic.wait_confirmed(before + random.randint(1, share - 1))
            plant.mosquitto.kill()
            plant.mosquitto.start()
            traffic.wait_confirmed(before + share)
            pass_on(plant, kill)
        traffic.allow(messages)
        traffic.wait_confirmed(messages)
        plant.finish()
        findings = plant.audit()
        causes = [plant.losses(cause) for cause in ("session_lost", "id_gap")]
    print(
        f"seed {seed}: {kills} kills of the broker, {plant.publisher.retried} published again; told: "
        f"{len(causes[0])} lost sessions, {len(causes[1])} gaps"
    )
    return findings, plant.publisher.retried


def pass_on(plant: Plant, fence: int) -> None:
    """Until the broker holds nothing back, so that a kill takes only what it was just doing.

    A message of a device apart, behind all others, is in its stream.
    """
    device = Device("fence", "1", steady=False)
    with Publisher(plant.broker.port, "fence") as publisher:
        publisher.publish([(device.topic, device.payload(fence))])
    reader = StreamReader(f"{plant.server.base_url}/telemetry/{GATEWAY}/fence")
    wait_until(
        lambda: {"n": fence} in telemetry(reader.try_read()),
        what="the broker has passed on all",
        timeout_seconds=60,
    )


@pytest.mark.soak
def test_nothing_is_repeated_with_a_key(processes: Processes, tmp_path: Path) -> None:
    findings, _ = run(processes, tmp_path, kills=4, messages=1200, dedupe_key="/n")
    assert (findings.duplicated, findings.out_of_order, findings.positions) == ([], [], [])


@pytest.mark.soak
@pytest.mark.timeout(THIRTY_KILLS_SECONDS)
def test_nothing_is_repeated_with_a_key_in_thirty_kills(processes: Processes, tmp_path: Path) -> None:
    findings, _ = run(processes, tmp_path, kills=30, messages=15_000, dedupe_key="/n")
    assert (findings.duplicated, findings.out_of_order, findings.positions) == ([], [], [])


@pytest.mark.soak
@pytest.mark.timeout(THIRTY_KILLS_SECONDS)
def test_without_a_key_nothing_but_the_publishers_second_tries_is_there_twice(
    processes: Processes, tmp_path: Path
) -> None:
    findings, published_again = run(processes, tmp_path, kills=30, messages=15_000)
    assert findings.positions == []
    # Whether one is depends on the instant of the kill: the gateway had it, and its publisher was not told.
    assert len(findings.duplicated) <= published_again
