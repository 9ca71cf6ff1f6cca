"""The gateway as a process over a damaged or unusable journal.

It starts, and everything readable reaches its stream; or it ends with 1 and says which file it is and the way out.
A traceback is never the answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from durable_streams import DurableStreamError
from faults.committing_journal import ACKNOWLEDGED
from harness import peers
from harness.audit import StreamReader
from harness.damaged_journal import GATEWAY, LEDGER, Kept, drain, judge, make_journal
from harness.gateway_process import GatewayProcess
from harness.ports import free_port
from harness.processes import console_script
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness.processes import Processes

Image = tuple["Path", Kept]

STEPS = ("built", "complete", "set aside", "moved")
NOBODY = 65534


class Site:
    """A gateway over a journal that was made before, and its stream server."""

    def __init__(self, processes: Processes, folder: Path, image: Image) -> None:
        self._processes = processes
        self._folder = folder
        self.server = StreamServer(processes, folder / "streams")
        self.server.start()
        self.data = folder / "gateway" / "data"
        shutil.copytree(image[0], self.data)
        self.kept = image[1]
        self.gateway = self.process()

    @property
    def database(self) -> Path:
        return self.data / "journal" / "cache.db"

    def process(self, *prefix: str | Path) -> GatewayProcess:
        """The gateway, run by another program if need be."""
        settings: dict[str, Any] = {
            "gateway": {"id": GATEWAY},
            "server": {"url": self.server.base_url},
            "journal": {"min_free_bytes": 0},
            # Nobody is there: the sources are of no interest here.
            "mqtt": {
                "hall": {"url": f"mqtt://127.0.0.1:{free_port()}", "devices": [{"topic": "sensors/{sensor}"}]}
            },
        }
        program = [*prefix, console_script("ds-gateway"), "run"]
        return GatewayProcess(self._processes, self._folder / "gateway", settings, program=program)

    def injected(self, path: Path, inject: str) -> GatewayProcess:
        """The gateway, and the kernel answers calls on one file with an error."""
        strace = peers.require_tool("strace")
        call, _, _ = inject.partition(":")
        trace = ["-e", f"trace={call}", "-e", f"inject={inject}", "-P", str(path)]
        return self.process(strace, "-f", "-qq", "-o", self._folder / "trace", *trace)

    def streams(self) -> dict[str, list[str]]:
        """The values in each stream."""
        return {name: [each["data"]["value"] for each in self.read(name)] for name in self.kept.unresolved}

    def read(self, name: str) -> list[dict[str, Any]]:
        """Everything in a stream but what the uplink itself puts there."""
        try:
            records = StreamReader(f"{self.server.base_url}/{name}").read()
        except DurableStreamError:
            return []
        return [record for record in records if record.get("kind") not in {"birth", "probe"}]

    def wait_arrived(self) -> None:
        """Until everything that was unresolved is in the streams, then end the gateway."""
        wait_until(lambda: self.streams() == self.kept.unresolved, what="everything is in its stream")
        self.end()

    def end(self) -> None:
        """End the gateway itself; a program that runs it ends with it."""
        os.kill(self.gateway.wait_ready()["gateway"]["pid"], signal.SIGTERM)
        assert self.gateway.child.wait(timeout_seconds=40) == 0
        self.gateway.child.kill()

    def refusal(self, gateway: GatewayProcess) -> str:
        """Start it; it must end with 1. Return what it says."""
        gateway.start()
        assert gateway.child.wait(timeout_seconds=40) == 1, gateway.child.output
        gateway.child.kill()
        output = gateway.child.output
        assert "Traceback" not in output, output
        assert "ds-gateway: " in output, output
        return output[output.index("ds-gateway: ") :]


@pytest.fixture(scope="module")
def unsent(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A journal that never had a way to its server."""
    folder = tmp_path_factory.mktemp("unsent") / "data"
    return folder, make_journal(folder, crashed=False, each=8, server_knows=False)


@pytest.fixture
def site(processes: Processes, tmp_path: Path, unsent: Image) -> Iterator[Site]:
    site = Site(processes, tmp_path, unsent)
    yield site
    site.server.stop()


class TestSalvage:
    def test_what_is_readable_arrives_and_the_rest_is_told(self, site: Site) -> None:
        with site.database.open("r+b") as file:
            file.write(b"z" * 100)
        site.gateway.start()
        status = site.gateway.wait_ready()
        (name,) = status["journal"]["set_aside"]
        assert (site.data / name / "cache.db").is_file()
        (salvaged,) = site.gateway.events("journal.salvaged")
        assert (salvaged["set_aside"], salvaged["records"], salvaged["missing"]) == (name, 32, 0)
        wait_until(lambda: site.read(LEDGER), what="the loss record is in the gateway's own stream")
        (loss,) = site.read(LEDGER)
        assert loss["kind"] == "loss"
        assert (loss["info"]["cause"], loss["info"]["certain"]) == ("corrupt", False)
        site.wait_arrived()
        assert "Traceback" not in site.gateway.child.output

    def test_damage_that_shows_while_it_runs_ends_it_and_the_next_start_salvages(self, site: Site) -> None:
        """Every page but the first two: SQLite opens that, and stumbles at some time."""
        damage = site.database.stat().st_size - 3 * 4096
        with site.database.open("r+b") as file:
            file.seek(3 * 4096)
            file.write(bytes(damage))
        site.gateway.start()
        wait_until(
            lambda: not site.gateway.child.is_running or site.gateway.events("journal.salvaged"),
            what="it is noticed",
        )
        if not site.gateway.child.is_running:
            assert site.gateway.child.wait() == 1
            assert str(site.database) in site.gateway.child.output
            assert "Traceback" not in site.gateway.child.output
            site.gateway.child.kill()
            site.gateway.start()
        assert len(site.gateway.wait_ready()["journal"]["set_aside"]) == 1
        site.end()

    def test_a_second_gateway_is_told_who_holds_the_journal(self, site: Site) -> None:
        site.gateway.start()
        site.gateway.wait_ready()
        said = site.refusal(site.process())
        assert f"process {site.gateway.child.pid}" in said
        assert str(site.data) in said
        site.wait_arrived()


@pytest.mark.soak
class TestKills:
    @pytest.fixture
    def damaged(self, tmp_path: Path, unsent: Image) -> Image:
        data = tmp_path / "data"
        shutil.copytree(unsent[0], data)
        kept = unsent[1]
        with (data / "journal" / "cache.db").open("r+b") as file:
            file.write(b"z" * 100)
        return data, kept

    @pytest.mark.parametrize(("first", "second"), [*zip(STEPS, STEPS, strict=True), *pairwise(STEPS)])
    def test_two_kills_in_a_salvage_cost_nothing(self, damaged: Image, first: str, second: str) -> None:
        data, kept = damaged
        killed = [self.open_and_die(data, step) for step in (first, second)]
        assert killed[0], "the step comes"
        assert killed[1] is (first in {"built", "complete"}), "what was set aside is not salvaged again"
        drained = drain(data)
        judge(kept, drained)
        assert drained.values == kept.unresolved
        assert len(drained.set_aside) == 1
        assert len(drained.losses) == 1
        left = {path.name for path in data.iterdir()}
        assert left == {"journal", "journal.streams", "lock", "ballast", *drained.set_aside}

    def open_and_die(self, data: Path, step: str) -> bool:
        """Whether it came as far as the step."""
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(peers.REPOSITORY / "tests")]))
        run = subprocess.run(
            [sys.executable, "-m", "faults.salvaging_journal", data, step],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert run.returncode in {0, -signal.SIGKILL}, run.stderr.decode()
        return run.returncode == -signal.SIGKILL


class TestTheDisk:
    def test_one_read_that_fails_is_tried_again(self, site: Site) -> None:
        site.gateway = site.injected(site.database, "pread64:error=EIO:when=2")
        site.gateway.start()
        status = site.gateway.wait_ready()
        assert status["journal"]["set_aside"] == []
        site.wait_arrived()

    @pytest.mark.soak
    def test_reads_that_always_fail_are_told_and_nothing_is_changed(self, site: Site) -> None:
        before = site.database.read_bytes()
        said = site.refusal(site.injected(site.database, "pread64:error=EIO"))
        assert str(site.data) in said
        assert "dmesg" in said
        assert site.database.read_bytes() == before
        site.gateway.start()
        assert site.gateway.wait_ready()["journal"]["set_aside"] == []
        site.wait_arrived()

    @pytest.mark.soak
    def test_what_other_reads_bring_is_salvaged(self, site: Site) -> None:
        """Each fourth read fails. The journal is on another disk, so that only the damaged one is hit."""
        elsewhere = site.data.parent / "elsewhere"
        (site.data / "journal").rename(elsewhere)
        (site.data / "journal").symlink_to(elsewhere)
        site.gateway = site.injected(elsewhere / "cache.db", "pread64:error=EIO:when=3+4")
        site.gateway.start()
        assert len(site.gateway.wait_ready()["journal"]["set_aside"]) == 1
        (salvaged,) = site.gateway.events("journal.salvaged")
        assert salvaged["records"] > 0
        assert "Traceback" not in site.gateway.child.output
        site.end()

    @pytest.mark.parametrize("name", ["lock", "journal/cache.db"])
    def test_a_read_only_file_system_is_named(self, site: Site, name: str) -> None:
        said = site.refusal(site.injected(site.data / name, "openat:error=EROFS"))
        assert str(site.data / name) in said
        assert "read-only" in said
        assert "remount" in said
        site.gateway.start()
        site.wait_arrived()

    @pytest.mark.soak
    def test_no_room_to_salvage_changes_nothing_and_goes_on_when_there_is(self, site: Site) -> None:
        with site.database.open("r+b") as file:
            file.write(b"z" * 100)
        before = site.database.read_bytes()
        staged = site.data / "journal.salvaging" / "journal" / "cache.db-wal"
        said = site.refusal(site.injected(staged, "pwrite64:error=ENOSPC"))
        assert "no room to salvage" in said
        assert str(site.data) in said
        assert site.database.read_bytes() == before
        assert not (site.data / "journal.salvaging").exists()
        site.gateway.start()
        site.wait_arrived()

    def test_a_disk_that_is_full_for_a_while_loses_nothing(self, tmp_path: Path) -> None:
        """The writer's own thread gets the errors; whoever opens writes less than that."""
        rounds = 60
        data = tmp_path / "data"
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(peers.REPOSITORY / "tests")]))
        argv: Sequence[str | Path] = [
            *(peers.require_tool("strace"), "-f", "-qq", "-o", tmp_path / "trace"),
            *("-P", data / "journal" / "cache.db-wal", "-e", "trace=pwrite64"),
            *("-e", "inject=pwrite64:error=ENOSPC:when=400..403"),
            *(sys.executable, "-m", "faults.committing_journal", data, str(rounds)),
        ]
        run = subprocess.run(
            argv, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=100, check=False
        )
        assert run.returncode == 0, run.stderr.decode()
        assert run.stdout.count(ACKNOWLEDGED) == rounds
        assert "ENOSPC" in (tmp_path / "trace").read_text(errors="replace"), "the disk was full"


class TestWhoMayUseIt:
    def test_a_directory_of_somebody_else(self, site: Site) -> None:
        """As root: without the right to pass over permissions, which services do not have either."""
        if os.geteuid() == 0:
            os.chown(site.data, NOBODY, NOBODY)
            dropped = "-dac_override,-dac_read_search"
            gateway = site.process(peers.require_tool("setpriv"), "--bounding-set", dropped, "--inh-caps", dropped)
        else:
            gateway = site.process()
        site.data.chmod(0o700 if os.geteuid() == 0 else 0)
        try:
            said = site.refusal(gateway)
        finally:
            site.data.chmod(0o700)
        assert str(site.data) in said
        assert "chown -R" in said
        assert "the gateway runs as" in said

    def test_a_database_that_may_not_be_written(self, site: Site) -> None:
        said = site.refusal(site.injected(site.database, "openat:error=EACCES"))
        assert str(site.database) in said
        assert "chown -R" in said
        site.gateway.start()
        site.wait_arrived()

    def test_a_data_directory_that_is_a_file(self, site: Site) -> None:
        shutil.rmtree(site.data)
        site.data.write_text("?")
        assert str(site.data) in site.refusal(site.gateway)
