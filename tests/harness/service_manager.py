"""The service manager's end of sd_notify."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

STATES: Final = frozenset({"READY", "RELOADING", "STOPPING"})


class Manager:
    """The service manager's end, which reads all the time: its queue is short.

    With ``watchdog_seconds`` it watches, as systemd does: from READY=1 on, a WATCHDOG=1 must come within so long
    of the last one, or ``on_starved`` is called, once, in the thread that reads.
    """

    def __init__(
        self,
        path: Path,
        *,
        watchdog_seconds: float | None = None,
        on_starved: Callable[[], None] = lambda: None,
    ) -> None:
        self.told: list[str] = []
        self.has_starved = False
        self._watchdog_seconds = watchdog_seconds
        self._on_starved = on_starved
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        starves_at: float | None = None
        while True:
            self._socket.settimeout(None if starves_at is None else max(0.001, starves_at - time.monotonic()))
            try:
                datagram = self._socket.recv(4096)
            except TimeoutError:
                starves_at, self._watchdog_seconds, self.has_starved = None, None, True
                self._on_starved()
                continue
            if datagram == b"":
                return
            words = datagram.decode().split("\n")
            self.told.append(datagram.decode())
            if self._watchdog_seconds is not None and {"READY=1", "WATCHDOG=1"} & set(words):
                starves_at = time.monotonic() + self._watchdog_seconds

    @property
    def environ(self) -> dict[str, str]:
        """What the service finds in its environment."""
        watchdog = {}
        if self._watchdog_seconds is not None:
            watchdog = {"WATCHDOG_USEC": str(round(self._watchdog_seconds * 1e6))}
        return {"NOTIFY_SOCKET": str(self._socket.getsockname()), **watchdog}

    @property
    def fed(self) -> int:
        """How often the watchdog was fed."""
        return self.told.count("WATCHDOG=1")

    @property
    def states(self) -> list[str]:
        """What is more than a line for people, in order."""
        return [word for each in self.told for word in each.split("\n") if word.split("=")[0] in STATES]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
