"""The servers of a run, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from clients.processes import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

_BENCHMARKS = REPOSITORY / "benchmarks"
_REFERENCE = REPOSITORY / "tests" / "peers" / "reference-server"

BARE = "bare socket server, keeps no rules"
OUR_MEMORY, THEIR_MEMORY = "ours, in memory", "reference, in memory"
OUR_FILES, THEIR_FILES = "ours, SQLite", "reference, files"


class Server:
    """One server; it ends with its standard input at the latest."""

    def __init__(self, argv: Sequence[str | Path], cwd: Path) -> None:
        self._process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._announced()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def _announced(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("http"):
                return line.strip()
            if line.startswith('{"url"'):
                url: str = json.loads(line)["url"]
                return url
        raise SystemExit(f"{self._process.args!r} did not start: `make bench` sets up what it needs")


def commands(data: Path) -> dict[str, tuple[list[str | Path], Path]]:
    """How each server is started, and where."""
    node: list[str | Path] = ["node", "serve.mjs", "--long-poll-timeout-ms=30000"]
    ours: list[str | Path] = [
        sys.executable,
        "-m",
        "durable_streams",
        "serve",
        "--port",
        "0",
        "--data",
        data / "ours",
    ]
    (data / "theirs").mkdir()
    return {
        BARE: ([sys.executable, "-m", "servers.bare_server"], _BENCHMARKS),
        THEIR_MEMORY: (node, _REFERENCE),
        OUR_MEMORY: ([sys.executable, "-m", "servers.memory_server"], _BENCHMARKS),
        THEIR_FILES: ([*node, f"--data={data / 'theirs'}"], _REFERENCE),
        OUR_FILES: (ours, _BENCHMARKS),
    }
