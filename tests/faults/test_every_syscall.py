"""kill -9 at every system call of every thread that matters, from the thread's first instruction on.

strace counts the calls of one thread, and kills the gateway when it is about to make the nth of a kind: that call
is not made. So n = 1, 2, 3 ... are all places between two effects on the disk or the network. After each kill the
gateway is started without a tracer, and everything that the broker has confirmed must be in the streams, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from faults.plant import Plant, numbered_and_steady
from faults.traced_gateway import LOOP
from harness.audit import telemetry
from harness.gateway_process import GatewayProcess
from harness.peers import _unavailable, require_tool
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import ChildProcess, Processes

TESTS: Final = Path(__file__).resolve().parents[1]
JOURNAL: Final = "journal"
MQTT: Final = "mqtt-hall"
DEVICES: Final = [device for device in numbered_and_steady() if device.hall == "a"]
BURSTS: Final = (1, 3, 20)
"""Messages of each device that come at once, while a thread is traced."""
CALLS: Final = {
    # The journal is opened, and its first rows are written, before the threads begin.
    LOOP: ("sendto", "pwrite64", "fdatasync", "ftruncate", "unlink"),
    JOURNAL: ("pwrite64", "fdatasync", "write", "sendto"),
    # PUBACKs, and the mark before them that says which PUBACKs were sent.
    MQTT: ("sendto", "pwrite64", "write"),
}
QUICK: Final = (
    (JOURNAL, "pwrite64", 28),
    (JOURNAL, "pwrite64", 40),
    (JOURNAL, "fdatasync", 2),
    (MQTT, "sendto", 3),
    (MQTT, "pwrite64", 2),
    (LOOP, "sendto", 4),
)
"""A few of them for every run: in a commit, before its sync, a PUBACK, its mark, a POST."""
WAIT_SECONDS: Final = 60.0
MOST: Final = 1000
"""More calls of one kind than the bursts need: something goes on for ever."""


@dataclass
class Coverage:
    """How many places were killed at."""

    reached: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{thread} {call}: {count}" for (thread, call), count in self.reached.items())


class Victim:
    """A plant whose gateway is killed at one system call after the other."""

    def __init__(self, processes: Processes, plant: Plant) -> None:
        self.plant = plant
        self.processes = processes
        self.coverage = Coverage()
        self._published = 0
        self._runs = 0
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
        self._gateways = GatewayProcess(
            processes,
            plant.gateway.config.parent,
            json.loads(plant.gateway.config.read_text()),
            program=[sys.executable, "-m", "faults.traced_gateway"],
            environ={"PYTHONPATH": path},
        )

    def begin(self, *threads: str) -> None:
        """Have a stream, and begin with the gateways whose threads are traced, in this order."""
        self.plant.establish_session()
        self.publish(1)
        wait_until(self.all_arrived, timeout_seconds=WAIT_SECONDS, what="the first records arrived")
        self.plant.gateway.kill()
        self._gateways.start("--threads", *threads)

    def publish(self, count: int) -> None:
        """Publish so many messages of each device, at once."""
        numbers = range(self._published + 1, self._published + count + 1)
        self._published += count
        self.plant.publisher.publish(
            [(device.topic, device.payload(number)) for number in numbers for device in self.plant.devices]
        )

    def all_arrived(self) -> bool:
        """Whether as much is in the stream as was confirmed; the audit says whether it is the same."""
        (reader,) = self.plant.readers
        return len(telemetry(reader.try_read())) >= len(self.plant.publisher.confirmed)

    def kill_at(self, thread: str, call: str, number: int) -> bool:
        """Kill the gateway at the nth call, let another one run and audit. False: it makes fewer calls."""
        process = self._begun()
        traced = self._gateways.child.wait_for_output(rf"^traced {self._runs} (\d+)$")
        tracer = self._trace(traced[1], call, number)
        for count in BURSTS:
            if not is_alive(process):
                break
            self.publish(count)
            wait_until(
                lambda: not is_alive(process) or self.all_arrived(),
                timeout_seconds=WAIT_SECONDS,
                what="the records arrived, or it is dead",
            )
        reached = not is_alive(process)
        kill(process)
        tracer.wait()

        process = self._begun()
        where = f"killed at {call} number {number} of {thread}"
        try:
            wait_until(self.all_arrived, timeout_seconds=WAIT_SECONDS, what="everything is in its stream again")
        except AssertionError as error:
            error.add_note(f"{where}: {self.plant.audit().problems}")
            raise
        kill(process)
        problems = self.plant.audit().problems
        assert not problems, f"{where}: {problems}"
        if reached:
            self.coverage.reached[thread, call] += 1
        return reached

    def _begun(self) -> int:
        """The next gateway's process."""
        self._runs += 1
        return int(self._gateways.child.wait_for_output(rf"^begun {self._runs} (\d+)$")[1])

    def _trace(self, thread: str, call: str, number: int) -> ChildProcess:
        argv: list[str | Path] = [require_tool("strace"), "-p", thread, "-e", f"trace={call}"]
        argv += ["-e", f"inject={call}:signal=KILL:when={number}"]
        return self.processes.start(argv, name="strace")


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def victim(processes: Processes, tmp_path: Path) -> Victim:
    probe: list[str | Path] = [require_tool("strace"), "-e", "trace=none", "true"]
    if b"ot permitted" in subprocess.run(probe, capture_output=True, check=False).stderr:
        _unavailable("strace may not trace processes here (ptrace is not permitted)")
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    return Victim(processes, Plant(processes, tmp_path / "plant", server, DEVICES))


def test_some_places(victim: Victim) -> None:
    with victim.plant:
        victim.begin(*(thread for thread, _, _ in QUICK))
        for thread, call, number in QUICK:
            assert victim.kill_at(thread, call, number), f"{thread} does not make {number} calls of {call}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("thread", "call"), [(thread, call) for thread, calls in CALLS.items() for call in calls])
def test_all_places(victim: Victim, thread: str, call: str) -> None:
    with victim.plant:
        victim.begin(thread)
        for number in range(1, MOST):
            if not victim.kill_at(thread, call, number):
                break
        else:
            pytest.fail(f"{thread} makes more than {MOST} calls of {call}")
        print(f"killed at {victim.coverage}")
