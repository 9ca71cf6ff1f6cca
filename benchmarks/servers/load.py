"""The load generator: prebuilt requests on bare sockets, many connections in one process.

A task runs for so many seconds, and says what was done how often and how long each took. Nothing but the standard
library: it must not be what is measured.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from clients.worker import serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BODY: Final = b"x" * 100
TEXT: Final = "content-type: text/plain"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_MARK: Final = b"event: data\n"


class Connection:
    """One connection with at most one request under way."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.socket = socket.create_connection((self._parts.hostname or "", self._parts.port or 80))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pieces: list[bytes] = []
        self._wanted = 0
        self.sent_at = 0.0

    def fileno(self) -> int:
        """For a selector."""
        return self.socket.fileno()

    def request(self, method: str, *headers: str, query: str = "", body: bytes = b"") -> bytes:
        """A request as it goes over the wire."""
        lines = [f"{method} {self._parts.path}{query} HTTP/1.1", f"host: {self._parts.netloc}", *headers]
        lines.append(f"content-length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def send(self, request: bytes) -> None:
        """Begin a request."""
        self._pieces.clear()
        self._wanted = 0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Take what has come; the whole answer once it is complete. Raises for a refusal."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server hung up")
        self._pieces.append(data)
        if self._wanted > 0:
            self._wanted -= len(data)
            return b"".join(self._pieces) if self._wanted <= 0 else None
        if self._wanted < 0:
            # Where a chunk ends is not looked at: no body here holds what ends the last one.
            if data.endswith(_LAST_CHUNK) or b"".join(self._pieces[-2:]).endswith(_LAST_CHUNK):
                return b"".join(self._pieces)
            return None
        return self._begin(b"".join(self._pieces))

    def ask(self, request: bytes) -> bytes:
        """Send a request and wait for its answer."""
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def _begin(self, answer: bytes) -> bytes | None:
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end:
            return None
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(answer[:200].decode("latin-1"))
        lower = head.lower()
        if b"chunked" in lower:
            self._wanted = -1
            return answer if answer.endswith(_LAST_CHUNK) else None
        length = header(lower, b"content-length")
        self._wanted = 0 if length is None else int(length) - len(body)
        return None if self._wanted > 0 else answer


def header(head: bytes, name: bytes) -> bytes | None:
    """A header's value, from a head in lower case."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None


def create(url: str) -> None:
    """Create a stream of text."""
    connection = Connection(url)
    connection.ask(connection.request("PUT", TEXT))
    connection.socket.close()


def append(url: str, connections: int, seconds: float, *, producers: bool) -> dict[str, Any]:
    """Appends of 100 bytes, one after the other on each connection, which has a stream of its own."""
    made: list[tuple[Connection, Iterator[bytes]]] = []
    for number in range(connections):
        create(f"{url}-{number}")
        connection = Connection(f"{url}-{number}")
        made.append((connection, _appends(connection, producers=producers)))
    return _drive(made, seconds)


def _appends(connection: Connection, *, producers: bool) -> Iterator[bytes]:
    plain = connection.request("POST", TEXT, body=BODY)
    for seq in count():
        if producers:
            marks = ("producer-id: p", "producer-epoch: 0", f"producer-seq: {seq}")
            yield connection.request("POST", TEXT, *marks, body=BODY)
        else:
            yield plain


def read_small(url: str, connections: int, seconds: float) -> dict[str, Any]:
    """The same page of ten messages of 100 bytes again and again, on each connection."""
    _fill(url, 10, len(BODY))
    made: list[tuple[Connection, Iterator[bytes]]] = []
    for _ in range(connections):
        connection = Connection(url)
        request = connection.request("GET", query="?offset=-1")
        made.append((connection, iter(lambda request=request: request, b"")))  # type: ignore[misc]
    return _drive(made, seconds)


def read_large(url: str, megabytes: int, times: int) -> dict[str, Any]:
    """A stream of messages of 100,000 bytes from its beginning to its end."""
    _fill(url, megabytes * 10, 100_000)
    connection = Connection(url)
    begun = time.perf_counter()
    for _ in range(times):
        offset = "-1"
        while True:
            answer = connection.ask(connection.request("GET", query=f"?offset={offset}"))
            head = answer[:4000].partition(b"\r\n\r\n")[0].lower()
            if b"stream-up-to-date:" in head:
                break
            offset = (header(head, b"stream-next-offset") or b"").decode()
    elapsed = time.perf_counter() - begun
    connection.socket.close()
    return {"done": megabytes * times, "seconds": elapsed}


def fan_out(url: str, readers: int, seconds: float) -> dict[str, Any]:
    """Appends of 100 bytes; the next one when all readers of the stream's events have the last."""
    create(url)
    opened = [Connection(url) for _ in range(readers)]
    writer = Connection(url)
    selector = selectors.EpollSelector()
    for reader in opened:
        reader.socket.sendall(reader.request("GET", query="?offset=now&live=sse"))
        first = b""
        while b"event: control" not in first:
            first += reader.socket.recv(65536)
        selector.register(reader, selectors.EVENT_READ)
    request = writer.request("POST", TEXT, body=BODY)
    took: list[float] = []
    gc.collect()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        writer.send(request)
        _await_all(selector, readers)
        took.append(time.perf_counter() - writer.sent_at)
        while writer.receive() is None:
            pass
    elapsed = time.perf_counter() - begun
    for connection in (writer, *opened):
        connection.socket.close()
    return {"done": len(took) * readers, "seconds": elapsed, **_percentiles(took)}


def _await_all(selector: selectors.EpollSelector, readers: int) -> None:
    tails: dict[int, bytes] = {}
    missing = readers
    while missing:
        for key, _ in selector.select(20) or _hung():
            connection = key.fileobj
            assert isinstance(connection, Connection)
            data = tails.get(key.fd, b"") + connection.socket.recv(65536)
            if _MARK in data:
                missing -= 1
            tails[key.fd] = b"" if _MARK in data else data[-len(_MARK) :]


def _hung() -> Sequence[Any]:
    raise RuntimeError("readers wait in vain")


def _fill(url: str, messages: int, size: int) -> None:
    create(url)
    connection = Connection(url)
    for _ in range(messages):
        connection.ask(connection.request("POST", TEXT, body=b"x" * size))
    connection.socket.close()


def _drive(made: Sequence[tuple[Connection, Iterator[bytes]]], seconds: float) -> dict[str, Any]:
    """Keep a request under way on every connection."""
    selector = selectors.EpollSelector()
    for connection, requests in made:
        selector.register(connection, selectors.EVENT_READ, requests)
    took: list[float] = []
    gc.collect()
    begun = now = time.perf_counter()
    for connection, requests in made:
        connection.send(next(requests))
    while now - begun < seconds:
        for key, _ in selector.select(20) or _hung():
            answered = key.fileobj
            assert isinstance(answered, Connection)
            if answered.receive() is not None:
                now = time.perf_counter()
                took.append(now - answered.sent_at)
                answered.send(next(key.data))
    for connection, _ in made:
        connection.socket.close()
    return {"done": len(took), "seconds": now - begun, **_percentiles(took)}


def _percentiles(took: list[float]) -> dict[str, float]:
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}


if __name__ == "__main__":
    serve({each.__name__: each for each in (append, read_small, read_large, fan_out)})
