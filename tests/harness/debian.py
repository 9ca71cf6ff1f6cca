"""A Debian 12 that is booted, with its own systemd, in a container: needs root, debootstrap and systemd-nspawn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.peers import REPOSITORY, _unavailable, require_tool
from harness.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

_CACHE = REPOSITORY / ".cache" / "debian"
_BASE = _CACHE / "bookworm"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def require_base() -> Path:
    """The folder of a Debian that nobody has booted, made the first time it is needed."""
    if os.geteuid() != 0:
        _unavailable("booting a Debian needs root: systemd-nspawn mounts and makes namespaces")
    for tool in ("debootstrap", "systemd-nspawn"):
        require_tool(tool)  # Debian's packages debootstrap and systemd-container
    made = subprocess.run(
        [REPOSITORY / "tools" / "setup-debian", _BASE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1200,
    )
    assert made.returncode == 0, made.stdout[-4000:]
    return _BASE


class Debian:
    """One machine, a copy of the base. It shares the network with the tests, and nothing else."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._leader = 0

    def __enter__(self) -> Self:
        base = require_base()
        # Not with the other files of a test: pytest keeps those of the last runs.
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(dir=_CACHE, prefix="running-"))
        self._root = Path(folder) / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", base, self._root], check=True, timeout=120)
        self._console = self._stack.enter_context((Path(folder) / "console").open("wb"))
        self._nspawn = subprocess.Popen(
            [
                # It ends with the tests, however they end, and all that runs there ends with it.
                *(require_tool("setpriv"), "--pdeathsig", "KILL"),
                *(require_tool("systemd-nspawn"), "--quiet", "--directory", self._root, "--boot"),
                # Neither a systemd of this machine nor its D-Bus are needed.
                *("--register=no", "--keep-unit"),
                # Without it nspawn itself refuses whoever asks for the clock.
                "--capability=CAP_SYS_TIME",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._stack.callback(self._end)
        try:
            wait_until(self._is_up, timeout_seconds=90, what="Debian is up")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, *argv: str, check: bool = True, timeout_seconds: float = 120.0, **environ: str) -> str:
        """What a command prints there, run as root; an AssertionError if it fails."""
        ran = self._run(*argv, timeout_seconds=timeout_seconds, **environ)
        assert ran.returncode == 0 or not check, f"{' '.join(argv)}: {ran.returncode}\n{ran.stdout}"
        return ran.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def path(self, path: str) -> Path:
        """A file there, as it is called here; with what is mounted there."""
        return Path(f"/proc/{self._leader}/root") / path.lstrip("/")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def log(self, unit: str) -> str:
        """What a unit, and systemd about it, has logged."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def pid_here(self, pid: int) -> int:
        """What a process of that machine is called on this one."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                names = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:"))
            except (OSError, StopIteration):
                continue
            inner = names.split()[1:]
            is_there = len(inner) > 1 and inner[-1] == str(pid)
            if is_there and _namespace(int(inner[0])) == _namespace(self._leader):
                return int(inner[0])
        raise AssertionError(f"there is no process {pid} on that machine")

    def _run(self, *argv: str, timeout_seconds: float = 60.0, **environ: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
            **environ,
        }
        return subprocess.run(
            [
                *(require_tool("nsenter"), "--target", str(self._leader), "--all", "--"),
                *("env", "-i", "-C", "/", *(f"{name}={value}" for name, value in variables.items()), *argv),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_seconds,
        )

    def _is_up(self) -> bool:
        assert self._nspawn.poll() is None, Path(self._console.name).read_text(errors="replace")[-4000:]
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        state = self._run("systemctl", "is-system-running").stdout.strip()
        return state in {"running", "degraded"}

    def _end(self) -> None:
        # SIGTERM would ask its systemd for an orderly end, which nobody looks at.
        os.killpg(self._nspawn.pid, signal.SIGKILL)
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)  # with it, all that runs there
        self._nspawn.wait(timeout=60)
        shutil.rmtree(self._root, ignore_errors=True)


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""
