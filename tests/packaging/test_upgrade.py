"""Upgrade and rollback over a journal with a backlog: the version before, and one with an older format."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from ds_gateway.journal import rows
from faults.plant import Device, settings
from harness.audit import Findings, StreamReader, check_positions, telemetry
from harness.gateway_process import GatewayProcess, total
from harness.mosquitto import Mosquitto
from harness.peers import REPOSITORY, _unavailable
from harness.publisher import Publisher
from harness.stream_server import StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from harness.processes import Processes

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

DEVICE: Final = Device("a", "1", steady=False)
BURST: Final = 60


def git(*arguments: str) -> str:
    ran = subprocess.run(
        ["git", "-C", REPOSITORY, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if ran.returncode:
        _unavailable(f"the history that older versions are taken from is not here: {ran.stderr.strip()}")
    return ran.stdout.strip()


def the_one_before() -> str:
    """The newest release that is not this version; where there is none, the commit before."""
    releases = git("tag", "--list", "v*", "--merged", "HEAD~1", "--sort=-version:refname").split()
    return releases[0] if releases else git("rev-parse", "HEAD~1")


def the_last_with_an_older_format() -> str:
    """The commit before the one that knew the format first that every start writes now."""
    known = f"-G^FORMAT: Final = {rows.PLAIN_FORMAT}$"
    *_, first = git("log", known, "--format=%H", "--", "src/ds_gateway/journal/rows.py").split()
    return git("rev-parse", f"{first}^")


def extract(commit: str, folder: Path) -> None:
    """The source of an older version, and the libraries that it needs and this one does not."""
    archive = subprocess.run(
        ["git", "-C", REPOSITORY, "archive", commit, "src", "requirements-dev.txt"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive.stdout, check=True, timeout=60)
    then, now = (
        {
            line.partition("==")[0]: line
            for line in (where / "requirements-dev.txt").read_text().splitlines()
            if "==" in line
        }
        for where in (folder, REPOSITORY)
    )
    missing = [then[name] for name in then.keys() - now.keys()]
    if missing:
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder / "libraries",
        ]
        subprocess.run([*pip, *missing], check=True, timeout=200)


class Site:
    """A broker, a stream server that can be away, and one data folder that several versions take turns with."""

    def __init__(self, processes: Processes, folder: Path, commit: str) -> None:
        source = folder / "older"
        source.mkdir()
        extract(commit, source)
        self.server = StreamServer(processes, folder / "streams")
        self.broker = Mosquitto(folder / "mosquitto", max_queued_messages=0)
        self.sent: list[Any] = []
        self._stack = ExitStack()
        configuration = settings(self.server.base_url, self.broker.url)
        first = [str(source / "src"), str(source / "libraries")]
        start = f"import sys; sys.path[:0] = {first}; from ds_gateway.cli import main; main()"
        self.new = GatewayProcess(processes, folder / "box", configuration)
        self.old = GatewayProcess(
            processes, folder / "older", configuration, program=(sys.executable, "-c", start, "run")
        )
        self.old.data_dir = self.new.data_dir
        # Each has a file without the keys that it does not know.
        known: dict[str, Any] = {"data_dir": str(self.new.data_dir), **configuration}
        if (source / "src" / "ds_gateway" / "timekeeping.py").is_file():
            known["gateway"] = {"clock": "trusted", **configuration["gateway"]}
        if (source / "src" / "ds_gateway" / "health").is_dir():
            known |= {"status": {"listen": "off"}, "health": {"enabled": False}}
        self.old.config.write_text(json.dumps(known))

    def __enter__(self) -> Self:
        self._stack.enter_context(self.broker)
        self._publisher = self._stack.enter_context(Publisher(self.broker.port))
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def publish(self) -> None:
        """Some more messages, which the broker has confirmed."""
        numbers = range(len(self.sent), len(self.sent) + BURST)
        self._publisher.publish([(DEVICE.topic, DEVICE.payload(number)) for number in numbers])
        self.sent += [{"n": number} for number in numbers]

    def begin(self) -> None:
        """The older version sends some, then the server goes away, with a batch under way."""
        self.old.start()
        self.old.wait_connected()
        wait_until(lambda: "SUBACK" in self.broker.log, what="the broker keeps what it misses")
        self.publish()
        self.old.wait_delivered(BURST)
        self.server.kill()
        self.publish()
        self.old.wait_accepted(2 * BURST)
        self.old.kill()

    def turn(self, gateway: GatewayProcess) -> None:
        """One version takes over, takes some, and leaves a larger backlog behind."""
        gateway.start()
        gateway.wait_connected()
        self.publish()
        status = gateway.wait_accepted(len(self.sent))
        assert total(status, "in_journal") == len(self.sent) - BURST
        gateway.kill()

    def finish(self) -> None:
        """The server is back: everything is there, once and in order."""
        self.new.start()
        self.new.wait_connected()
        self.publish()
        self.server.start()
        self.new.wait_delivered(len(self.sent))
        assert self.new.terminate() == 0
        records = StreamReader(f"{self.server.base_url}/telemetry/line-7/a").read()
        assert telemetry(records) == self.sent
        findings = Findings()
        check_positions(records, findings)
        assert findings.problems == ""

    def rows(self) -> list[tuple[str, bytes]]:
        """What is in the journal, read from a copy: whoever opens a database tidies its files up."""
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(self.new.data_dir / "journal", Path(folder) / "journal")
            with closing(sqlite3.connect(copy / "cache.db")) as database:
                return database.execute("SELECT key, value FROM Cache ORDER BY key").fetchall()


def test_upgraded_rolled_back_and_upgraded_again(processes: Processes, tmp_path: Path) -> None:
    with Site(processes, tmp_path, the_one_before()) as site:
        site.begin()
        for gateway in (site.new, site.old, site.new, site.old):
            site.turn(gateway)
        site.finish()


def test_from_an_older_format_there_is_no_way_back_and_it_says_so(processes: Processes, tmp_path: Path) -> None:
    with Site(processes, tmp_path, the_last_with_an_older_format()) as site:
        site.begin()
        site.turn(site.new)
        # Opened once by whoever may write, the log of the database is folded into it.
        before = site.rows()
        site.old.start()
        assert site.old.child.wait() == 1
        assert "this program knows formats up to" in site.old.child.output
        assert "run the version that wrote it, or a newer one" in site.old.child.output
        assert site.rows() == before, "nothing was changed"
        site.turn(site.new)
        site.finish()
