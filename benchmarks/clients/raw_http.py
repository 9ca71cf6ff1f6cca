"""HTTP/1.1 on a bare socket, as little of it as the reference server needs: the limit for every client."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType


class RawConnection:
    """One connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = parts.netloc
        self._ahead = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def exchange(
        self, method: str, query: str = "", headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Send a request; return the answer's headers and body. Raises for a refusal."""
        self.send(method, query, headers, body)
        return self.receive()

    def send(
        self, method: str, query: str = "", headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> None:
        """Send a request."""
        lines = [f"{method} {self._path}{query} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        self._socket.sendall(head + body if body else head)

    def receive(self) -> tuple[dict[str, str], bytes]:
        """Receive a whole answer."""
        headers = self.receive_head()
        if "content-length" in headers:
            return headers, self._take(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            return headers, b"".join(self.chunks())
        return headers, b""

    def receive_head(self) -> dict[str, str]:
        """Receive an answer's head; raise unless it is a success."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        if not 200 <= status < 300:
            raise RuntimeError(f"the server answered {status}")
        pairs = (line.partition(":") for line in lines[1:])
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    def chunks(self) -> Iterator[bytes]:
        """The chunks of an answer's body, as they come."""
        while size := int(self._until(b"\r\n"), 16):
            yield self._take(size)
            self._take(2)
        self._take(2)

    def _until(self, mark: bytes) -> bytes:
        while (at := self._ahead.find(mark)) < 0:
            self._more()
        found = bytes(self._ahead[:at])
        del self._ahead[: at + len(mark)]
        return found

    def _take(self, size: int) -> bytes:
        while len(self._ahead) < size:
            self._more()
        taken = bytes(self._ahead[:size])
        del self._ahead[:size]
        return taken

    def _more(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise RuntimeError("the server hung up")
        self._ahead += data
