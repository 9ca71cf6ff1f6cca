"""A broker that plays a script, byte by byte: what no real broker does on request."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CONNACK_OK = b"\x20\x02\x00\x00"
CONNACK_OK_PRESENT = b"\x20\x02\x01\x00"
CONNACK_BAD_PROTOCOL = b"\x20\x02\x00\x01"


class Peer:
    """The client's connection as the script sees it."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._link.sendall(data)

    def reset(self) -> None:
        """Break the connection off; what was sent is there to be read, and nothing can be answered."""
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._link.close()

    def end(self) -> None:
        """Say nothing more, also in the middle of a `send` of another thread."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def packet(self) -> bytes:
        """The next whole packet (of less than 128 bytes); empty at the end."""
        while len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            data = self._link.recv(65536)
            if not data:
                return b""
            self._buffer += data
        end = 2 + self._buffer[1]
        packet, self._buffer = self._buffer[:end], self._buffer[end:]
        return packet

    def packet_of(self, kind: int) -> bytes:
        """The next packet of this kind; others are passed over. Empty at the end."""
        while (packet := self.packet()) and packet[0] >> 4 != kind:
            pass
        return packet


class ScriptedBroker:
    """Plays one script a connection, the last one for all that follow."""

    def __init__(self, *scripts: Callable[[Peer], None]) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="scripted-broker")
        self.connections = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._links):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self._links.append(link)
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            with link, contextlib.suppress(OSError):
                script(Peer(link))


def publish(mid: int, payload: bytes, *, dup: bool = False, topic: bytes = b"t") -> bytes:
    """A PUBLISH of MQTT 3.1.1 at QoS 1."""
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", mid) + payload
    return bytes([0x3A if dup else 0x32, len(body)]) + body


def suback(subscribe: bytes, *codes: int) -> bytes:
    """The answer to this SUBSCRIBE."""
    return bytes([0x90, 2 + len(codes)]) + subscribe[2:4] + bytes(codes)
