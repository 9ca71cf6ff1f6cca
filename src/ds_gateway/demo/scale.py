"""A simulated scale on a pseudo-terminal: one numbered line a reading, ``S S   12.345 kg #17``.

It has what a line with hardware handshake has: it sends only while somebody has the port open, and it can be told
to hold its line. A reading counts as sent when all of its bytes are in the terminal's buffer.

The line ``T`` tares it: it answers ``T OK   12.345 kg``, and shows what came upon it since. It does so at any
time, also while it holds its line, and counts how often; what it does not understand it ignores, as scales do.
"""

from __future__ import annotations

import contextlib
import math
import os
import pty
import select
import threading
import tty
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_TURN_SECONDS: Final = 0.05
_READ_BYTES: Final = 4096
_MAX_LINE_BYTES: Final = 100


def reading(number: int) -> float:
    """What lies on the scale, in kg: filled and emptied in waves."""
    return round(12.5 + 12.0 * math.sin(number / 15), 3)


class Scale:
    """Sends from a thread of its own between `release` and `hold`. ``path`` is a link to its terminal."""

    def __init__(self, path: Path, interval_seconds: float) -> None:
        self.path = path
        self.sent = 0
        self.tares = 0
        """How often it was tared."""
        self._interval_seconds = interval_seconds
        self._master = -1
        self._may_send = threading.Event()
        self._holding = threading.Event()
        self._stopping = threading.Event()
        self._at_boundary = False
        self._tare_kg = 0.0
        self._heard = b""
        """The beginning of a line that somebody writes to it."""
        self._thread = threading.Thread(target=self._run, name="demo-scale", daemon=True)

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        tty.setraw(slave)  # neither echo nor line editing, and it outlives the closing of this side
        self.path.symlink_to(os.ttyname(slave))
        os.close(slave)
        os.set_blocking(self._master, False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._may_send.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)
        os.close(self._master)

    @property
    def holds(self) -> bool:
        """Whether it holds its line: what it ever sent is in ``sent``."""
        return self._holding.is_set()

    def hold(self) -> None:
        """Begin no other reading; `holds` tells when the line is quiet."""
        self._may_send.clear()

    def release(self) -> None:
        """Send again. The port was opened meanwhile, perhaps, so the line is brought to a boundary first.

        Only while it `holds`.
        """
        # Whoever opens a port cannot know whether what comes first is the rest of a line, and throws it away.
        self._at_boundary = False
        self._holding.clear()
        self._may_send.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._may_send.is_set():
                self._holding.set()
                while not self._may_send.wait(_TURN_SECONDS):
                    self._obey()
                continue
            self._obey()
            if self._send_next():
                self.sent += 1
            # An event that is set would end the wait at once; only the end of the demo is in a hurry.
            self._stopping.wait(self._interval_seconds)
        self._holding.set()

    def _send_next(self) -> bool:
        """Whether the next reading was sent; not while nobody has the port open."""
        if not self._at_boundary:
            self._at_boundary = self._write(b"\r\n")
        number = self.sent + 1
        return self._at_boundary and self._write(
            b"S S %8.3f kg #%d\r\n" % (reading(number) - self._tare_kg, number)
        )

    def _obey(self) -> None:
        """Do what was written to it meanwhile."""
        with contextlib.suppress(OSError):  # nothing is there, or nobody has the port open
            self._heard += os.read(self._master, _READ_BYTES)
        *lines, rest = self._heard.split(b"\r\n")
        self._heard = rest[-_MAX_LINE_BYTES:]
        for line in lines:
            if line == b"T":
                self.tares += 1
                self._tare_kg = reading(self.sent)
                self._write(b"T OK %8.3f kg\r\n" % self._tare_kg)

    def _write(self, line: bytes) -> bool:
        """Whether the line was written; all of it, if it was begun."""
        rest = line
        while self._port_is_open() or rest != line:
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._master, rest) :]
            if not rest:
                return True
            if self._stopping.is_set():
                return False
            self._stopping.wait(_TURN_SECONDS)
        return False

    def _port_is_open(self) -> bool:
        poll = select.poll()
        poll.register(self._master, 0)  # a hang-up is told unasked
        return not poll.poll(0)
