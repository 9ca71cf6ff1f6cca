"""A gateway's data folder is put back, or runs twice: that stops a stream rather than repeat or lose a record."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from faults.plant import GATEWAY, Plant, numbered_and_steady, settings
from harness.audit import StreamReader, telemetry
from harness.gateway_process import GatewayProcess, stream_of
from harness.mosquitto import Mosquitto
from harness.publisher import Publisher
from harness.stream_server import StreamServer
from harness.tcp_proxy import Cut, TcpProxy
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import Processes

NUMBERED, STEADY = (device for device in numbered_and_steady() if device.hall == "a")
STREAM: Final = f"telemetry/{GATEWAY}/a"
STOPPED_BY_A_SECOND: Final = ("the number was used, and not by us", "a second", "somebody else")


@pytest.fixture
def server(processes: Processes, tmp_path: Path) -> StreamServer:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    return server


def publish(plant: Plant, *numbers: int) -> None:
    for number in numbers:
        plant.publish(NUMBERED, number)
        plant.publish(STEADY, number)


def wait_arrived(plant: Plant, count: int) -> None:
    """Wait until so many records are in the stream. (That the journal knows it takes a second more.)"""
    wait_until(
        lambda: len(telemetry(plant.readers[0].try_read())) >= count,
        timeout_seconds=60,
        what=f"{count} records arrived",
    )


def copy(plant: Plant, target: Path) -> None:
    # What is no file is not in an image: the control socket.
    shutil.copytree(plant.gateway.data_dir, target, ignore=shutil.ignore_patterns("*.sock"))


def put_back(plant: Plant, source: Path) -> None:
    shutil.rmtree(plant.gateway.data_dir)
    shutil.copytree(source, plant.gateway.data_dir)


class TestAnImageIsPutBack:
    """A gateway's data folder is copied while it is stopped, and put back after it has gone on."""

    @pytest.fixture
    def plant(self, processes: Processes, tmp_path: Path, server: StreamServer) -> Iterator[Plant]:
        with Plant(processes, tmp_path / "plant", server, [NUMBERED, STEADY]) as plant:
            plant.establish_session()
            publish(plant, 1, 2, 3)
            wait_arrived(plant, 6)
            yield plant

    @pytest.mark.parametrize("batches", [1, pytest.param(5, marks=pytest.mark.soak)])
    def test_it_stops_and_says_why_and_repeats_nothing(self, plant: Plant, tmp_path: Path, batches: int) -> None:
        assert plant.gateway.terminate() == 0
        copy(plant, tmp_path / "copy")
        plant.gateway.start()
        for number in range(4, 4 + batches):
            plant.publish(NUMBERED, number)
            wait_arrived(plant, number + 3)
        plant.gateway.kill()
        before = list(plant.readers[0].read())
        put_back(plant, tmp_path / "copy")

        plant.gateway.start()
        halted = plant.gateway.wait_stream(STREAM, "halted")
        assert "it is an old copy, or a second producer runs with its identity" in halted["reason"]
        publish(plant, 100, 101)
        plant.gateway.wait_accepted(6 + 4)
        assert plant.gateway.terminate() == 0
        assert plant.readers[0].read() == before, "nothing is sent any more"
        findings = plant.audit()
        assert (findings.duplicated, findings.out_of_order, findings.positions) == ([], [], [])
        assert len(findings.lost) == 4, "what came since waits in the journal"

    @pytest.mark.soak
    def test_records_that_wait_for_the_server_are_kept_when_it_stops(
        self, plant: Plant, tmp_path: Path, server: StreamServer
    ) -> None:
        server.kill()
        publish(plant, 4, 5)
        plant.gateway.wait_accepted(10)
        plant.gateway.wait_stream(STREAM, "waiting")
        plant.gateway.kill()
        copy(plant, tmp_path / "copy")
        server.start()
        plant.gateway.start()
        publish(plant, 6)
        wait_arrived(plant, 12)
        plant.gateway.kill()
        before = list(plant.readers[0].read())
        put_back(plant, tmp_path / "copy")
        plant.gateway.start()
        plant.gateway.wait_stream(STREAM, "halted")
        assert plant.gateway.terminate() == 0
        assert plant.readers[0].read() == before
        assert plant.audit().problems == ""


@dataclass
class Clone:
    """A gateway over a copy of another one's data folder, with a broker of its own."""

    broker: Mosquitto
    gateway: GatewayProcess
    publisher: Publisher

    def publish(self, *numbers: int) -> None:
        self.publisher.publish([(NUMBERED.topic, NUMBERED.payload(number)) for number in numbers])


class TestTwoRunWithOneIdentity:
    """The data folder is copied, and both gateways run at the same time."""

    @pytest.fixture
    def proxy(self, server: StreamServer) -> Iterator[TcpProxy]:
        """Only the original's way to the server."""
        with TcpProxy(server.base_url) as proxy:
            yield proxy

    @pytest.fixture
    def plant(
        self, processes: Processes, tmp_path: Path, server: StreamServer, proxy: TcpProxy
    ) -> Iterator[Plant]:
        with Plant(processes, tmp_path / "plant", proxy, [NUMBERED]) as plant:
            plant.readers = [StreamReader(f"{server.base_url}/{STREAM}")]
            plant.establish_session()
            plant.publish(NUMBERED, 1, 2, 3)
            wait_arrived(plant, 3)
            assert plant.gateway.terminate() == 0
            yield plant

    @pytest.fixture
    def clone(self, processes: Processes, tmp_path: Path, plant: Plant, proxy: TcpProxy) -> Iterator[Clone]:
        """Both run, and have asked the server what it remembers."""
        with Mosquitto(tmp_path / "second" / "mosquitto") as broker, Publisher(broker.port) as publisher:
            gateway = GatewayProcess(
                processes, tmp_path / "second" / "gateway", settings(proxy.base_url, broker.url)
            )
            copy(plant, gateway.data_dir)
            for each in (plant.gateway, gateway):
                each.start()
            for each in (plant.gateway, gateway):
                each.wait_connected()
                each.wait_stream(STREAM, "idle")
            wait_until(lambda: "SUBACK" in broker.log, what="the second one has subscribed")
            yield Clone(broker, gateway, publisher)

    def values(self, plant: Plant) -> list[int]:
        records = plant.readers[0].read()
        ids = [record["id"] for record in records]
        assert len(ids) == len(set(ids)), "no id is there twice"
        return [value["n"] for value in telemetry(records)]

    @pytest.mark.soak
    def test_whichever_comes_second_stops(self, plant: Plant, clone: Clone) -> None:
        plant.publish(NUMBERED, 4, 5)
        wait_arrived(plant, 5)
        clone.publish(1004)
        halted = clone.gateway.wait_stream(STREAM, "halted")
        assert any(words in halted["reason"] for words in STOPPED_BY_A_SECOND), halted["reason"]
        plant.publish(NUMBERED, 6)
        wait_arrived(plant, 6)
        assert stream_of(clone.gateway.status() or {}, STREAM)["in_journal"] == 1
        assert self.values(plant) == [1, 2, 3, 4, 5, 6]

    @pytest.mark.soak
    def test_a_record_of_the_second_one_is_not_taken_for_one_of_the_first(
        self, plant: Plant, clone: Clone, proxy: TcpProxy
    ) -> None:
        clone.publish(1004)
        wait_arrived(plant, 4)
        # The first one has to look whether its batch arrived; the other one's has the same number.
        plan = proxy.inject(Cut("request"), where=lambda head: head.kind == "batch")
        plant.publish(NUMBERED, 4)
        plant.gateway.wait_for(
            lambda status: (
                stream_of(status, STREAM)["accepted"] == 4
                and (stream_of(status, STREAM)["state"] == "halted" or not stream_of(status, STREAM)["in_journal"])
            ),
            what="it has stopped, or takes its record for sent",
        )
        assert plan.used == 1
        assert self.values(plant) == [1, 2, 3, 1004]
        assert stream_of(plant.gateway.status() or {}, STREAM)["in_journal"] == 1, "it is nowhere else"

    @pytest.mark.soak
    @pytest.mark.parametrize("run", range(5))
    def test_what_both_send_at_once_is_nowhere_twice_and_nothing_is_lost(
        self, plant: Plant, clone: Clone, run: int
    ) -> None:
        gateways = (plant.gateway, clone.gateway)
        number = 4
        while "halted" not in states_of(gateways):
            clone.publish(1000 + number)
            plant.publish(NUMBERED, number)
            number += 1
            for each in gateways:
                each.wait_for(
                    lambda status: (
                        stream_of(status, STREAM)["accepted"] == number - 1  # noqa: B023 - it is called at once
                        and (
                            stream_of(status, STREAM)["state"] == "halted"
                            or not stream_of(status, STREAM)["in_journal"]
                        )
                    ),
                    what="it has sent its record, or has stopped",
                )
        values = self.values(plant)
        assert len(values) == len(set(values))
        sent = [*range(1, number), *range(1004, 1000 + number)]
        waiting = sum(stream_of(each.status() or {}, STREAM)["in_journal"] for each in gateways)
        assert len(set(sent) - set(values)) == waiting, (
            "what is not in the stream is in the journal of one that stopped"
        )


def states_of(gateways: tuple[GatewayProcess, ...]) -> list[str]:
    return [stream_of(each.status() or {"streams": []}, STREAM).get("state", "") for each in gateways]
