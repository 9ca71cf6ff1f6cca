"""A pipe that ends another thread's wait."""

from __future__ import annotations

import os
import threading


class Wakeup:
    """`set` from any thread, even after `close`; `clear` and `close` by the thread that waits on `fileno`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._is_set = False

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._read

    def set(self) -> None:
        """End the wait, or the next one. One system call however often it is called before that."""
        with self._lock:
            if not self._is_set and self._write >= 0:
                self._is_set = True
                os.write(self._write, b"\0")

    def clear(self) -> None:
        """Make the next wait wait. Look for what there is to do *after* this call, or a `set` gets lost."""
        with self._lock:
            if self._is_set and self._read >= 0:
                os.read(self._read, 1)
                self._is_set = False

    def close(self) -> None:
        """Close the pipe; harmless when repeated."""
        with self._lock:
            if self._read >= 0:
                os.close(self._read)
                os.close(self._write)
                self._read = self._write = -1
