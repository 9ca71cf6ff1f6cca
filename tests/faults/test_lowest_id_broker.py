"""A broker that uses the lowest free packet id: the same ids come back at once, with other messages.

Nothing may be lost, above all of byte-identical payloads. What was about to be acknowledged when the gateway was
killed comes twice, because nothing can tell it apart, unless the publisher gives its messages keys.
"""

from __future__ import annotations

from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any

import pytest

from faults.plant import Device, Plant, all_alike, numbered_and_steady, random_kills
from harness.gateway_process import source_of
from harness.lowest_id_broker import LowestIdBroker
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.audit import Findings
    from harness.processes import Processes

VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


def run(
    processes: Processes, folder: Path, devices: Sequence[Device], *, kills: int, messages: int, **mqtt: Any
) -> Findings:
    server = StreamServer(processes, folder / "streams")
    server.start()
    broker = LowestIdBroker()
    seed = SystemRandom().randrange(10**9)
    with Plant(processes, folder, server, devices, packet_ids="auto", broker=broker, mqtt=mqtt) as plant:
        plant.establish_session()
        random_kills(plant, Random(seed), kills=kills, messages=messages)
        verdict = source_of(plant.gateway.wait_connected(), "hall")["packet_ids"]
        plant.finish()
        findings = plant.audit()
    print(f"seed {seed}: {kills} kills, {broker.redelivered} copies, highest id {broker.highest_id}, {verdict}")
    assert broker.redelivered > 0
    assert verdict == "unknown"
    return findings


@VERSIONS
@pytest.mark.soak
def test_nothing_is_lost(processes: Processes, tmp_path: Path, version: str) -> None:
    findings = run(processes, tmp_path, numbered_and_steady(), kills=4, messages=800, version=version)
    assert (findings.lost, findings.out_of_order, findings.positions) == ([], [], [])


@VERSIONS
@pytest.mark.soak
def test_nothing_is_lost_or_repeated_with_a_key(processes: Processes, tmp_path: Path, version: str) -> None:
    devices = all_alike(steady=False)
    findings = run(processes, tmp_path, devices, kills=4, messages=800, version=version, dedupe_key="/n")
    assert findings.problems == ""


@pytest.mark.soak
@pytest.mark.timeout(900)
@VERSIONS
@pytest.mark.parametrize("steady", [False, True], ids=["numbered payloads", "identical payloads"])
def test_nothing_is_lost_in_fifty_kills(
    processes: Processes, tmp_path: Path, version: str, *, steady: bool
) -> None:
    findings = run(processes, tmp_path, all_alike(steady=steady), kills=50, messages=10_000, version=version)
    assert (findings.lost, findings.out_of_order, findings.positions) == ([], [], [])
