"""What a broker loses is told in the ledger: each loss once, also when the gateway is killed meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from faults.crashing_gateway import ENDED
from faults.plant import Device, Plant
from harness.audit import telemetry
from harness.gateway_process import source_of, total
from harness.mosquitto import Mosquitto
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.processes import Processes

TESTS: Final = Path(__file__).parent.parent
DEVICE: Final = Device("a", "1", steady=False)
QUEUE: Final = 10
CRASH: Final = "--point"
CLOSED: Final = "closed its connection"


@contextmanager
def plant_with(
    processes: Processes, folder: Path, *, crash: bool = False, **broker: Any
) -> Iterator[tuple[Plant, Mosquitto]]:
    server = StreamServer(processes, folder / "streams")
    server.start()
    mosquitto = Mosquitto(folder / "broker", **broker)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    program = [sys.executable, "-m", "faults.crashing_gateway"] if crash else None
    plant = Plant(
        processes, folder, server, [DEVICE], broker=mosquitto, program=program, environ={"PYTHONPATH": path}
    )
    with plant:
        yield plant, mosquitto


def numbers(plant: Plant) -> list[int]:
    """What is in the stream."""
    return [value["n"] for value in telemetry(plant.readers[0].try_read()) if "n" in value]


def crash_and_go_on(plant: Plant, point: str) -> None:
    """Start a gateway that kills itself at the point, and let an ordinary one take over what it has left."""
    plant.gateway.start(CRASH, point)
    wait_until(lambda: ENDED in plant.gateway.child.output, what=f"the gateway has ended at {point!r}")
    assert f"{ENDED} {-signal.SIGKILL}" in plant.gateway.child.output
    plant.gateway.child.send_signal(signal.SIGUSR1)
    plant.gateway.wait_connected()


def restart(plant: Plant) -> None:
    plant.gateway.kill()
    plant.gateway.start(*([CRASH, "none"] if "crashing" in str(plant.gateway._program) else []))
    plant.gateway.wait_connected()


class TestAQueueThatWasTooShort:
    """mosquitto drops the newest of the messages that do not fit; their packet ids are used up."""

    @pytest.mark.parametrize("point", ["before A...", "after A..."])
    @pytest.mark.soak
    def test_is_one_loss_with_the_number_of_messages(
        self, processes: Processes, tmp_path: Path, point: str
    ) -> None:
        with plant_with(processes, tmp_path, crash=True, max_queued_messages=QUEUE) as (plant, broker):
            plant.establish_session(CRASH, "none")
            plant.publish(DEVICE, 0)
            plant.gateway.wait_delivered(1)
            closed = broker.log.count(CLOSED)
            plant.gateway.kill()
            # Until then it sends to the dead, and what it has sent is no part of its queue.
            wait_until(
                lambda: broker.log.count(CLOSED) > closed, what="the broker knows that the gateway has died"
            )
            plant.publish(DEVICE, *range(1, 101))
            plant.gateway.start(CRASH, "none")
            plant.gateway.wait_connected()
            plant.gateway.wait_for(
                lambda status: source_of(status, "hall")["unacked"] == 0 and total(status, "in_stream") > QUEUE,
                what="what was queued is in the stream",
            )
            plant.gateway.kill()
            # The first message behind the gap shows it.
            plant.publish(DEVICE, 101)
            crash_and_go_on(plant, point)
            wait_until(lambda: plant.losses("id_gap"), timeout_seconds=60, what="the gap is told")
            restart(plant)
            plant.publish(DEVICE, 102)
            wait_until(lambda: numbers(plant)[-1] == 102, what="the last message is in the stream")
            (loss,) = plant.losses("id_gap")
            missing = sorted(set(range(103)) - set(numbers(plant)))
            assert (loss["certain"], loss["count"], loss["source"]) == (False, len(missing), "hall")
            assert len(missing) >= 100 - QUEUE - 20
            assert len(numbers(plant)) == len(set(numbers(plant)))


class TestAForgottenSession:
    def test_is_one_loss(self, processes: Processes, tmp_path: Path) -> None:
        with plant_with(processes, tmp_path, persistence=False) as (plant, broker):
            plant.establish_session()
            assert plant.losses("session_lost") == []
            broker.restart()
            wait_until(lambda: plant.losses("session_lost"), what="the lost session is told")
            plant.publisher.reconnect()
            for number in range(2):
                restart(plant)
                plant.publish(DEVICE, number)
                wait_until(lambda: len(numbers(plant)) > number, what="the message is there")  # noqa: B023
            (loss,) = plant.losses("session_lost")
            assert (loss["certain"], "count" in loss, loss["source"]) == (False, False, "hall")
            assert plant.gateway.status() is not None

    @pytest.mark.parametrize("point", ["before A...", "after A..."])
    @pytest.mark.soak
    def test_is_one_loss_although_the_gateway_dies_over_it(
        self, processes: Processes, tmp_path: Path, point: str
    ) -> None:
        with plant_with(processes, tmp_path, crash=True, persistence=False) as (plant, broker):
            plant.establish_session(CRASH, "none")
            plant.publish(DEVICE, *range(20))
            plant.gateway.wait_delivered(20)
            plant.gateway.kill()
            broker.restart()
            plant.publisher.reconnect()
            crash_and_go_on(plant, point)
            plant.gateway.wait_for(lambda _: broker.log.count("SUBACK") == 2, what="the gateway has subscribed")
            plant.publish(DEVICE, 20)
            wait_until(lambda: numbers(plant)[-1] == 20, what="the next message is in the stream")
            wait_until(lambda: plant.losses("session_lost"), what="the lost session is told")
            restart(plant)
            plant.publish(DEVICE, 21)
            wait_until(lambda: numbers(plant)[-1] == 21, what="the last message is in the stream")
            assert len(plant.losses("session_lost")) == 1
            assert numbers(plant) == list(range(22))


def lost(plant: Plant) -> int:
    return sum(loss["count"] for loss in plant.losses("qos0"))


class TestQos0:
    def test_without_room_is_counted_in_the_ledger(self, processes: Processes, tmp_path: Path) -> None:
        more = {"journal": {"min_free_bytes": 0, "max_bytes": 1024 * 1024}}
        server = StreamServer(processes, tmp_path / "streams")
        server.start()
        with Plant(processes, tmp_path, server, [DEVICE], more_settings=more) as plant:
            plant.establish_session()
            server.kill()
            padding = "x" * 20_000
            sent = 0
            with_room = True
            while with_room:
                plant.publisher.publish_qos0(
                    [(DEVICE.topic, b'{"n": %d, "x": "%b"}' % (sent + n, padding.encode())) for n in range(50)]
                )
                sent += 50
                # The broker passes it on before it confirms the next message.
                status = plant.gateway.wait_for(
                    lambda status: source_of(status, "hall")["received"] >= sent,  # noqa: B023
                    what="all are received",
                )
                with_room = source_of(status, "hall")["lost"] == 0
            server.start()
            plant.publish(DEVICE, sent)
            wait_until(lambda: numbers(plant)[-1:] == [sent], what="the last message is in the stream")
            # One record, or two, if a commit came in between.
            wait_until(lambda: len(numbers(plant)) + lost(plant) >= sent + 1, what="the loss is told")
            assert all(loss["certain"] for loss in plant.losses("qos0"))
            assert len(numbers(plant)) + lost(plant) == sent + 1


class TestTheEndOfTheJournal:
    def test_is_missed_when_the_broker_was_told_more(self, processes: Processes, tmp_path: Path) -> None:
        """SQLite takes a log that is gone for one that never was."""
        with plant_with(processes, tmp_path) as (plant, _):
            plant.establish_session()
            plant.publish(DEVICE, 0)
            plant.gateway.wait_delivered(1)
            assert plant.gateway.terminate() == 0
            plant.gateway.start()
            plant.gateway.wait_connected()
            assert plant.losses("corrupt") == []
            plant.publish(DEVICE, *range(1, 6))
            plant.gateway.wait_delivered(6)
            plant.gateway.kill()
            for file in (plant.gateway.data_dir / "journal").glob("cache.db-*"):
                file.unlink()
            for _ in range(2):
                plant.gateway.start()
                plant.gateway.wait_connected()
                wait_until(lambda: plant.losses("corrupt"), what="it is told")
                plant.gateway.kill()
            (loss,) = plant.losses("corrupt")
            assert (loss["certain"], "count" in loss, loss["source"]) == (False, False, "hall")
            assert "that the broker was told of are not in this journal" in loss["detail"]
