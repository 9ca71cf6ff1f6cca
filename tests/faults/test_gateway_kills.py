"""kill -9 of the gateway at random moments: nothing is lost, repeated or reordered.

The broker and the stream server live. Payloads have numbers, or are byte-identical and are counted.
"""

from __future__ import annotations

import time
from random import Random, SystemRandom
from typing import TYPE_CHECKING

import pytest

from faults.plant import Device, Plant, all_alike, numbered_and_steady, random_kills
from harness.embedded_streams import EmbeddedStreams
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.audit import Findings
    from harness.processes import Processes
    from harness.reference_server import ReferenceServer


def run(plant: Plant, *, kills: int, messages: int) -> Findings:
    seed = SystemRandom().randrange(10**9)
    started = time.monotonic()
    plant.establish_session()
    if plant.packet_ids == "auto":
        plant.let_it_learn()
    random_kills(plant, Random(seed), kills=kills, messages=messages)
    plant.finish()
    findings = plant.audit()
    print(f"seed {seed}: {kills} kills in {time.monotonic() - started:.1f} s")
    return findings


def run_with_own_server(
    processes: Processes, folder: Path, devices: Sequence[Device], *, kills: int, messages: int, packet_ids: str
) -> Findings:
    server = StreamServer(processes, folder / "streams")
    server.start()
    with Plant(processes, folder, server, devices, packet_ids=packet_ids) as plant:
        return run(plant, kills=kills, messages=messages)


def test_nothing_is_lost_or_repeated(processes: Processes, tmp_path: Path) -> None:
    findings = run_with_own_server(
        processes, tmp_path, numbered_and_steady(), kills=5, messages=2000, packet_ids="sequential"
    )
    assert findings.problems == ""


@pytest.mark.soak
def test_nothing_is_lost_or_repeated_with_the_reference_server(
    processes: Processes, tmp_path: Path, reference_server: ReferenceServer
) -> None:
    with Plant(processes, tmp_path, reference_server, numbered_and_steady()) as plant:
        findings = run(plant, kills=3, messages=900)
    assert findings.problems == ""


def run_with_embedded_server(
    processes: Processes, folder: Path, devices: Sequence[Device], *, kills: int, messages: int
) -> Findings:
    """A kill takes the gateway and its server at once."""
    streams = EmbeddedStreams()
    more = {"server": streams.settings()}
    with Plant(processes, folder, streams, devices, more_settings=more) as plant:
        seed = SystemRandom().randrange(10**9)
        started = time.monotonic()
        plant.establish_session()
        random_kills(plant, Random(seed), kills=kills, messages=messages)
        plant.finish()
        with streams.served(plant.gateway.data_dir):
            findings = plant.audit()
    print(f"seed {seed}: {kills} kills in {time.monotonic() - started:.1f} s")
    return findings


def test_nothing_is_lost_or_repeated_when_the_server_is_in_the_same_process(
    processes: Processes, tmp_path: Path
) -> None:
    findings = run_with_embedded_server(processes, tmp_path, numbered_and_steady(), kills=4, messages=1200)
    assert findings.problems == ""


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steady", [False, True], ids=["numbered payloads", "identical payloads"])
def test_nothing_is_lost_or_repeated_in_fifty_kills_with_the_server_in_the_same_process(
    processes: Processes, tmp_path: Path, *, steady: bool
) -> None:
    findings = run_with_embedded_server(processes, tmp_path, all_alike(steady=steady), kills=50, messages=20_000)
    assert findings.problems == ""


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steady", [False, True], ids=["numbered payloads", "identical payloads"])
@pytest.mark.parametrize("packet_ids", ["sequential", "auto"])
def test_nothing_is_lost_or_repeated_in_fifty_kills(
    processes: Processes, tmp_path: Path, packet_ids: str, *, steady: bool
) -> None:
    findings = run_with_own_server(
        processes, tmp_path, all_alike(steady=steady), kills=50, messages=20_000, packet_ids=packet_ids
    )
    assert findings.problems == ""


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_is_lost_where_the_brokers_numbers_mean_nothing(processes: Processes, tmp_path: Path) -> None:
    findings = run_with_own_server(
        processes, tmp_path, numbered_and_steady(), kills=50, messages=20_000, packet_ids="unknown"
    )
    # What was about to be acknowledged when the gateway was killed comes twice; nothing can tell it apart.
    assert (findings.lost, findings.out_of_order, findings.positions) == ([], [], [])
