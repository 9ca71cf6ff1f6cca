"""The least that can answer the load: no rules, no checks, no parsing beyond the request line and the length.

What is measured against it is what the load generator and the kernel take. Prints its URL; ends when standard
input does.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Final

_CREATED: Final = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
_APPENDED: Final = b"HTTP/1.1 204 No Content\r\nstream-next-offset: 1\r\n\r\n"
_EVENTS: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PAGE: Final = (
    b"HTTP/1.1 200 OK\r\nstream-next-offset: 1\r\nstream-up-to-date: true\r\ncontent-length: %d\r\n\r\n%b"
)
_CONTROL: Final = b'event: control\ndata:{"streamNextOffset":"1","upToDate":true}\n\n'

_streams: Final[dict[bytes, bytearray]] = {}
_readers: Final[dict[bytes, list[asyncio.Transport]]] = {}


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._ahead = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        for readers in _readers.values():
            if self._transport in readers:
                readers.remove(self._transport)

    def data_received(self, data: bytes) -> None:
        self._ahead += data
        head, end, body = self._ahead.partition(b"\r\n\r\n")
        if not end:
            return
        _, found, length = head.partition(b"content-length: ")
        if found and len(body) < int(length.partition(b"\r\n")[0]):
            return
        self._ahead = b""
        method, target, _ = head.split(b" ", 2)
        assert self._transport is not None
        self._answer(self._transport, method, *target.partition(b"?")[::2], body)

    @staticmethod
    def _answer(transport: asyncio.Transport, method: bytes, path: bytes, query: bytes, body: bytes) -> None:
        if method == b"PUT":
            _streams[path] = bytearray()
            transport.write(_CREATED)
        elif method == b"POST":
            _streams[path] += body
            event = b"event: data\ndata:" + body + b"\n\n" + _CONTROL
            for reader in _readers.get(path, ()):
                reader.write(b"%x\r\n%b\r\n" % (len(event), event))
            transport.write(_APPENDED)
        elif b"live=sse" in query:
            _readers.setdefault(path, []).append(transport)
            transport.write(_EVENTS + b"%x\r\n%b\r\n" % (len(_CONTROL), _CONTROL))
        else:
            data = _streams[path]
            transport.write(_PAGE % (len(data), data))


async def serve() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.Event()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve())
