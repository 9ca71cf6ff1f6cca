"""pyserial's own RFC 2217 server, and one of raw bytes, in front of a terminal: another machine's serial port."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

import serial
import serial.rfc2217

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class _Terminal(serial.Serial):  # type: ignore[misc]
    """A pseudo-terminal has no modem lines, which a client sets and asks for."""

    cts = dsr = ri = cd = False

    def _update_dtr_state(self) -> None:
        pass

    def _update_rts_state(self) -> None:
        pass


class PortServer:
    """Serves one connection after the other on ``address``, from `start` to `stop`, which cuts it."""

    def __init__(self, terminal: Path, *, is_rfc2217: bool) -> None:
        self._terminal = terminal
        self._is_rfc2217 = is_rfc2217
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: str = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.line = _Terminal(str(terminal), timeout=0.05)
        self._connection: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self.line.close()

    def cut(self) -> None:
        """End the connection, and take the next."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def write(self, data: bytes) -> None:
        """To the connection. Named so for pyserial's manager."""
        assert self._connection is not None
        self._connection.sendall(data)

    def _spawn(self, target: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, name="port-server")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connection, _ = self._listener.accept()
                with self._connection:
                    self._serve(self._connection)

    def _serve(self, connection: socket.socket) -> None:
        manager = serial.rfc2217.PortManager(self.line, self) if self._is_rfc2217 else None
        is_over = threading.Event()

        def carry() -> None:
            with contextlib.suppress(OSError):
                while not is_over.is_set():
                    data = self.line.read(max(1, self.line.in_waiting))
                    connection.sendall(b"".join(manager.escape(data)) if manager else data)

        carrier = threading.Thread(target=carry, name="port-server-carrier")
        carrier.start()
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                self.line.write(b"".join(manager.filter(data)) if manager else data)
        is_over.set()
        carrier.join()
