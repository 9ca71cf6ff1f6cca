"""A simulated serial device on a pseudo-terminal, behind a path that stays the same when it is replugged."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import termios
import tty
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_RECEIVE_SECONDS: Final = 20.0


class PtyDevice:
    """Plugged in by `plug`, gone after `unplug`; ``path`` is a symbolic link to its current terminal.

    Unplugging closes the master side: the reader sees what it sees when a USB adapter is pulled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._master: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()

    def plug(self) -> None:
        """Appear (with a new terminal) under the stable path. What is sent before the port is open is lost."""
        self.unplug()
        master, slave = pty.openpty()
        # Neither echo nor line editing: a serial line has none. The mode outlives the closing of this side.
        tty.setraw(slave)
        target = os.ttyname(slave)
        os.close(slave)
        link = self.path.with_name(self.path.name + ".new")
        link.symlink_to(target)
        link.replace(self.path)
        self._master = master

    def unplug(self) -> None:
        """Vanish, also in the middle of a frame; does nothing if it is not plugged in."""
        if self._master is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._master)
        self._master = None

    def send(self, data: bytes) -> None:
        """Send all of the bytes; waits while the terminal's buffer is full."""
        master = self._plugged()
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(master, rest) :]

    def is_readable(self) -> bool:
        """Whether something was written to it that it has not received yet."""
        return bool(select.select([self._plugged()], [], [], 0)[0])

    def receive(self, size_bytes: int) -> bytes:
        """The next bytes that were written to it, so many; fails if they do not come."""
        received = bytearray()
        while len(received) < size_bytes:
            received += self._receive(size_bytes - len(received), received)
        return bytes(received)

    def receive_to(self, end: bytes) -> bytes:
        """What was written to it to the first ``end``; fails if that does not come."""
        received = bytearray()
        while not received.endswith(end):
            received += self._receive(1, received)
        return bytes(received)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the line, as a device does by flow control: what is written to it meanwhile does not come."""
        self._plugged()
        line = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            termios.tcflow(line, termios.TCOOFF)
            yield
            termios.tcflow(line, termios.TCOON)
        finally:
            os.close(line)

    def _receive(self, size_bytes: int, so_far: bytearray) -> bytes:
        if not select.select([self._plugged()], [], [], _RECEIVE_SECONDS)[0]:
            raise AssertionError(f"waited in vain for {size_bytes} bytes more than {bytes(so_far[-100:])!r}")
        return os.read(self._plugged(), size_bytes)

    def _plugged(self) -> int:
        if self._master is None:
            raise RuntimeError("the device is not plugged in")
        return self._master
