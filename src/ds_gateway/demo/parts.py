"""The parts of the demo as child processes, the ports they listen on, and the folder they live in.

None of it survives the demo, not even one that is killed: the kernel kills the children then (`tied`), and a
shell that waits for this process's end of a pipe to close removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ds_gateway.demo import tied
from ds_gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

HOST: Final = "127.0.0.1"
MOSQUITTO_VARIABLE: Final = "DS_GATEWAY_MOSQUITTO"
"""Names the broker's program; ``none`` runs the demo without one."""

# Below the range from which the kernel takes ports for outgoing connections: a server that is away for a while
# finds its port free again.
_FIRST_PORT: Final = 20_000
_LAST_PORT: Final = 32_000
_PORT_ATTEMPTS: Final = 200
_CONNECT_SECONDS: Final = 1.0
_REAP_SECONDS: Final = 10.0
_LOG_SHOWN_CHARACTERS: Final = 1500
# Where Debian keeps daemons; a normal user's PATH lacks it.
_DAEMON_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
# What a service manager or a shell set up for a gateway of their own.
_FOREIGN_VARIABLES: Final = frozenset(
    {
        "CREDENTIALS_DIRECTORY",
        "NOTIFY_SOCKET",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)
_JANITOR: Final = """\
read -r word
[ "$word" = keep ] && exit 0
tries=0
while [ -e "$1" ] && [ $tries -lt 50 ]; do rm -rf -- "$1" 2>/dev/null || sleep 0.1; tries=$((tries + 1)); done
"""


class DemoError(GatewayError):
    """The demo cannot go on; the text says why."""


def find_mosquitto(environ: Mapping[str, str]) -> Path | None:
    """The broker's program, or None. Raises `ValueError` where the variable names a program that is none."""
    named = environ.get(MOSQUITTO_VARIABLE, "")
    if named == "none":
        return None
    folders = os.pathsep.join((environ.get("PATH", os.defpath), *_DAEMON_FOLDERS))
    found = shutil.which(named or "mosquitto", path=folders)
    if found is None and named:
        raise ValueError(f"{MOSQUITTO_VARIABLE}={named} is no program: name mosquitto's, or `none`")
    return None if found is None else Path(found).absolute()


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The children's environment: without settings that are meant for another gateway."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _FOREIGN_VARIABLES and not name.startswith("DS_GATEWAY__")
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def python_module(name: str) -> tuple[str, ...]:
    """The beginning of a command line that runs a module of this installation, whatever the working directory."""
    return (sys.executable, "-P", "-m", name)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now. Raises `DemoError`."""
    source = random.SystemRandom()
    for _ in range(_PORT_ATTEMPTS):
        port = source.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise DemoError(f"no free port between {_FIRST_PORT} and {_LAST_PORT} on {HOST}")


def accepts(port: int) -> bool:
    """Whether somebody listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


class Folder:
    """A temporary folder, removed when the context ends; by a shell when this process does not live to do it."""

    def __init__(self) -> None:
        self.path = Path()
        self._kept = False
        self._janitor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.path = Path(tempfile.mkdtemp(prefix="ds-gateway-demo-"))
        self._janitor = subprocess.Popen(  # noqa: S603 - a constant script
            ("/bin/sh", "-c", _JANITOR, "janitor", str(self.path)), stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._janitor is not None:
            self._janitor.communicate(b"keep\n" if self._kept else None)

    def keep(self) -> Path:
        """Leave it, for somebody to look into."""
        self._kept = True
        return self.path


class Part:
    """One program, started and ended any number of times. Its output goes to ``log_path``.

    Leaving the context kills it. `start` is called by the thread that lives as long as the demo: the kernel
    takes the end of that thread for the end of the parent.
    """

    def __init__(self, name: str, argv: Sequence[str], log_path: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self._argv = tuple(argv)
        self._log_path = log_path
        self._environ = environ
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen is not None:
            self.kill()

    def start(self) -> None:
        """Start it. It has a session of its own, so that Ctrl-C reaches the demo alone."""
        launcher = (sys.executable, "-I", "-S", tied.__file__, str(os.getpid()))
        with self._log_path.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603 - the demo's own parts
                (*launcher, *self._argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log_path.parent,
                env=self._environ,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the last start; 0 before."""
        return 0 if self._popen is None else self._popen.pid

    @property
    def status(self) -> int | None:
        """Exit status (negative: minus the signal), None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def kill(self) -> None:
        """``kill -9``, and return when it is gone. Harmless when it has ended."""
        self._signal(signal.SIGKILL, _REAP_SECONDS)

    def terminate(self, timeout_seconds: float) -> int:
        """SIGTERM, and its exit status. Raises `DemoError` when it has not ended in time."""
        return self._signal(signal.SIGTERM, timeout_seconds)

    def _signal(self, number: signal.Signals, timeout_seconds: float) -> int:
        assert self._popen is not None, f"{self.name} was started"
        self._popen.send_signal(number)
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(
                f"{self.name} still runs {timeout_seconds:g} s after {number.name}\n{self.last_words()}"
            ) from None

    def last_words(self) -> str:
        """The end of its output."""
        try:
            text = self._log_path.read_text(errors="replace")
        except OSError:
            text = ""
        return f"--- the end of {self._log_path.name}:\n{text[-_LOG_SHOWN_CHARACTERS:]}"
