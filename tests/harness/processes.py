"""Child processes that end with the test: own process group, output in a file, waits with deadlines."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from harness.zygote import Forked, Zygote

_OUTPUT_SHOWN_CHARACTERS = 4000


def console_script(name: str) -> Path:
    """The command as installed beside the running interpreter: ``ds-gateway``, ``durable-streams``."""
    return Path(sys.executable).with_name(name)


class ChildProcess:
    """One running program and everything it starts: they share a process group, so that a kill reaches all.

    Standard output and error go to ``output_path``. Standard input is a pipe that stays open as long as this
    object holds it: programs that end at its end do not outlive a killed test run.
    """

    def __init__(self, name: str, popen: subprocess.Popen[bytes] | Forked, output_path: Path) -> None:
        self.name = name
        self.output_path = output_path
        self._popen = popen

    @property
    def pid(self) -> int:
        """Process id, and process group id."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether the program itself (not its children) has not ended yet."""
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """Everything printed so far, on standard output and error."""
        return self.output_path.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the program alone, as `systemctl kill --kill-whom=main` would."""
        self._popen.send_signal(number)

    def wait(self, *, timeout_seconds: float = 20.0) -> int:
        """The exit status (negative: minus the signal) once the program has ended by itself."""
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_seconds} s\n{self._shown()}") from None

    def wait_for_output(self, pattern: str, *, timeout_seconds: float = 20.0) -> re.Match[str]:
        """The first match of the pattern in the output; fails at once when the program ends without it."""
        compiled = re.compile(pattern, re.MULTILINE)

        def ended_or_matched() -> bool:
            return not self.is_running or compiled.search(self.output) is not None

        with contextlib.suppress(AssertionError):
            wait_until(ended_or_matched, timeout_seconds=timeout_seconds, what=f"{self.name} prints {pattern!r}")
        match = compiled.search(self.output)
        if match is None:
            state = "runs" if self.is_running else f"ended with {self._popen.returncode}"
            raise AssertionError(f"{self.name} {state} and has not printed {pattern!r}\n{self._shown()}")
        return match

    def terminate(self, *, timeout_seconds: float = 20.0) -> int:
        """Ask it to end (SIGTERM) and return its exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout_seconds=timeout_seconds)

    def kill(self) -> None:
        """Kill the whole group with SIGKILL, now, and reap the program. Harmless when it has ended."""
        # A group id stays reserved while the unreaped leader or any member exists. A leader already reaped
        # may have left children; without any, the group is gone and this finds nobody.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(timeout=20.0)
        if self._popen.stdin is not None:
            # Nothing is ever written, so closing has nothing to flush into the dead process.
            self._popen.stdin.close()

    def _shown(self) -> str:
        return f"--- {self.output_path}, its end:\n{self.output[-_OUTPUT_SHOWN_CHARACTERS:]}"


class Processes:
    """The child processes of one test; leaving the context kills them all.

    With a ``zygote`` the project's own programs are forked instead of executed, which is the same a second faster.
    """

    def __init__(self, folder: Path, zygote: Zygote | None = None, *, last_log_only: bool = False) -> None:
        """``last_log_only``: each start overwrites the output of the last one of the same name."""
        self._folder = folder
        self._zygote = zygote
        self._last_log_only = last_log_only
        self._started: list[ChildProcess] = []

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> ChildProcess:
        """Start a program. ``env`` is added to this process's environment."""
        name = name or Path(argv[0]).name
        output_path = self._folder / f"{name}-{'last' if self._last_log_only else len(self._started)}.log"
        words = [str(argument) for argument in argv]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        popen: subprocess.Popen[bytes] | Forked
        with output_path.open("wb") as output:
            if self._zygote is not None and self._zygote.can_start(words, environ):
                popen = self._zygote.start(
                    words, env=environ, cwd=cwd, stdin=None, stdout=output.fileno(), stderr=output.fileno()
                )
            else:
                popen = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    cwd=cwd,
                    start_new_session=True,
                )
        child = ChildProcess(name, popen, output_path)
        self._started.append(child)
        return child

    def run(
        self, argv: Sequence[str | Path], *, timeout_seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program without input to its end, and return what it printed; its status is not judged."""
        words = [str(argument) for argument in argv]
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            child = self._run_into(words, output, errors)
            try:
                status = child.wait(timeout_seconds)
            finally:
                child.send_signal(signal.SIGKILL)
                child.wait()
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(words, status, output.read(), errors.read())

    def _run_into(self, words: list[str], output: IO[str], errors: IO[str]) -> subprocess.Popen[bytes] | Forked:
        if self._zygote is not None and self._zygote.can_start(words, os.environ):
            with Path(os.devnull).open() as nothing:
                return self._zygote.start(
                    words,
                    env=os.environ,
                    cwd=None,
                    stdin=nothing.fileno(),
                    stdout=output.fileno(),
                    stderr=errors.fileno(),
                )
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )

    def kill_all(self) -> None:
        """Kill every child, the last started first."""
        while self._started:
            self._started.pop().kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_all()
