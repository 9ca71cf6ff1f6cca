"""A box boots in the past, its clock is set back and forth, and then it is synchronised: real processes.

Readers of a stream can correct every time; order, ids and the expiry of commands do not depend on the clock.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway.times import corrected
from faults.command_plant import SINK, CommandPlant, settings
from faults.plant import GATEWAY, Plant, all_alike
from faults.steered_clock import Steering
from harness.audit import of_kind, telemetry
from harness.gateway_process import GatewayProcess, Status
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness.processes import Processes

TEN_YEARS: Final = 10 * 365 * 24 * 3600.0


@pytest.fixture
def steering(tmp_path: Path) -> Steering:
    return Steering(tmp_path / "clock.json", off_seconds=-TEN_YEARS, synchronised=False)


@pytest.fixture
def server(processes: Processes, tmp_path: Path) -> StreamServer:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    return server


@pytest.fixture
def plant(processes: Processes, tmp_path: Path, server: StreamServer, steering: Steering) -> Iterator[Plant]:
    with Plant(
        processes,
        tmp_path / "plant",
        server,
        all_alike(steady=False),
        more_settings={"gateway": {"id": GATEWAY, "clock": "auto"}},
        program=steering.program,
        environ=steering.environ,
    ) as plant:
        yield plant


def seconds(time_of_record: str) -> float:
    return datetime.fromisoformat(time_of_record).timestamp()


def stepped(status: Status, steps: int) -> bool:
    return bool(status["clock"]["steps"] == steps)


class Instants:
    """Publishes readings, and knows between which instants each was read."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.between: dict[int, tuple[float, float]] = {}

    def publish(self, number: int) -> None:
        """One of each number by each device; returns when they are in their streams."""
        before = time.time()
        for device in self.plant.devices:
            self.plant.publish(device, number)
        wait_until(lambda: self.arrived(number) == len(self.plant.devices), what=f"all of {number} are there")
        self.between[number] = (before, time.time())

    def arrived(self, number: int) -> int:
        """Readings with this number that are in the streams."""
        return sum(telemetry(each.try_read()).count({"n": number}) for each in self.plant.readers)

    def check(self, records: Sequence[dict[str, Any]]) -> int:
        """How many of the records say the true time."""
        checked = 0
        for record in records:
            if (number := record.get("data", {}).get("n")) is not None:
                after, before = self.between[number]
                assert after - 0.01 <= seconds(record["time"]) <= before + 0.01, record
                checked += 1
        return checked


def test_every_time_can_be_corrected(plant: Plant, steering: Steering) -> None:
    instants = Instants(plant)
    plant.establish_session()
    status = plant.gateway.wait_for(lambda status: status["clock"], what="it says how its clock is")
    assert status["clock"]["synchronised"] is False
    instants.publish(1)
    steering.set(off_seconds=TEN_YEARS, synchronised=False)
    instants.publish(2)  # noticed or not
    plant.gateway.kill()
    plant.gateway.start()
    instants.publish(3)
    steering.set(off_seconds=-2 * TEN_YEARS, synchronised=False)
    plant.gateway.wait_for(lambda status: stepped(status, 1), what="the step is noticed")
    instants.publish(4)
    steering.set(off_seconds=0, synchronised=True)
    for reader in plant.readers:
        wait_until(lambda: of_kind(reader.try_read(), "clock"), what="the clock record has come")  # noqa: B023
    status = plant.gateway.wait_for(lambda status: status["clock"]["synchronised"], what="it says so")
    assert (status["clock"]["steps"], round(status["clock"]["last_step"]["seconds"])) == (2, 2 * TEN_YEARS)
    instants.publish(5)
    steering.set(off_seconds=TEN_YEARS, synchronised=True)
    plant.gateway.wait_for(lambda status: stepped(status, 3), what="the step is noticed")
    plant.finish()
    assert plant.audit().problems == ""
    assert round(plant.gateway.events("clock.stepped")[0]["seconds"]) == -3 * TEN_YEARS
    assert len(plant.gateway.events("clock.synchronised")) == 1
    for reader in plant.readers:
        first, second = [record["info"] for record in of_kind(reader.records, "clock")]
        assert round(first["offset"]) == TEN_YEARS, "since the first of them"
        assert round(second["offset"]) == TEN_YEARS
        assert seconds(second["base"]) - seconds(first["base"]) == pytest.approx(TEN_YEARS, abs=1)
        records = [record for record in reader.records if "data" in record]
        assert [record.get("clock") for record in records] == ["unsynced"] * 8 + [None] * 4
        kinds = [record.get("kind", "data") for record in reader.records if record.get("kind") != "birth"]
        assert kinds == ["data"] * 8 + ["clock"] + ["data"] * 2 + ["clock"] + ["data"] * 2
        births = of_kind(reader.records, "birth")
        assert births
        assert {record["clock"] for record in corrected(births + of_kind(reader.records, "clock"))[:1]} == {
            "corrected"
        }
        assert instants.check(corrected(reader.records)) == 10


@pytest.mark.soak
def test_commands_wait_and_are_as_old_as_they_are(
    processes: Processes, tmp_path: Path, server: StreamServer, steering: Steering
) -> None:
    with CommandPlant(processes, tmp_path / "plant", server.base_url) as plant:
        configuration = settings(server.base_url, plant.mosquitto.url, clock="synchronised")
        configuration["gateway"]["clock"] = "auto"
        plant.gateway = GatewayProcess(
            processes, tmp_path / "gateway", configuration, program=steering.program, environ=steering.environ
        )
        plant.gateway.start()
        plant.send([SINK])
        plant.gateway.wait_for(lambda status: status["downlink"]["state"] == "held", what="commands wait")
        for steps, off_seconds in enumerate((TEN_YEARS, -TEN_YEARS), start=1):
            steering.set(off_seconds=off_seconds, synchronised=False)
            plant.gateway.wait_for(lambda status: stepped(status, steps), what="it is noticed")  # noqa: B023
        assert plant.seen[SINK] == []
        steering.set(off_seconds=0, synchronised=True)
        assert set(plant.wait_ended().values()) == {"published"}
        # Set back, it gives a command no longer life than it had.
        plant.mosquitto.stop()
        plant.send([SINK], expires_after=1.5)
        wait_until(plant.reasons, what="it waits for the broker")
        steering.set(off_seconds=-TEN_YEARS, synchronised=True)
        assert sorted(plant.wait_ended().values()) == ["expired", "published"]
