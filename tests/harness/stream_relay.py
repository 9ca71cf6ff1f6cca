"""A TCP relay between clients and one server that knows nothing of what it carries: streamed answers stream.

`cut` resets every connection when so many bytes more have come from the server, which is in the middle of an event
or of an answer. While it is `closed`, the server cannot be reached.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from harness.ports import free_port

if TYPE_CHECKING:
    from types import TracebackType

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing the socket sends RST."""


class StreamRelay:
    """One relay in a thread of its own, on a port of its own. Any thread may tell it what to do."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        self._upstream = (upstream.hostname, upstream.port)
        self._path = upstream.path
        self._port = free_port()
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._from_server: set[socket.socket] = set()
        self._bytes_left: int | None = None
        self._is_closed = False
        self.cuts = 0
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopper = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="stream-relay")

    @property
    def base_url(self) -> str:
        """What goes into ``server.url`` of a configuration."""
        return f"http://127.0.0.1:{self._port}{self._path}"

    def cut(self, after_bytes: int) -> None:
        """Reset all connections when so many bytes more have come from the server."""
        with self._lock:
            self._bytes_left = after_bytes

    def close(self) -> None:
        """From now on nobody reaches the server."""
        with self._lock:
            self._is_closed = True
            self._reset_all()

    def open(self) -> None:
        """The end of `close`."""
        with self._lock:
            self._is_closed = False

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopper.close()
        self._thread.join()
        self._reset_all()
        self._selector.close()
        self._listener.close()
        self._stop.close()

    def _run(self) -> None:
        while True:
            ready = [key.fileobj for key, _ in self._selector.select()]
            if self._stop in ready:
                return
            with self._lock:
                for each in ready:
                    assert isinstance(each, socket.socket)
                    if each is self._listener:
                        self._accept()
                    elif each in self._pairs:  # else it was reset by one before it
                        self._pass_on(each)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            if self._is_closed:
                raise ConnectionRefusedError
            server = socket.create_connection(self._upstream, timeout=5)
        except OSError:
            _reset(client)
            return
        for each, other in ((client, server), (server, client)):
            each.settimeout(5)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[each] = other
            self._selector.register(each, selectors.EVENT_READ)
        self._from_server.add(server)

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            is_last = False
            if source in self._from_server and self._bytes_left is not None:
                is_last = len(data) >= self._bytes_left
                data = data[: self._bytes_left]
                self._bytes_left -= len(data)
            self._pairs[source].sendall(data)
        except OSError:
            self._reset_pair(source)
            return
        if is_last:
            self._bytes_left = None
            self.cuts += 1
            self._reset_all()
        elif not data:
            self._reset_pair(source)

    def _reset_pair(self, one: socket.socket) -> None:
        for each in (one, self._pairs[one]):
            del self._pairs[each]
            self._from_server.discard(each)
            self._selector.unregister(each)
            _reset(each)

    def _reset_all(self) -> None:
        for each in list(self._from_server):
            self._reset_pair(each)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
