"""A commit is on the disk before anybody is told.

kill -9 leaves the page cache alone, so no kill test can show this: here the system calls are watched. Whenever a
source may acknowledge, or a batch may leave, the journal's write-ahead log was synced after the last write to it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faults.committing_journal import ACKNOWLEDGED, HANDED_OUT
from harness import peers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROUNDS = 20
_CALL = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?P<rest>.*)")


@dataclass
class Watcher:
    """Follows a trace."""

    unsynced: int = 0
    """Writes to the write-ahead log since it was synced."""
    written: int = 0
    syncs: int = 0
    told: list[str] = field(default_factory=list)
    told_too_early: list[str] = field(default_factory=list)
    _syncing: set[str] = field(default_factory=set)

    def follow(self, lines: Iterable[str]) -> None:
        for line in lines:
            call = _CALL.match(line)
            if call is not None:
                self._take(call["pid"], call["name"], call["rest"], line)

    def _take(self, pid: str, name: str, rest: str, line: str) -> None:
        starts, ends = not rest.startswith(" resumed"), "<unfinished" not in rest
        if name in {"pwrite64", "write"} and starts:
            if "-wal>" in rest:
                self.unsynced += 1
                self.written += 1
            elif any(word.decode().strip() in rest for word in (ACKNOWLEDGED, HANDED_OUT)):
                self.told.append(line)
                if self.unsynced:
                    self.told_too_early.append(line)
        if name in {"fdatasync", "fsync"}:
            if starts and "-wal>" in rest:
                self._syncing.add(pid)
            if ends and pid in self._syncing:
                self._syncing.remove(pid)
                assert rest.rstrip().endswith("= 0"), line
                self.unsynced = 0
                self.syncs += 1


def test_nobody_is_told_before_the_commit_is_on_the_disk(tmp_path: Path) -> None:
    watcher = Watcher()
    watcher.follow(trace(tmp_path))
    assert watcher.written >= 2 * ROUNDS, "the journal writes a write-ahead log"
    assert len(watcher.told) == 2 * ROUNDS
    assert not watcher.told_too_early
    assert watcher.syncs >= 2 * ROUNDS


def trace(folder: Path) -> list[str]:
    """Run the committing program under strace."""
    output = folder / "trace"
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(peers.REPOSITORY / "tests")]))
    argv: list[str | Path] = [peers.require_tool("strace"), "-f", "-y", "-o", output]
    argv += ["-e", "trace=fdatasync,fsync,write,pwrite64"]
    argv += [sys.executable, "-m", "faults.committing_journal", folder / "data", str(ROUNDS)]
    run = subprocess.run(
        argv,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=60,
        check=False,
    )
    if b"PTRACE" in run.stderr and b"not permitted" in run.stderr:
        peers._unavailable("strace may not trace processes here (ptrace is not permitted)")
    assert run.returncode == 0, run.stderr.decode()
    return output.read_text(errors="replace").splitlines()
