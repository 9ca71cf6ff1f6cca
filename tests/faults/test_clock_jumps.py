"""The wall clock jumps by years while messages flow and the gateway is killed: it decides nothing here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

import pytest

from faults.plant import Plant, numbered_and_steady, random_kills
from harness.audit import telemetry
from harness.gateway_process import source_of
from harness.mosquitto import Mosquitto
from harness.publisher import Publisher
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import Processes

TESTS: Final = Path(__file__).parent.parent
CLIENT_ID: Final = "gateway"
YEARS: Final = {str(year) for year in range(1990, 2070)}


@pytest.mark.soak
def test_order_copies_and_retained_messages_do_not_depend_on_the_clock(
    processes: Processes, tmp_path: Path
) -> None:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    broker = Mosquitto(tmp_path / "broker", max_queued_messages=0)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    random = Random(seed := SystemRandom().randrange(10**9))
    with Plant(
        processes,
        tmp_path,
        server,
        numbered_and_steady(),
        broker=broker,
        # It repeats retained messages with every subscription.
        mqtt={"version": "3.1.1", "client_id": CLIENT_ID},
        program=[sys.executable, "-m", "faults.jumping_clock"],
        environ={"PYTHONPATH": path},
    ) as plant:
        plant.establish_session()
        random_kills(plant, random, kills=3, messages=600)
        device = plant.devices[2]
        plant.publisher.publish([(device.topic, device.payload(10**6))], retain=True)
        wait_until(
            lambda: {"n": 10**6} in telemetry(plant.readers[1].try_read(), device.name),
            timeout_seconds=60,
            what="everything so far has arrived",
        )
        # Before it is forgotten nothing may be unacknowledged, or its copies would be lost with the session.
        plant.gateway.wait_for(
            lambda status: source_of(status, "hall")["unacked"] == 0, what="everything is acknowledged"
        )
        # The broker forgets the session: the subscription is made anew, and the retained message comes again.
        plant.gateway.kill()
        Publisher(broker.port, CLIENT_ID).close()
        copies = broker.log.count(f"Sending PUBLISH to {CLIENT_ID} (d0, q1, r1")
        plant.gateway.start()
        wait_until(
            lambda: broker.log.count(f"Sending PUBLISH to {CLIENT_ID} (d0, q1, r1") > copies,
            what="the retained message has come again",
        )
        plant.finish()
        findings = plant.audit()
        records = [record for reader in plant.readers for record in reader.records if "data" in record]
    print(f"seed {seed}")
    assert findings.problems == ""
    years = [record["time"][:4] for record in records]
    assert len(set(years) & YEARS) > 5, "the clock of the gateway did jump"
    assert years != sorted(years)
