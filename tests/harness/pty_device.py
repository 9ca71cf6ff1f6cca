"""A simulated serial device on a pseudo-terminal, behind a path that stays the same when it is replugged."""

from __future__ import annotations

import os
import pty
import tty
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


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
        if self._master is None:
            raise RuntimeError("the device is not plugged in")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._master, rest) :]
