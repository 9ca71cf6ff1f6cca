"""The service manager's end of sd_notify."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

STATES: Final = frozenset({"READY", "RELOADING", "STOPPING"})


class Manager:
    """The service manager's end, which reads all the time: its queue is short."""

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while (datagram := self._socket.recv(4096)) != b"":
            self.told.append(datagram.decode())

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
