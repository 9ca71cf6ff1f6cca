"""A broker that gives each delivery the lowest free packet id, as HiveMQ does: MQTT 5 and 3.1.1, QoS 1, in memory.

One persistent session is served: that of the client that subscribes. It gets everything that is published,
whatever the topic. After a reconnect everything in flight comes again with DUP=1, in its order, before anything
new.
"""

from __future__ import annotations

import contextlib
import heapq
import selectors
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_RECEIVE_MAXIMUM: Final = 0x21
_SESSION_EXPIRY: Final = 0x11
_NO_WINDOW: Final = 65_535
_SEND_SECONDS: Final = 20.0


class _Link:
    """A client's connection."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self.buffer = b""
        self.v5 = False
        self.is_persistent = False
        self.window = _NO_WINDOW


class LowestIdBroker:
    """Listens on a port of its own. ``window`` is what a client of MQTT 3.1.1 gets; None: no bound."""

    def __init__(self, *, window: int | None = 20) -> None:
        self._window = window or _NO_WINDOW
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="lowest-id-broker")
        self._events: list[str] = []
        self._subscriber: _Link | None = None
        self._has_session = False
        self._queue: deque[bytes] = deque()
        self._in_flight: dict[int, bytes] = {}
        self._free = list(range(1, _NO_WINDOW + 1))
        self._asked: deque[str] = deque()
        self.redelivered = 0
        """Copies sent with DUP=1."""
        self.highest_id = 0

    @property
    def url(self) -> str:
        """Its address, as the configuration wants it."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has done so far."""
        return "\n".join(self._events)

    def cut(self) -> None:
        """Close the subscriber's connection without a word."""
        self._ask("cut")

    def forget(self) -> None:
        """Forget the session, and close its connection."""
        self._ask("forget")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask("stop")
        self._thread.join(20)
        for each in (self._listener, self._wake, self._woken):
            each.close()

    # -- its thread

    def _ask(self, what: str) -> None:
        self._asked.append(what)
        self._wake.send(b"\0")

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        links: dict[int, _Link] = {}
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    made, _ = self._listener.accept()
                    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    made.settimeout(_SEND_SECONDS)
                    links[made.fileno()] = _Link(made)
                    self._selector.register(made, selectors.EVENT_READ)
                elif key.fileobj is self._woken:
                    self._woken.recv(100)
                elif (link := links.get(key.fd)) is not None and not self._read(link):
                    del links[key.fd]
            while self._asked:
                what = self._asked.popleft()
                if what == "stop":
                    for link in links.values():
                        self._close(link)
                    self._selector.close()
                    return
                if what == "forget":
                    self._has_session = False
                    self._queue.clear()
                    self._in_flight.clear()
                    self._free = list(range(1, _NO_WINDOW + 1))
                if self._subscriber is not None:
                    del links[self._subscriber.socket.fileno()]
                    self._close(self._subscriber)

    def _read(self, link: _Link) -> bool:
        """Serve what has come in; False when the connection is over."""
        try:
            data = link.socket.recv(65536)
            link.buffer += data
            while data and (packet := _next_packet(link)) is not None:
                if not self._take(link, *packet):
                    data = b""
        except OSError:
            data = b""
        if not data:
            self._close(link)
        return bool(data)

    def _close(self, link: _Link) -> None:
        if self._subscriber is link:
            self._subscriber = None
        with contextlib.suppress(KeyError):
            self._selector.unregister(link.socket)
        link.socket.close()

    def _take(self, link: _Link, first: int, body: bytes) -> bool:
        match first >> 4:
            case 1:  # CONNECT
                self._connect(link, body)
            case 3:  # PUBLISH
                self._published(link, first, body)
            case 4:  # PUBACK
                mid = struct.unpack(">H", body[:2])[0]
                if self._in_flight.pop(mid, None) is not None:
                    heapq.heappush(self._free, mid)
                self._pump()
            case 8:  # SUBSCRIBE
                at = 3 + body[2] if link.v5 else 2
                self._has_session, self._subscriber = True, link
                self._send(link, 0x90, body[:2] + (b"\0" if link.v5 else b"") + b"\1" * _filters(body[at:]))
                self._events.append("SUBACK")
            case 12:  # PINGREQ
                self._send(link, 0xD0, b"")
            case _:
                return False
        return True

    def _connect(self, link: _Link, body: bytes) -> None:
        level, flags = body[6], body[7]
        link.v5 = level == 5
        link.is_persistent = not flags & 0x02
        link.window = self._window
        if link.v5:
            properties = body[11 : 11 + body[10]]
            link.window = _receive_maximum(properties)
        present = link.is_persistent and self._has_session
        self._send(link, 0x20, bytes([present, 0]) + (b"\0" if link.v5 else b""))
        if present:
            self._events.append("session present")
            self._subscriber = link
            for mid, message in self._in_flight.items():
                self.redelivered += 1
                self._deliver(mid, message, dup=True)
            self._pump()

    def _published(self, link: _Link, first: int, body: bytes) -> None:
        end = 2 + struct.unpack(">H", body[:2])[0]
        topic, qos = body[:end], first >> 1 & 3
        if self._has_session:
            self._queue.append(topic + b"\0" + body[end + (2 if qos else 0) :])
        self._pump()
        if qos:
            self._send(link, 0x40, body[end : end + 2])

    def _pump(self) -> None:
        link = self._subscriber
        while link is not None and self._queue and len(self._in_flight) < link.window:
            mid = heapq.heappop(self._free)
            self.highest_id = max(self.highest_id, mid)
            self._in_flight[mid] = self._queue.popleft()
            self._deliver(mid, self._in_flight[mid], dup=False)

    def _deliver(self, mid: int, message: bytes, *, dup: bool) -> None:
        link = self._subscriber
        if link is None:
            return
        end = 2 + struct.unpack(">H", message[:2])[0]
        properties = b"\0" if link.v5 else b""
        # A dead subscriber is noticed by reading from it.
        with contextlib.suppress(OSError):
            self._send(
                link,
                0x3A if dup else 0x32,
                message[:end] + struct.pack(">H", mid) + properties + message[end + 1 :],
            )

    @staticmethod
    def _send(link: _Link, first: int, body: bytes) -> None:
        size, head = len(body), bytearray([first])
        while True:
            size, low = divmod(size, 128)
            head.append(low | (0x80 if size else 0))
            if not size:
                break
        link.socket.sendall(bytes(head) + body)


def _next_packet(link: _Link) -> tuple[int, bytes] | None:
    """First byte and body of the next packet, once it is whole."""
    size = shift = 0
    for index in range(1, min(5, len(link.buffer))):
        byte = link.buffer[index]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            end = index + 1 + size
            if len(link.buffer) < end:
                return None
            packet, link.buffer = link.buffer[:end], link.buffer[end:]
            return packet[0], packet[index + 1 :]
    return None


def _filters(data: bytes) -> int:
    """How many filters a SUBSCRIBE asks for."""
    at = count = 0
    while at < len(data):
        at += 3 + struct.unpack_from(">H", data, at)[0]
        count += 1
    return count


def _receive_maximum(properties: bytes) -> int:
    """Of a CONNECT that has this and a session expiry, and nothing else."""
    at = 0
    while at < len(properties):
        if properties[at] == _RECEIVE_MAXIMUM:
            return int(struct.unpack_from(">H", properties, at + 1)[0])
        assert properties[at] == _SESSION_EXPIRY, f"this broker does not know the property {properties[at]:#x}"
        at += 5
    return _NO_WINDOW
