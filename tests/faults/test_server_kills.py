"""kill -9 of the stream server at random moments, while records keep coming in: the gateway lives through it."""

from __future__ import annotations

import time
from random import Random, SystemRandom
from typing import TYPE_CHECKING

import pytest

from faults.plant import Device, Plant, all_alike, numbered_and_steady
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.audit import Findings
    from harness.processes import Processes


def run(processes: Processes, folder: Path, devices: Sequence[Device], *, kills: int, messages: int) -> Findings:
    server = StreamServer(processes, folder / "streams")
    server.start()
    random = Random(seed := SystemRandom().randrange(10**9))
    started = time.monotonic()
    with Plant(processes, folder, server, devices) as plant:
        plant.establish_session()
        share = messages // kills
        traffic = plant.traffic(messages, random)
        for _ in range(kills):
            before = traffic.confirmed
            traffic.allow(share)
            traffic.wait_confirmed(before + random.randint(1, share))
            server.kill()
            server.start()
            if random.random() < 0.7:
                # Otherwise the next kill may come while the gateway still waits for its next attempt.
                plant.gateway.wait_delivered(before)
        traffic.allow(messages)
        traffic.wait_confirmed(messages)
        plant.finish()
        findings = plant.audit()
        print({each["reason"] for each in plant.gateway.events("uplink.waiting")})
    print(f"seed {seed}: {kills} kills in {time.monotonic() - started:.1f} s")
    return findings


def test_nothing_is_lost_or_repeated(processes: Processes, tmp_path: Path) -> None:
    assert run(processes, tmp_path, numbered_and_steady(), kills=3, messages=1200).problems == ""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("steady", [False, True], ids=["numbered payloads", "identical payloads"])
def test_nothing_is_lost_or_repeated_in_twenty_kills(
    processes: Processes, tmp_path: Path, *, steady: bool
) -> None:
    assert run(processes, tmp_path, all_alike(steady=steady), kills=20, messages=20_000).problems == ""
