"""What feeds the watchdog: processes, mosquitto, and a service manager that watches as systemd does."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import ExitStack, closing
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from ds_gateway.liveness import Liveness
from durable_streams.testing import InMemoryStreamServer
from harness.gateway_process import GatewayProcess, total
from harness.mosquitto import Mosquitto
from harness.peers import REPOSITORY, require_tool
from harness.ports import free_port
from harness.processes import console_script
from harness.pty_device import PtyDevice
from harness.publisher import Publisher
from harness.service_manager import Manager
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.processes import Processes

WATCHDOG_SECONDS: Final = 3.0
"""Twenty times less than in the unit; more than the longest turn of a part."""
FEEDS: Final = 4
"""A gateway that gets on feeds so often in a period."""


def settings(server_url: str, broker_url: str, **more: Any) -> dict[str, Any]:
    return {
        "gateway": {"id": "line-7"},
        "server": {"url": server_url},
        "journal": {"min_free_bytes": 0},
        "mqtt": {"hall": {"url": broker_url, "devices": [{"topic": "sensors/{sensor}"}]}},
        **more,
    }


class Watched:
    """A gateway, and a service manager that aborts it when it starves."""

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        settings: dict[str, Any],
        *,
        program: Sequence[str | Path] = (console_script("ds-gateway"), "run"),
    ) -> None:
        folder.mkdir()
        self.manager = Manager(folder / "notify", watchdog_seconds=WATCHDOG_SECONDS, on_starved=self._abort)
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(REPOSITORY / "tests")]))
        # As the unit has it: SIGABRT tells where every thread was.
        environ = {**self.manager.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
        self.gateway = GatewayProcess(processes, folder, settings, program=program, environ=environ)

    def _abort(self) -> None:
        os.killpg(self.gateway.child.pid, signal.SIGABRT)


class TestItStarves:
    def test_where_a_part_hangs_or_is_dead(self, processes: Processes, tmp_path: Path) -> None:
        """One gateway for each: an event loop, a commit, and two threads that ended without a word."""
        parts = {"loop": "", "commit": "journal", "mqtt-hall": "hall", "serial-scale": "scale"}
        with ExitStack() as stack:
            server = stack.enter_context(InMemoryStreamServer())
            broker = stack.enter_context(Mosquitto(tmp_path / "mosquitto"))
            boxes: dict[str, Watched] = {}
            for part in parts:
                device = stack.enter_context(PtyDevice(tmp_path / f"{part}-port"))
                device.plug()
                more = {"gateway": {"id": part}, "serial": {"scale": {"port": str(device.path)}}}
                boxes[part] = Watched(
                    processes,
                    tmp_path / part,
                    settings(server.url("v1"), broker.url, **more),
                    program=(sys.executable, "-m", "faults.hanging_gateway", "--part", part),
                )
                stack.enter_context(boxes[part].manager)
                boxes[part].gateway.start()
            for box in boxes.values():
                box.gateway.wait_connected()
                wait_until(lambda box=box: box.manager.fed > 0, what="it is fed while all is well")  # type: ignore[misc]
                box.gateway.child.send_signal(signal.SIGUSR1)
            with Publisher(broker.port) as publisher:
                publisher.publish([("sensors/1", b'{"n": 1}')])  # something to commit
            for part, box in boxes.items():
                assert box.gateway.child.wait(timeout_seconds=60) == -signal.SIGABRT, part
                assert box.manager.has_starved
                told = {each["parts"] for each in box.gateway.events("gateway.stalled")}
                assert told == ({parts[part]} if parts[part] else set())
                assert "Current thread" in box.gateway.child.output, "where each thread stood is told"
            for part in ("loop", "commit"):
                assert "in wait_for_ever" in boxes[part].gateway.child.output


class TestItIsFed:
    @pytest.mark.parametrize("periods", [3, pytest.param(10, marks=pytest.mark.soak)])
    def test_for_many_periods_whatever_is_away(self, processes: Processes, tmp_path: Path, periods: int) -> None:
        """All at once, as they wait: a broker, a server and ports that are away in any way, and a full disk."""
        trace = tmp_path / "trace"
        away = f"127.0.0.1:{free_port()}"
        with ExitStack() as stack:
            server = stack.enter_context(InMemoryStreamServer())
            broker = stack.enter_context(Mosquitto(tmp_path / "mosquitto"))
            deaf = stack.enter_context(_Deaf()).address
            full_disk = (
                *(require_tool("strace"), "-f", "-qq", "-o", trace),
                # The writer's own thread gets the errors; whoever opens writes less than that.
                *("-P", tmp_path / "full" / "data" / "journal" / "cache.db-wal", "-e", "trace=pwrite64"),
                *("-e", "inject=pwrite64:error=ENOSPC:when=200+"),
                *(console_script("ds-gateway"), "run"),
            )
            ports = {"near": {"port": str(tmp_path / "unplugged")}, "far": {"port": f"socket://{deaf}"}}
            boxes = {
                "refused": Watched(
                    processes, tmp_path / "refused", settings(f"http://{away}/v1", f"mqtt://{away}", serial=ports)
                ),
                "deaf": Watched(processes, tmp_path / "deaf", settings(f"http://{deaf}/v1", f"mqtt://{deaf}")),
                "no server": Watched(processes, tmp_path / "server", settings(f"http://{deaf}/v1", broker.url)),
                "full": Watched(
                    processes,
                    tmp_path / "full",
                    settings(server.url("v1"), broker.url, gateway={"id": "full"}),
                    program=full_disk,
                ),
            }
            for box in boxes.values():
                stack.enter_context(box.manager)
                box.gateway.start()
            for name in ("no server", "full"):
                boxes[name].gateway.wait_connected()
            with Publisher(broker.port) as publisher:
                for n in count():
                    publisher.publish([("sensors/1", json.dumps({"n": n}).encode())])
                    if boxes["full"].gateway.events("journal.disk_full"):
                        break
            before = {name: box.manager.fed for name, box in boxes.items()}

            def fed_long_enough() -> bool:
                starved = [name for name, box in boxes.items() if box.manager.has_starved]
                assert not starved, {name: boxes[name].gateway.child.output[-6000:] for name in starved}
                return all(box.manager.fed >= before[name] + FEEDS * periods for name, box in boxes.items())

            wait_until(fed_long_enough, timeout_seconds=110, what=f"{periods} periods are over")
            for box in boxes.values():
                assert box.gateway.events("gateway.stalled") == []
                assert box.gateway.child.is_running
            full, other = (boxes[name].gateway.status() for name in ("full", "no server"))
            assert full is not None
            assert other is not None
            assert total(full, "accepted") < total(other, "accepted"), "the disk was full to the end"


class TestLiveness:
    """A turn, or a wait with a deadline."""

    def test_is_the_last_turn(self) -> None:
        now = [5.0]
        liveness = Liveness(lambda: now[0])
        now[0] = 7.0
        assert liveness.alive_at == 5.0
        liveness.turn()
        now[0] = 60.0
        assert liveness.alive_at == 7.0

    def test_goes_on_while_something_outside_may_take_its_time_and_no_longer(self) -> None:
        now = [0.0]
        liveness = Liveness(lambda: now[0])
        with liveness.waiting(10.0):
            now[0] = 9.0
            assert liveness.alive_at == 9.0
            now[0] = 100.0
            assert liveness.alive_at == 10.0
        assert liveness.alive_at == 100.0
        now[0] = 103.0
        assert liveness.alive_at == 100.0


class _Deaf:
    """An address that takes no more connections and refuses none: connecting to it takes as long as one waits."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        host, port = listener.getsockname()
        self.address = f"{host}:{port}"
        for _ in range(2):  # what fits into its queue
            waiting = self._stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex((host, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
