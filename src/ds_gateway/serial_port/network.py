"""Ports of another machine, over TCP: raw bytes, or RFC 2217. Both have a descriptor to read, as ports have."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import serial.rfc2217

CONNECT_SECONDS: Final = 3.0
_QUIET_SECONDS: Final = 10
"""A connection without a byte for so long is asked whether it is there; every five seconds again."""
_PROBE_SECONDS: Final = 5
_PROBES: Final = 3
_READ_SECONDS: Final = 0.2
_CHUNK_BYTES: Final = 4096


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other side is gone without a word, as when a cable is pulled."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        (socket.TCP_KEEPIDLE, _QUIET_SECONDS),
        (socket.TCP_KEEPINTVL, _PROBE_SECONDS),
        (socket.TCP_KEEPCNT, _PROBES),
        (socket.TCP_USER_TIMEOUT, (_QUIET_SECONDS + _PROBE_SECONDS * _PROBES) * 1000),
        (socket.TCP_NODELAY, 1),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, name, value)


def _unsent_bytes(connection: socket.socket) -> int:
    """What was written and the other side has not taken yet."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(count)


class SocketPort:
    """A TCP connection whose bytes are those of the line. The constructor waits a while, then raises OSError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS)
        self._connection.setblocking(False)
        keep_alive(self._connection)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._connection.fileno()

    @property
    def out_waiting(self) -> int:
        """What the other side has not taken yet."""
        return _unsent_bytes(self._connection)

    def reset_output_buffer(self) -> None:
        """Nothing: what a connection has taken it sends."""

    def close(self) -> None:
        """Give it back."""
        self._connection.close()


class Rfc2217Port:
    """pyserial's RFC 2217 port, which has no descriptor, behind a pair of sockets that has one.

    Two threads carry the bytes. When either side ends, so does the other: the port reads as one that is gone.
    """

    def __init__(self, line: serial.rfc2217.Serial) -> None:
        self._line = line
        # Nothing of pyserial's says that the other machine was switched off.
        keep_alive(line._socket)  # noqa: SLF001
        line.timeout = _READ_SECONDS
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._unsent = 0
        self._threads = [
            threading.Thread(target=target, name=f"rfc2217-{direction}", daemon=True)
            for direction, target in (("in", self._carry_in), ("out", self._carry_out))
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._near.fileno()

    @property
    def out_waiting(self) -> int:
        """What was written and has not been given to the connection yet."""
        return _unsent_bytes(self._near) + self._unsent

    def reset_output_buffer(self) -> None:
        """Nothing: what a connection has taken it sends."""

    def close(self) -> None:
        """Give it back."""
        self._end()
        with contextlib.suppress(OSError):
            self._line.close()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()

    def _end(self) -> None:
        # Both ends read that it is over; the descriptors stay, as others may be waiting on them.
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)

    def _carry_in(self) -> None:
        # pyserial raises OSErrors once the connection is lost, and others where it is closed under its feet.
        with contextlib.suppress(OSError, TypeError, AttributeError):
            while self._line.is_open:
                data = self._line.read(max(1, min(self._line.in_waiting, _CHUNK_BYTES)))
                if data:
                    self._far.sendall(data)
                elif not self._line._thread.is_alive():  # noqa: SLF001 - nothing public says so
                    break
        self._end()

    def _carry_out(self) -> None:
        with contextlib.suppress(OSError, TypeError, AttributeError):
            while data := self._far.recv(_CHUNK_BYTES):
                self._unsent = len(data)
                self._line.write(data)
                self._unsent = 0
        self._end()
