"""A crash at every commit point: what is left on disk and in the stream, and that a restart makes it good.

The gateway under test kills itself (`crashing_gateway`). `POINTS` is the literal table: for each point what the
journal and the stream hold afterwards, and why that is enough.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ds_gateway.journal import Journal
from faults.crashing_gateway import ENDED
from faults.plant import GATEWAY, Device, Plant
from harness.audit import of_kind, telemetry
from harness.processes import Processes
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.zygote import Zygote

TESTS = Path(__file__).resolve().parents[1]
DEVICE = Device("a", "1", steady=False)


@dataclass(frozen=True)
class Left:
    """What a crash leaves. Records are counted; a birth is the claim of an epoch."""

    accepted: int = 0
    sealed: int = 0
    """Records of the batch that the journal has handed out or will hand out first."""
    resolved: int = 0
    """Records that the journal knows to be in the stream."""
    births: int = 0
    in_stream: int = 0


@dataclass(frozen=True)
class Point:
    """One row: where the crash happens, what it leaves, and what makes it good."""

    name: str
    left: Left
    then: str


ONE_MESSAGE = (
    Point("before A", Left(), "the broker has the message and delivers it again"),
    Point("after A", Left(accepted=1), "there was no PUBACK: the copy that comes again is dropped"),
    Point("before birth", Left(accepted=1), "a claim is made again, as it never was one"),
    Point("after birth", Left(accepted=1, births=1), "a 204 to the next claim: a higher epoch is claimed"),
    Point("before B", Left(accepted=1, births=1), "sealed anew, as no batch with that number ever left"),
    Point("after B", Left(accepted=1, sealed=1, births=1), "the stream ends at the anchor: sent as it was sealed"),
    Point("before POST", Left(accepted=1, sealed=1, births=1), "the same"),
    Point("after POST", Left(accepted=1, sealed=1, births=1, in_stream=1), "the read-back finds it: resolved"),
    Point("before C", Left(accepted=1, sealed=1, births=1, in_stream=1), "the same"),
    Point("after C", Left(accepted=1, resolved=1, births=1, in_stream=1), "nothing is left to do"),
)
"""The first message of a new journal passes all points one by one."""

SECOND_MESSAGE = (
    Point("before A+B", Left(1, 0, 1, 1, 1), "the broker delivers it again"),
    Point("after A+B", Left(2, 1, 1, 1, 1), "the copy is dropped, the batch is sent as it was sealed"),
)
"""A second one, when the first is resolved: accepted and sealed in one transaction."""

HELD_MESSAGE = (
    Point("before B+C", Left(2, 1, 0, 1, 1), "the first batch is found in the stream, the second sealed then"),
    Point("after B+C", Left(2, 1, 1, 1, 1), "the second batch is looked for and sent"),
)
"""A second one while the first is on its way: the first is resolved together with the second's seal."""

STEADY_FLOW = (
    Point("before A+B+C", Left(1, 1, 0, 1, 1), "the last batch is found, the message is delivered again"),
    Point("after A+B+C", Left(2, 1, 1, 1, 1), "the copy is dropped, the batch is sent as it was sealed"),
)
"""Message after message: a transaction resolves the last one, accepts this one and seals it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Iterator[StreamServer]:
    folder = tmp_path_factory.mktemp("streams")
    with Processes(folder, zygote) as processes:
        server = StreamServer(processes, folder / "data")
        server.start()
        yield server


@dataclass(frozen=True)
class Prefix:
    """A part of a server that belongs to one test."""

    base_url: str


@pytest.fixture
def make_plant(
    processes: Processes, tmp_path: Path, server: StreamServer, request: pytest.FixtureRequest
) -> Callable[[], Plant]:
    """Makes a plant whose gateway will crash. Its streams are its own."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    number = abs(hash(request.node.name))
    return lambda: Plant(
        processes,
        tmp_path,
        Prefix(f"{server.base_url}/{number}"),
        [DEVICE],
        packet_ids="auto",
        program=[sys.executable, "-m", "faults.crashing_gateway"],
        environ={"PYTHONPATH": path},
    )


def journal_left(plant: Plant) -> Left:
    """What the journal says when it is opened after the crash; nothing is changed."""
    journal = Journal.open(plant.gateway.data_dir, gateway=GATEWAY, url=plant.server.base_url)
    streams = journal.snapshot().streams
    journal.stop()
    if not streams:
        return Left()
    (stream,) = streams
    return Left(stream.accepted, stream.in_flight, stream.in_stream)


def left_by(plant: Plant) -> Left:
    journal = journal_left(plant)
    records = plant.readers[0].read()
    return Left(
        journal.accepted,
        journal.sealed,
        journal.resolved,
        len(of_kind(records, "birth")),
        len(telemetry(records)),
    )


def passed(plant: Plant, point: str) -> int:
    """How often the gateway has passed a point."""
    return plant.gateway.child.output.splitlines().count(point)


def is_dead(plant: Plant) -> bool:
    return ENDED in plant.gateway.child.output


def wait_killed(plant: Plant) -> None:
    assert plant.gateway.child.wait_for_output(f"{ENDED} (.+)")[1] == str(-signal.SIGKILL)


def answered_or_killed(plant: Plant, number: int) -> None:
    wait_until(
        lambda: is_dead(plant) or passed(plant, "after POST") == number,
        what=f"message {number} is in the stream, or the gateway is dead",
    )


def restart_and_audit(plant: Plant) -> None:
    plant.gateway.child.send_signal(signal.SIGUSR1)
    plant.finish()
    assert plant.audit().problems == ""


class TestTheFirstMessage:
    @pytest.mark.parametrize("point", ONE_MESSAGE, ids=lambda point: point.name)
    def test_a_crash_leaves_what_the_table_says_and_a_restart_makes_it_good(
        self, make_plant: Callable[[], Plant], point: Point
    ) -> None:
        with make_plant() as plant:
            plant.establish_session("--point", point.name)
            plant.publish(DEVICE, 1)
            wait_killed(plant)
            assert left_by(plant) == point.left, point.then
            restart_and_audit(plant)


class TestTheSecondMessage:
    @pytest.mark.parametrize("point", SECOND_MESSAGE, ids=lambda point: point.name)
    def test_accepted_and_sealed_at_once(self, make_plant: Callable[[], Plant], point: Point) -> None:
        with make_plant() as plant:
            plant.establish_session("--point", point.name)
            plant.publish(DEVICE, 1)
            wait_until(lambda: passed(plant, "after C"), what="the first message is resolved")
            plant.publish(DEVICE, 2)
            wait_killed(plant)
            assert left_by(plant) == point.left, point.then
            restart_and_audit(plant)

    @pytest.mark.parametrize("point", HELD_MESSAGE, ids=lambda point: point.name)
    def test_sealed_together_with_the_resolution_of_the_first(
        self, make_plant: Callable[[], Plant], tmp_path: Path, point: Point
    ) -> None:
        hold = tmp_path / "hold"
        hold.touch()
        with make_plant() as plant:
            plant.establish_session("--point", point.name, "--hold", str(hold))
            plant.publish(DEVICE, 1)
            wait_until(lambda: passed(plant, "after B"), what="the first message is sealed")
            plant.publish(DEVICE, 2)
            wait_until(lambda: passed(plant, "after A") == 2, what="the second message is accepted")
            hold.unlink()
            wait_killed(plant)
            assert left_by(plant) == point.left, point.then
            restart_and_audit(plant)

    @pytest.mark.parametrize("point", STEADY_FLOW, ids=lambda point: point.name)
    def test_resolved_accepted_and_sealed_at_once(self, make_plant: Callable[[], Plant], point: Point) -> None:
        with make_plant() as plant:
            plant.establish_session("--point", point.name)
            number = 0
            while not is_dead(plant):
                # Mostly the second message does it, which comes within the second that a resolution waits.
                number += 1
                plant.publish(DEVICE, number)
                answered_or_killed(plant, number)
            wait_killed(plant)
            left, more = left_by(plant), number - 2
            assert (
                replace(
                    left,
                    accepted=left.accepted - more,
                    resolved=left.resolved - more,
                    in_stream=left.in_stream - more,
                )
                == point.left
            ), point.then
            restart_and_audit(plant)
