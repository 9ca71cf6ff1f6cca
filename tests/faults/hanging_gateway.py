"""A gateway of which one part hangs or dies at SIGUSR1: ``python -m faults.hanging_gateway --config F --part P``.

| part              | what becomes of it                                                                        |
|-------------------|-------------------------------------------------------------------------------------------|
| ``loop``          | the event loop waits for a lock that nobody gives back                                    |
| ``commit``        | the next commit does not come to its end, as on a disk that answers no more               |
| a thread's name   | the thread ends without a word: ``mqtt-hall``, ``serial-scale``                           |

The rest of the gateway is an ordinary one, and so is how it is told to the service manager.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import threading
from pathlib import Path

from ds_gateway import logs
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.gateway import Gateway
from ds_gateway.notify import Notifier


class Defect:
    """Comes into effect at SIGUSR1."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._lock = threading.Lock()
        self._has_come = False

    def come(self) -> None:
        """The signal is here. On the event loop."""
        self._has_come = True
        if self._part == "loop":
            self.wait_for_ever()
        elif self._part != "commit":
            self.end_thread()

    def at_commit(self, _when: str, _parts: frozenset[str]) -> None:
        """Before and after each commit, in the journal's thread."""
        if self._has_come and self._part == "commit":
            self.wait_for_ever()

    def wait_for_ever(self) -> None:
        """Deadlock."""
        with self._lock:
            self._lock.acquire()

    def end_thread(self) -> None:
        """What no supervision of the thread's own catches."""
        found = next(thread for thread in threading.enumerate() if thread.name == self._part)
        assert found.ident is not None
        ended = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(found.ident), ctypes.py_object(SystemExit)
        )
        assert ended == 1


def main() -> int:
    """Run the gateway."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--part", required=True)
    arguments = parser.parse_args()
    loaded = load_configuration(arguments.config)
    logs.setup(loaded.settings.log.level, loaded.settings.log.format)

    async def run() -> int:
        defect = Defect(arguments.part)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, defect.come)
        return await Gateway(loaded, Notifier.from_environ(os.environ), on_point=defect.at_commit).run()

    return asyncio.run(run())


if __name__ == "__main__":
    raise SystemExit(main())
