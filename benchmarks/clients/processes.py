"""The processes of a run: the reference server, and one for each of those who are measured."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clients.messages import JSON, value
from clients.raw_http import RawConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
_BENCHMARKS = REPOSITORY / "benchmarks"
_SERVER = REPOSITORY / "tests" / "peers" / "reference-server"
_LIMIT_SECONDS = 120.0


class TaskError(Exception):
    """A task failed, or did not end."""


class Reference:
    """The protocol's reference server (npm), in memory."""

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None or not (_SERVER / "node_modules").is_dir():
            raise SystemExit("the reference server is not here: `make bench` sets it up (needs node and npm)")
        self._process = subprocess.Popen(
            [node, "serve.mjs", "--long-poll-timeout-ms=30000"],
            cwd=_SERVER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._url: str = json.loads(self._process.stdout.readline())["url"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def new_stream(self) -> str:
        """Create a stream of JSON; return its URL."""
        url = f"{self._url}/v1/stream/{uuid.uuid4()}"
        with RawConnection(url) as connection:
            connection.exchange("PUT", headers={"content-type": JSON}, body=b"")
        return url


def fill(url: str, bodies: list[bytes]) -> None:
    """Append each body."""
    with RawConnection(url) as connection:
        for body in bodies:
            connection.exchange("POST", headers={"content-type": JSON}, body=body)


def check_stored(url: str, messages: int) -> None:
    """Raise `TaskError` unless just the messages are there: nothing that is faster and loses some is compared."""
    with RawConnection(url) as connection:
        stored = json.loads(connection.exchange("GET", "?offset=-1")[1])
    if len(stored) != messages:
        raise TaskError(f"{len(stored):,} of {messages:,} messages stored")
    wrong = [each for number, each in enumerate(stored) if each != value(number)]
    if wrong:
        raise TaskError(
            f"{len(wrong):,} of {messages:,} are not in order, or not what was appended: {wrong[0]!r:.40}"
        )


def delete(url: str) -> None:
    """Delete a stream."""
    with RawConnection(url) as connection:
        connection.exchange("DELETE")


class Worker:
    """The process of one of those who are measured; started by its first task, and anew after one that hung."""

    def __init__(self, module: str, python: Path = Path(sys.executable)) -> None:
        self._module = module
        self._python = python
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process; the next task starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def run(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Do a task and return its result. Raises `TaskError`."""
        self.begin(task, **arguments)
        return self.result()

    def begin(self, task: str, **arguments: Any) -> None:
        """Begin a task that sends lines before its result."""
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
        process.stdin.flush()

    def line(self) -> dict[str, Any]:
        """The next line of a task. Raises `TaskError`."""
        try:
            text = self._lines.get(timeout=_LIMIT_SECONDS)
        except queue.Empty:
            self.end()
            raise TaskError(f"not done after {_LIMIT_SECONDS:.0f} s") from None
        if not text:
            self.end()
            raise TaskError("the process ended")
        line: dict[str, Any] = json.loads(text)
        if "error" in line:
            raise TaskError(line["error"])
        return line

    def result(self) -> dict[str, Any]:
        """The result of the task. Raises `TaskError`."""
        result: dict[str, Any] = self.line()["result"]
        return result

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            # Nothing of this environment may leak into another one.
            environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            self._process = subprocess.Popen(
                [self._python, "-m", self._module],
                cwd=_BENCHMARKS,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self._process.stdout is not None
            self._lines = queue.Queue()
            threading.Thread(target=_collect, args=(self._process.stdout, self._lines), daemon=True).start()
        return self._process


def _collect(lines: Iterator[str], into: queue.Queue[str]) -> None:
    for line in lines:
        into.put(line)
    into.put("")
