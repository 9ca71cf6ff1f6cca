"""Gateway and stream server killed, broker restarted, in any order, while publishing goes on."""

from __future__ import annotations

import time
from random import Random, SystemRandom
from typing import TYPE_CHECKING

import pytest

from faults.plant import Plant, numbered_and_steady
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Processes


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("packet_ids", ["sequential", "auto"])
def test_nothing_is_lost_or_repeated(processes: Processes, tmp_path: Path, packet_ids: str) -> None:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    random = Random(seed := SystemRandom().randrange(10**9))
    started = time.monotonic()
    with Plant(processes, tmp_path, server, numbered_and_steady(), packet_ids=packet_ids) as plant:
        plant.establish_session()
        if packet_ids == "auto":
            plant.let_it_learn()
        faults, share = 60, 200
        traffic = plant.traffic(faults * share, random)
        for _ in range(faults):
            before = traffic.confirmed
            traffic.allow(share)
            traffic.wait_confirmed(before + random.randint(1, share))
            match random.choice(("gateway", "gateway", "server", "broker")):
                case "gateway":
                    plant.gateway.kill()
                    plant.gateway.start()
                case "server":
                    server.kill()
                    server.start()
                case _:
                    traffic.wait_confirmed(before + share)
                    plant.mosquitto.restart()
                    plant.publisher.reconnect()
            traffic.wait_confirmed(before + share)
            if random.random() < 0.5:
                plant.gateway.wait_connected()
        plant.finish()
        findings = plant.audit()
    print(f"seed {seed}: {faults} faults in {time.monotonic() - started:.1f} s")
    assert findings.problems == ""
