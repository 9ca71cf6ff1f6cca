"""A backlog, a batch that is unresolved at the old server, and a new one: counted over both servers.

Each test ends with the same audit: what the broker confirmed is in the old stream followed by the new one, every
record once, in order, with dense positions.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from faults.crashing_gateway import ENDED
from faults.plant import GATEWAY, Device, Plant
from harness.audit import Findings, StreamReader, check_positions, compare, telemetry
from harness.embedded_streams import EmbeddedStreams
from harness.gateway_process import GatewayProcess, stream_of
from harness.stream_server import Asked, Front, Reply, StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from harness.processes import Processes

TESTS = Path(__file__).resolve().parents[1]
DEVICE = Device("a", "1", steady=False)
STREAM: Final = f"telemetry/{GATEWAY}/a"


def is_batch(asked: Asked) -> bool:
    return asked.method == "POST" and 0 < int(asked.headers["producer-seq"]) < 2**53 - 1


class OldServer:
    """A server behind a front; `strand` takes it away so that a batch is unresolved there."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.server = StreamServer(processes, folder)
        self.server.start()
        self.front = Front(self.server.base_url)

    @property
    def base_url(self) -> str:
        return self.front.base_url

    def go_away(self, *, stored: bool) -> None:
        """Answer nothing more. ``stored``: requests arrive all the same."""
        if stored:
            self.front.lose_answers(lambda asked: is_batch(asked) or asked.method == "HEAD")
        else:
            self.front.rule = lambda asked: None if asked.method == "GET" else Reply(503)

    def come_back(self) -> None:
        self.front.lose_answers(lambda _asked: False)
        self.front.rule = lambda _asked: None


@pytest.fixture
def old(processes: Processes, tmp_path: Path) -> Iterator[OldServer]:
    server = OldServer(processes, tmp_path / "old")
    with server.front:
        yield server


@pytest.fixture
def new(processes: Processes, tmp_path: Path) -> StreamServer:
    server = StreamServer(processes, tmp_path / "new")
    server.start()
    return server


def resolve(gateway: GatewayProcess, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return gateway.run_command("resolve", *arguments)


def strand(plant: Plant, old: OldServer, *, stored: bool) -> None:
    """One record is delivered, one is unresolved, two more wait; then the gateway dies."""
    plant.establish_session()
    plant.publish(DEVICE, 1)
    plant.gateway.wait_delivered(1)
    old.go_away(stored=stored)
    plant.publish(DEVICE, 2)
    plant.gateway.wait_stream(STREAM, "waiting")
    plant.publish(DEVICE, 3, 4)
    plant.gateway.wait_accepted(4)
    plant.gateway.kill()
    assert len(telemetry(plant.readers[0].read())) == 1 + stored


def configure(plant: Plant, **server: Any) -> None:
    settings = json.loads(plant.gateway.config.read_text())
    plant.gateway.configure({**settings, "server": server})


def read_from(plant: Plant, base_url: str) -> None:
    """The streams are at another place from now on: what comes is waited for there."""
    plant.readers = [StreamReader(f"{base_url}/{STREAM}")]


def audit(plant: Plant, old_url: str) -> Findings:
    """Count over both servers."""
    records = [*StreamReader(f"{old_url}/{STREAM}").read(), *plant.readers[0].read()]
    sent = [json.loads(payload) for topic, payload in plant.publisher.confirmed]
    findings = compare({DEVICE.name: sent}, records)
    check_positions(records, findings)
    print(findings)
    return findings


class TestFromServerToServer:
    @pytest.mark.parametrize(
        "stored",
        [
            pytest.param(False, marks=pytest.mark.soak, id="it never arrived"),
            pytest.param(True, id="its answer was lost"),
        ],
    )
    def test_nothing_is_lost_and_nothing_is_there_twice(
        self, processes: Processes, tmp_path: Path, old: OldServer, new: StreamServer, *, stored: bool
    ) -> None:
        with Plant(processes, tmp_path / "plant", old, [DEVICE]) as plant:
            strand(plant, old, stored=stored)
            configure(plant, url=new.base_url)
            read_from(plant, new.base_url)
            plant.gateway.start()
            halted = plant.gateway.wait_stream(STREAM, "halted")
            assert f"`ds-gateway resolve {STREAM} --retarget`" in halted["reason"]

            shown = resolve(plant.gateway, STREAM)
            assert shown.returncode == 0
            assert f"a batch is unresolved at {old.base_url}" in shown.stdout
            assert "--old-server-gone" in shown.stdout

            away = resolve(plant.gateway, STREAM, "--retarget", "--timeout", "1")
            assert away.returncode == 1
            assert f"{old.base_url} did not settle it within 1 s: " in away.stdout
            assert "nothing is changed" in away.stdout
            assert plant.gateway.wait_stream(STREAM, "halted")["reason"] == halted["reason"]

            old.come_back()
            moved = resolve(plant.gateway, "--all", "--retarget")
            assert (moved.returncode, moved.stderr) == (0, "")
            assert moved.stdout == f"{STREAM}: moved from {old.base_url} to {new.base_url}\n"
            again = resolve(plant.gateway, STREAM, "--retarget")
            assert again.returncode == 0
            assert "nothing to do" in again.stdout
            plant.finish()
            assert audit(plant, old.base_url).problems == ""
            assert telemetry(StreamReader(f"{old.base_url}/{STREAM}").read()) == [{"n": 1}, {"n": 2}]

    @pytest.mark.parametrize("stored", [False, True])
    @pytest.mark.soak
    def test_a_server_that_is_gone_for_good_is_not_asked_and_the_new_one_has_everything_once(
        self, processes: Processes, tmp_path: Path, old: OldServer, new: StreamServer, *, stored: bool
    ) -> None:
        with Plant(processes, tmp_path / "plant", old, [DEVICE]) as plant:
            strand(plant, old, stored=stored)
            asked = len(old.front.asked)
            configure(plant, url=new.base_url)
            read_from(plant, new.base_url)
            plant.gateway.start()
            plant.gateway.wait_stream(STREAM, "halted")
            moved = resolve(plant.gateway, STREAM, "--retarget", "--old-server-gone")
            assert (moved.returncode, moved.stderr) == (0, "")
            plant.finish()
            assert len(old.front.asked) == asked
            values = telemetry(plant.readers[0].read())
            assert values == [{"n": 2}, {"n": 3}, {"n": 4}, {"end": True}]
            positions = [record["id"].rsplit(".")[-1] for record in plant.readers[0].records if "data" in record]
            assert positions == ["2", "3", "4", "5"]

    @pytest.mark.soak
    def test_the_old_server_may_have_a_token_of_its_own(
        self, processes: Processes, tmp_path: Path, new: StreamServer
    ) -> None:
        token = tmp_path / "token"
        token.write_text("right\n")
        server = StreamServer(processes, tmp_path / "old", token_file=token)
        server.start()
        more = {"server": {"url": server.base_url, "token": "right"}}
        with Plant(processes, tmp_path / "plant", server, [DEVICE], more_settings=more) as plant:
            plant.establish_session()
            plant.publish(DEVICE, 1)
            plant.gateway.wait_delivered(1)
            server.kill()
            plant.publish(DEVICE, 2)
            plant.gateway.wait_stream(STREAM, "waiting")
            plant.gateway.kill()
            server.start()
            configure(plant, url=new.base_url, token="other")
            read_from(plant, new.base_url)
            plant.gateway.start()
            plant.gateway.wait_stream(STREAM, "halted")
            refused = resolve(plant.gateway, STREAM, "--retarget", "--timeout", "1")
            assert refused.returncode == 1
            assert "credentials were refused" in refused.stdout
            moved = resolve(plant.gateway, STREAM, "--retarget", "--token-file", token)
            assert moved.returncode == 0, moved.stdout
            plant.finish()
            assert telemetry(plant.readers[0].read()) == [{"end": True}], "the rest is at the old one"


@pytest.mark.soak
class TestTheEmbeddedServer:
    @pytest.mark.parametrize("stored", [False, True])
    def test_from_a_server_to_it(
        self, processes: Processes, tmp_path: Path, old: OldServer, *, stored: bool
    ) -> None:
        streams = EmbeddedStreams()
        with Plant(processes, tmp_path / "plant", old, [DEVICE]) as plant:
            strand(plant, old, stored=stored)
            old.come_back()
            configure(plant, **streams.settings())
            read_from(plant, streams.base_url)
            plant.gateway.start()
            plant.gateway.wait_stream(STREAM, "halted")
            moved = resolve(plant.gateway, STREAM, "--retarget")
            assert moved.stdout == f"{STREAM}: moved from {old.base_url} to embedded\n"
            plant.finish()
            with streams.served(plant.gateway.data_dir):
                assert audit(plant, old.base_url).problems == ""

    @pytest.mark.parametrize("point", ["before POST", "after POST"])
    def test_from_it_to_a_server(
        self, processes: Processes, tmp_path: Path, new: StreamServer, point: str
    ) -> None:
        streams = EmbeddedStreams()
        more = {"server": streams.settings()}
        with crashing_plant(processes, tmp_path, streams, more) as plant:
            plant.establish_session("--point", point)
            plant.publish(DEVICE, 1)
            plant.gateway.child.wait_for_output(f"{ENDED} -9")
            plant.gateway.kill()
            configure(plant, url=new.base_url)
            settings = json.loads(plant.gateway.config.read_text())
            plant.gateway = GatewayProcess(processes, tmp_path / "plant" / "gateway", settings)
            read_from(plant, new.base_url)
            plant.publish(DEVICE, 2)
            plant.gateway.start()
            plant.gateway.wait_stream(STREAM, "halted")

            folder = plant.gateway.data_dir / "streams"
            folder.rename(folder.with_name("elsewhere"))
            absent = resolve(plant.gateway, STREAM, "--retarget")
            assert absent.returncode == 1
            assert f"are not in {folder}: put them back there" in absent.stdout
            assert not folder.exists(), "no empty store was made"
            folder.with_name("elsewhere").rename(folder)

            moved = resolve(plant.gateway, STREAM, "--retarget")
            assert moved.stdout == f"{STREAM}: moved from embedded to {new.base_url}\n"
            plant.finish()
            with streams.served(plant.gateway.data_dir):
                assert audit(plant, streams.base_url).problems == ""
                assert telemetry(StreamReader(f"{streams.base_url}/{STREAM}").read()) == [{"n": 1}]


def crashing_plant(
    processes: Processes, folder: Path, server: Any, more_settings: dict[str, Any] | None = None
) -> Plant:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    return Plant(
        processes,
        folder / "plant",
        server,
        [DEVICE],
        more_settings=more_settings,
        program=[sys.executable, "-m", "faults.crashing_gateway"],
        environ={"PYTHONPATH": path},
    )


POINTS: Final = {
    "before POST": "the old server has not got it yet: it stands as before",
    "after POST": "the old server has it and the journal does not know: it stands as before",
    "before C": "the same",
    "after C": "resolved and moved in one transaction: the next start goes on at the new server",
    "before birth": "moved",
    "after birth": "moved; the claim is made again",
}
"""Where the gateway is killed while it moves a stream, and what that leaves."""


@pytest.mark.soak
class TestKilledInTheMiddle:
    @pytest.mark.parametrize("point", POINTS)
    def test_the_stream_stands_as_before_or_is_moved(
        self, processes: Processes, tmp_path: Path, old: OldServer, new: StreamServer, point: str
    ) -> None:
        with ExitStack() as stack:
            plant = stack.enter_context(crashing_plant(processes, tmp_path, old))
            crashing = plant.gateway
            settings = json.loads(crashing.config.read_text())
            plant.gateway = GatewayProcess(processes, tmp_path / "plant" / "gateway", settings)
            strand(plant, old, stored=False)
            old.come_back()
            configure(plant, url=new.base_url)
            read_from(plant, new.base_url)

            plant.gateway = crashing
            plant.gateway.start("--point", point)
            plant.gateway.wait_stream(STREAM, "halted")
            resolve(plant.gateway, STREAM, "--retarget")
            plant.gateway.child.wait_for_output(f"{ENDED} -9")
            plant.gateway.child.send_signal(signal.SIGUSR1)
            wait_until(lambda: stream_of(plant.gateway.status() or {"streams": []}, STREAM), what="it is up again")
            is_moved = POINTS[point].startswith(("moved", "resolved"))
            if not is_moved:
                plant.gateway.wait_stream(STREAM, "halted")
            moved = resolve(plant.gateway, STREAM, "--retarget")
            assert ("nothing to do" in moved.stdout) == is_moved, moved.stdout
            assert moved.returncode == 0
            plant.finish()
            assert audit(plant, old.base_url).problems == ""
