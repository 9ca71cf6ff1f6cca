"""Starts the project's programs in a hundredth of a second.

Nearly all of a start is importing. A process that has imported everything forks the programs; what they run is the
same, and a signal ends them as it ends any other. Whatever an interpreter looks at when it is started is as in the
process that forks: `Zygote.can_start` says of which programs that is true.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_TIMEOUT_SECONDS: Final = 60.0
_TESTS: Final = Path(__file__).parent.parent
_SCRIPTS: Final = ("ds-gateway", "durable-streams")
_MODULES: Final = ("faults.crashing_gateway",)
# What the interpreter, the loader and the C library read once. PYTHONUNBUFFERED is set for all.
_READ_AT_THE_START: Final = re.compile(r"(PYTHON(?!UNBUFFERED|PATH$)|LD_|LC_|LANG|TZ|MALLOC_|GLIBC_|OPENSSL_)")


class Forked:
    """A forked program, with what is needed of a `subprocess.Popen`. ``stdin`` is the pipe to it, if any."""

    def __init__(self, reply: socket.socket, log: Path, stdin: IO[bytes] | None) -> None:
        self.stdin = stdin
        self.returncode: int | None = None
        self._reply = reply
        self._log = log
        reply.settimeout(_TIMEOUT_SECONDS)
        self.pid = self._receive()

    def poll(self) -> int | None:
        """The exit status if it has ended."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status when it has ended; raises what `subprocess.Popen.wait` does."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, sig: int) -> None:
        """Signal it unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _look(self, timeout_seconds: float | None) -> int | None:
        if self.returncode is None:
            self._reply.settimeout(timeout_seconds)
            try:
                self.returncode = self._receive()
            except (BlockingIOError, TimeoutError):
                return None
            self._reply.close()
        return self.returncode

    def _receive(self) -> int:
        number = b""
        while not number.endswith(b"\n"):
            more = self._reply.recv(1)
            assert more, f"the process that forks has ended\n{self._log.read_text()}"
            number += more
        return int(number)


class Zygote:
    """The process that has imported everything. Leaving the context ends it, not what it has forked."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "zygote.log"
        self._environ = _with_path(os.environ)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._log.open("wb") as log:
            # -P: no program finds the modules of a folder because this one lies there.
            self._popen = subprocess.Popen(
                [sys.executable, "-P", _TESTS / "harness" / "zygote_main.py", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environ, "PYTHONUNBUFFERED": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def can_start(self, argv: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether this is one of the programs, started as this process was started."""
        return (
            _program(argv) is not None
            and _read_at_the_start(env) == _read_at_the_start(self._environ)
            and _with_path(env)["PYTHONPATH"] == self._environ["PYTHONPATH"]
        )

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        stdin: int | None,
        stdout: int,
        stderr: int,
    ) -> Forked:
        """Start one of the programs, in a session of its own. ``stdin`` None: a pipe, which `Forked` holds."""
        program = _program(argv)
        assert program is not None
        asked = {**asdict(program), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        held: IO[bytes] | None = None
        if stdin is None:
            read_end, write_end = os.pipe()
            held = os.fdopen(write_end, "wb", buffering=0)
        else:
            read_end = os.dup(stdin)
        reply, theirs = socket.socketpair()
        with theirs, os.fdopen(read_end):
            descriptors = [read_end, stdout, stderr, theirs.fileno()]
            socket.send_fds(self._control, [json.dumps(asked).encode()], descriptors)
        return Forked(reply, self._log, held)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._popen.wait(_TIMEOUT_SECONDS)


@dataclass(frozen=True)
class _Program:
    name: str
    argv: Sequence[str]
    """What it finds in `sys.argv`."""
    orig_argv: Sequence[str]
    """What an interpreter executes that runs it."""


def _program(argv: Sequence[str]) -> _Program | None:
    if argv[0] == sys.executable and argv[1] == "-m" and argv[2] in _MODULES:
        return _Program(argv[2], argv[2:], argv)
    script = Path(argv[0])
    if script.parent == Path(sys.executable).parent and script.name in _SCRIPTS:
        return _Program(script.name, argv, [sys.executable, *argv])
    return None


def _with_path(env: Mapping[str, str]) -> dict[str, str]:
    """With the tests among what can be imported, as it is for pytest itself and for programs that crash."""
    folders = [each for each in env.get("PYTHONPATH", "").split(os.pathsep) if each and each != str(_TESTS)]
    return {**env, "PYTHONPATH": os.pathsep.join([*folders, str(_TESTS)])}


def _read_at_the_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if _READ_AT_THE_START.match(name)}
