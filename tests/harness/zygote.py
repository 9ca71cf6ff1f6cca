"""Starts the project's programs in a hundredth of a second: for tests that kill them thousands of times.

Nearly all of a start is importing. A process that has imported everything forks the programs; what they run is the
same, and SIGKILL ends them as it ends any other.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.processes import ChildProcess, Processes

if TYPE_CHECKING:
    import signal
    import subprocess
    from collections.abc import Mapping, Sequence

_TIMEOUT_SECONDS = 30.0
_PROGRAMS = ("ds-gateway", "durable-streams")


class _Forked:
    """A forked program, with what `ChildProcess` needs of a `subprocess.Popen`."""

    stdin = None

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._look(timeout)
        assert status is not None, f"process {self.pid} has not ended after {timeout} s"
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, timeout_seconds: float | None) -> int | None:
        if self.returncode is None:
            self._connection.settimeout(timeout_seconds)
            try:
                line = self._connection.recv(64)
            except (BlockingIOError, TimeoutError):
                return None
            self._connection.close()
            assert line, "the zygote has ended"
            self.returncode = int(line)
        return self.returncode


class ForkingProcesses(Processes):
    """As `Processes`; the project's own programs are forked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._address = folder / "zygote.sock"
        main = Path(__file__).with_name("zygote_main.py")
        zygote = super().start([sys.executable, main, self._address], name="zygote")
        zygote.wait_for_output("^ready$", timeout_seconds=_TIMEOUT_SECONDS)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> ChildProcess:
        """Start a program."""
        if Path(argv[0]).name not in _PROGRAMS:
            return super().start(argv, name=name, env=env, cwd=cwd)
        name = name or Path(argv[0]).name
        # One file for all starts of a program: thousands of files would be no help to anybody.
        output_path = self._folder / f"{name}-forked.log"
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.connect(str(self._address))
        request = json.dumps({"argv": [str(each) for each in argv], "env": dict(env or {})}).encode()
        with output_path.open("wb") as output:
            socket.send_fds(connection, [request], [output.fileno()])
            pid = int(connection.recv(64))
        popen: subprocess.Popen[bytes] = _Forked(pid, connection)  # type: ignore[assignment]
        child = ChildProcess(name, popen, output_path)
        self._started.append(child)
        return child
