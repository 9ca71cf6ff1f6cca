"""``durable-streams`` inside this process, faster than a new one, and as a process with pipes."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from durable_streams import cli
from harness.processes import console_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: object
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[Any]:
        """The lines of standard output, each as JSON."""
        return [orjson.loads(line) for line in self.stdout.splitlines()]

    @property
    def offset(self) -> str:
        """The offset that was printed by a command that ended well."""
        assert self.code == 0, self.stderr
        assert self.stdout.count(b"\n") == 1
        return self.stdout.decode().strip()


class StreamCommand:
    """Runs ``durable-streams`` with arguments, and with bytes as its standard input."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], folder: Path
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capfdbinary = capfdbinary
        self._folder = folder

    def __call__(self, *arguments: object, stdin: bytes = b"") -> Ended:
        """Run it to its end."""
        self._monkeypatch.setattr(sys, "argv", ["durable-streams", *map(str, arguments)])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        stdout, stderr = self._capfdbinary.readouterr()
        return Ended(ended.value.code or 0, stdout, stderr.decode())

    def during(self, meanwhile: Callable[[Path], None], end: Callable[[], None], *arguments: object) -> Ended:
        """Run it with a file for its standard output, and meanwhile do something that looks at this file.

        ``end`` lets the command end, whatever became of that.
        """
        path = self._folder / "output"

        def accompany() -> None:
            try:
                meanwhile(path)
            finally:
                end()

        with path.open("w") as output, self._monkeypatch.context() as patched, ThreadPoolExecutor(1) as pool:
            patched.setattr(sys, "stdout", output)
            accompanied = pool.submit(accompany)
            ended = self(*arguments)
        accompanied.result()
        assert ended.stdout == b""
        return replace(ended, stdout=path.read_bytes())


@contextmanager
def piped(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """``durable-streams`` as a process, with pipes for input and outputs; killed at the end."""
    argv = [str(console_script("durable-streams")), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()
