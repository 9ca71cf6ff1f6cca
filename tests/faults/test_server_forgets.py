"""The stream server forgets, or goes back, or tears data and producer state apart: the gateway makes it good.

Everything that the gateway still has is in the stream again, once and in order, and nobody had to do anything.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

import pytest

from durable_streams import DurableStream, DurableStreamError, SyncIdempotentProducer
from durable_streams.testing import InMemoryStreamServer
from faults.plant import GATEWAY, Plant, numbered_and_steady
from harness.audit import StreamReader, telemetry
from harness.reference_server import ReferenceServer
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harness.processes import Processes

DEVICES: Final = [device for device in numbered_and_steady() if device.hall == "a"]
STREAM: Final = f"telemetry/{GATEWAY}/a"


class Served:
    """A plant with our server, whose folder can be changed while it is stopped."""

    def __init__(self, processes: Processes, folder: Path, *, options: Sequence[str] = ()) -> None:
        self.folder = folder / "streams"
        self.server = StreamServer(processes, self.folder, options=options)
        self.server.start()
        self.plant = Plant(processes, folder / "plant", self.server, DEVICES)
        self._copy = folder / "copy"

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            for device in DEVICES:
                self.plant.publish(device, number)

    def begin(self) -> None:
        self.plant.establish_session()
        self.publish(1, 2, 3)
        self.wait_arrived(6)

    def wait_arrived(self, count: int) -> None:
        """Wait until so many records are in the stream."""
        (reader,) = self.plant.readers
        wait_until(
            lambda: len(telemetry(reader.try_read())) >= count, timeout_seconds=60, what=f"{count} records arrived"
        )

    def copy(self) -> None:
        """Copy the server's folder."""
        self.server.stop()
        shutil.copytree(self.folder, self._copy)
        self.server.start()

    def put_back(self) -> None:
        """Replace the server's folder by its copy; the server must be stopped."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._copy, self.folder)
        self.read_anew()

    def forget_producers(self) -> None:
        """Delete what the server knows of producers; it must be stopped."""
        with closing(sqlite3.connect(self.folder / "streams.db")) as database, database:
            assert database.execute("DELETE FROM producers").rowcount > 0

    def read_anew(self) -> None:
        self.plant.readers = [StreamReader(reader.url) for reader in self.plant.readers]

    def finish_and_audit(self) -> None:
        finish_and_audit(self.plant)


def finish_and_audit(plant: Plant) -> None:
    """Everything arrives, or the stream has stopped and says why."""
    fail_if_stopped(plant)
    plant.finish()
    assert plant.audit().problems == ""


def fail_if_stopped(plant: Plant) -> None:
    """Wait until all that was accepted is in the streams; fail as soon as one has stopped instead."""
    sent = len(plant.publisher.confirmed)

    def settled() -> bool:
        streams = (plant.gateway.status() or {"streams": []})["streams"]
        stopped = [stream["reason"] for stream in streams if stream["state"] in {"halted", "parked"}]
        assert not stopped, f"a stream has stopped: {stopped}"
        accepted = sum(stream["accepted"] for stream in streams)
        return accepted >= sent and not any(stream["in_journal"] for stream in streams)

    wait_until(settled, timeout_seconds=60, what="everything is in the streams")


@pytest.fixture
def served(processes: Processes, tmp_path: Path) -> Iterator[Served]:
    served = Served(processes, tmp_path)
    with served.plant:
        served.begin()
        yield served


class TestTheServersFolderIsPutBack:
    """The server has lost what it confirmed since the copy was made."""

    def test_while_the_gateway_runs(self, served: Served) -> None:
        served.copy()
        served.publish(4, 5, 6)
        served.wait_arrived(12)
        served.server.stop()
        served.put_back()
        served.server.start()
        served.publish(7, 8)
        served.finish_and_audit()

    @pytest.mark.soak
    def test_twice_while_the_gateway_runs(self, served: Served) -> None:
        served.copy()
        for number in (4, 5):
            served.publish(number)
            served.wait_arrived(2 * number)
            served.server.stop()
            served.put_back()
            served.server.start()
        served.publish(6)
        served.finish_and_audit()

    @pytest.mark.soak
    def test_while_a_batch_is_unresolved(self, served: Served) -> None:
        served.copy()
        served.publish(4, 5, 6)
        served.wait_arrived(12)
        served.server.kill()
        served.publish(7, 8)
        served.plant.gateway.wait_stream(STREAM, "waiting")
        served.put_back()
        served.server.start()
        served.finish_and_audit()

    @pytest.mark.soak
    def test_while_the_gateway_is_down(self, served: Served) -> None:
        served.copy()
        served.publish(4, 5, 6)
        served.plant.gateway.wait_delivered(12)
        served.plant.gateway.kill()
        served.server.stop()
        served.put_back()
        served.server.start()
        served.publish(7, 8)
        served.plant.gateway.start()
        served.finish_and_audit()

    @pytest.mark.soak
    def test_twice_and_the_gateway_is_killed_in_between(self, served: Served) -> None:
        served.copy()
        served.publish(4, 5, 6)
        served.plant.gateway.wait_delivered(12)
        for number in (7, 8):
            served.server.kill()
            served.put_back()
            served.server.start()
            served.publish(number)
            served.plant.gateway.kill()
            served.plant.gateway.start()
        served.finish_and_audit()


class TestTheFolderOfAServerThatKeepsLittleIsPutBack:
    """What the gateway keeps begins before what the server keeps, so that not all that is missing was lost."""

    @pytest.mark.parametrize("in_doubt", [pytest.param(False, marks=pytest.mark.soak), True])
    def test_what_came_since_is_sent_again(self, processes: Processes, tmp_path: Path, *, in_doubt: bool) -> None:
        served = Served(processes, tmp_path, options=["--retain-bytes", "1000"])
        with served.plant:
            served.begin()
            # Batch by batch: the server expires whole ones.
            for number in range(4, 12):
                served.publish(number)
                served.plant.gateway.wait_delivered(2 * number)
            served.copy()
            served.publish(12, 13)
            served.plant.gateway.wait_delivered(26)
            if not in_doubt:
                served.plant.gateway.kill()
            served.server.stop()
            served.put_back()
            served.server.start()
            if in_doubt:
                served.publish(14)
            else:
                served.plant.gateway.start()
            fail_if_stopped(served.plant)
            (reader,) = served.plant.readers
            wanted = [12, 13, 14] if in_doubt else [12, 13]
            wait_until(
                lambda: [each["n"] for each in telemetry(reader.read()) if each.get("n", 0) > 11] == wanted,
                timeout_seconds=30,
                what="what the server lost is in the stream again",
            )
            served.plant.gateway.terminate()


class TestTheServerForgetsItsProducers:
    """The data is there, the numbers are not: as after their expiry, or a crash of a server that is not atomic."""

    def test_while_the_gateway_runs(self, served: Served) -> None:
        served.server.stop()
        served.forget_producers()
        served.server.start()
        served.publish(4, 5)
        served.finish_and_audit()

    @pytest.mark.soak
    def test_while_a_batch_is_unresolved(self, served: Served) -> None:
        served.server.kill()
        served.publish(4, 5)
        served.plant.gateway.wait_stream(STREAM, "waiting")
        served.forget_producers()
        served.server.start()
        served.finish_and_audit()

    @pytest.mark.soak
    def test_while_the_gateway_is_down(self, served: Served) -> None:
        served.plant.gateway.kill()
        served.server.stop()
        served.forget_producers()
        served.server.start()
        served.publish(4, 5)
        served.plant.gateway.start()
        served.finish_and_audit()


class MemoryServer:
    """The in-memory server as a plant's."""

    def __init__(self) -> None:
        self.streams = InMemoryStreamServer()
        self.base_url = self.streams.url("v1")


def again_and_again(
    processes: Processes, folder: Path, *, times: int, harm: Callable[[MemoryServer, Random], None]
) -> None:
    """Harm the server at random moments while publishing goes on."""
    server = MemoryServer()
    random = Random(seed := SystemRandom().randrange(10**9))
    print(f"seed {seed}")
    with server.streams, Plant(processes, folder, server, numbered_and_steady()) as plant:
        plant.establish_session()
        for device in plant.devices:
            plant.publish(device, 0)
        # Both streams are there: one that is gone is another fault.
        fail_if_stopped(plant)
        traffic = plant.traffic(times * 100, random)
        for _ in range(times):
            before = traffic.confirmed
            traffic.allow(100)
            traffic.wait_confirmed(before + random.randint(1, 100))
            harm(server, random)
            if random.random() < 0.5:
                fail_if_stopped(plant)
        traffic.wait_confirmed(times * 100)
        plant.readers = [StreamReader(reader.url) for reader in plant.readers]
        finish_and_audit(plant)


def forget(server: MemoryServer, random: Random) -> None:
    for hall in random.sample("ab", random.randint(1, 2)):
        # It may have forgotten it already.
        with suppress(LookupError):
            server.streams.forget_producer(f"v1/telemetry/{GATEWAY}/{hall}")


class Backups:
    """Puts back what was copied a while ago."""

    def __init__(self) -> None:
        self._copy: object = None

    def __call__(self, server: MemoryServer, random: Random) -> None:
        if self._copy is not None:
            server.streams.restore(self._copy)  # type: ignore[arg-type]
        self._copy = server.streams.snapshot() if self._copy is None or random.random() < 0.5 else self._copy


@pytest.mark.soak
class TestAgainAndAgainUnderLoad:
    @pytest.mark.parametrize("times", [3, pytest.param(60, marks=pytest.mark.soak)])
    def test_producers_are_forgotten(self, processes: Processes, tmp_path: Path, times: int) -> None:
        again_and_again(processes, tmp_path, times=times, harm=forget)

    @pytest.mark.parametrize("times", [3, pytest.param(60, marks=pytest.mark.soak)])
    def test_backups_are_put_back(self, processes: Processes, tmp_path: Path, times: int) -> None:
        again_and_again(processes, tmp_path, times=times, harm=Backups())


class PlainProducer(threading.Thread):
    """An idempotent producer without a store: it sends each number until it is confirmed."""

    def __init__(self, url: str) -> None:
        super().__init__(name="plain-producer")
        self.url = url
        self.confirmed = 0
        self.refused: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        """See `Thread.run`."""
        with DurableStream.create(self.url, content_type="application/json"):
            pass
        epoch = 0
        while not self.enough.is_set():
            try:
                with SyncIdempotentProducer(
                    self.url, "plain", epoch=epoch, content_type="application/json"
                ) as sends:
                    while not self.enough.is_set():
                        sends.append({"n": self.confirmed}).result()
                        self.confirmed += 1
            except DurableStreamError as error:
                # What a plain producer can do: begin again under a higher epoch with what was not confirmed.
                self.refused.append(str(error)[:80])
                epoch += 1


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
@pytest.mark.soak
def test_a_server_that_tears_data_and_state_apart_is_killed_under_load(
    processes: Processes, tmp_path: Path, kills: int
) -> None:
    server = ReferenceServer(processes, data=tmp_path / "streams")
    server.start()
    random = Random(seed := SystemRandom().randrange(10**9))
    print(f"seed {seed}")
    plain = PlainProducer(server.stream_url("plain"))
    with Plant(processes, tmp_path / "plant", server, numbered_and_steady()) as plant:
        plant.establish_session()
        plain.start()
        try:
            traffic = plant.traffic(kills * 200, random)
            for _ in range(kills):
                before = traffic.confirmed
                traffic.allow(200)
                traffic.wait_confirmed(before + random.randint(1, 200))
                server.kill()
                server.start()
                fail_if_stopped(plant)
            traffic.wait_confirmed(kills * 200)
            fail_if_stopped(plant)
        finally:
            plain.enough.set()
            plain.join()
        plant.finish()
        findings = plant.audit()
        values = [each["n"] for each in StreamReader(plain.url).read()]
        print(f"{kills} kills. The gateway: {findings}")
        print(f"A plain producer: {plain.confirmed} confirmed, {len(values) - len(set(values))} stored twice")
        print(f"it began again because of {plain.refused}")
    assert findings.problems == ""
