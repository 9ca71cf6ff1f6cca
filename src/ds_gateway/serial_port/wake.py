"""Ending a wait in `select.poll` from another thread."""

from __future__ import annotations

import contextlib
import os
import select


class Wake:
    """A pipe. However often it is set before it is cleared, nobody waits."""

    def __init__(self) -> None:
        self.descriptor, self._write_end = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write_end, False)

    def set(self) -> None:
        """End the wait, or the next one. Any thread; does nothing after `close`."""
        # A pipe that is full has been set.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    def clear(self) -> None:
        """Forget that it was set. What it was set for is looked at afterwards."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def wait(self, seconds: float) -> bool:
        """Whether it was set within that time."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Give the pipe back; nobody may wait any more."""
        os.close(self.descriptor)
        os.close(self._write_end)
