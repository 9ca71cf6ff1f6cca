"""The adapter as a process: one command, one result, each within a deadline."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COMMAND_SECONDS: Final = 20.0
"""How long a command may take beyond what it asks for itself; the longest retries need some seconds."""

Result = dict[str, Any]


class AdapterError(AssertionError):
    """The adapter does not keep to the line protocol: silent, gone, or not speaking JSON."""


class AdapterProcess:
    """An adapter behind pipes. One that was killed is started again by `ensure_running`."""

    def __init__(self, argv: Sequence[str], server_url: str, errors: Path) -> None:
        self._argv = argv
        self._server_url = server_url
        self._errors = errors
        self._popen: subprocess.Popen[bytes] | None = None
        self._received = b""
        self.busy = False
        """Whether a command's result is still to come."""
        self.introduction: Result = {}
        """Its answer to `init`."""

    @classmethod
    def of_front(cls, front: str, server_url: str, folder: Path) -> AdapterProcess:
        """This project's adapter, with one of its fronts."""
        argv = [sys.executable, "-m", "conformance.adapter", front]
        return cls(argv, server_url, folder / f"adapter-{front}.log")

    def ensure_running(self) -> None:
        """Start it, if it does not run."""
        if self._popen is not None and self._popen.poll() is None:
            return
        self.kill()
        with self._errors.open("ab") as errors:
            self._popen = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")},
            )
        self._received = b""
        self.introduction = self.call({"type": "init", "serverUrl": self._server_url})

    def call(self, command: Mapping[str, Any], *, timeout_seconds: float = COMMAND_SECONDS) -> Result:
        """Send a command and wait for its result."""
        self.send(command)
        return self.receive(timeout_seconds=timeout_seconds)

    def send(self, command: Mapping[str, Any]) -> None:
        """Send a command whose result is fetched later; until then the adapter takes no other."""
        if self.busy:
            raise AdapterError(f"{command['type']}: the adapter is still busy with an earlier command")
        assert self._popen is not None, "started by `ensure_running`"
        assert self._popen.stdin is not None, "started with a pipe"
        self.busy = True
        try:
            self._popen.stdin.write(json.dumps(command).encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise AdapterError(f"the adapter has ended before {command['type']}\n{self._said()}") from None

    def receive(self, *, timeout_seconds: float = COMMAND_SECONDS) -> Result:
        """The result of the command that was sent. An adapter that has none in time is killed."""
        line = self._line(time.monotonic() + timeout_seconds)
        self.busy = False
        try:
            result = json.loads(line)
        except ValueError:
            raise AdapterError(f"the adapter answered with {line!r}, which is not JSON") from None
        if not isinstance(result, dict) or not isinstance(result.get("success"), bool):
            raise AdapterError(f"the adapter's result has no `success`: {line!r}")
        return result

    def kill(self) -> None:
        """End it at once."""
        popen, self._popen, self.busy = self._popen, None, False
        if popen is None:
            return
        popen.kill()
        popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            assert pipe is not None, "started with pipes"
            pipe.close()

    def _line(self, deadline: float) -> bytes:
        assert self._popen is not None, "started by `ensure_running`"
        assert self._popen.stdout is not None, "started with a pipe"
        descriptor = self._popen.stdout.fileno()
        while b"\n" not in self._received:
            readable, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            if not readable:
                self.kill()
                raise AdapterError(f"the adapter gave no result in time and was killed\n{self._said()}")
            read = os.read(descriptor, 65536)
            if not read:
                self.kill()
                raise AdapterError(f"the adapter has ended without a result\n{self._said()}")
            self._received += read
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _said(self) -> str:
        return f"its standard error ends:\n{self._errors.read_text(errors='replace')[-2000:]}"
