"""One HTTP exchange over ASGI: headers in, body in with a limit, an answer out."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from durable_streams import _wire
from durable_streams.server._requests import RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_EXPOSED: Final = (
    _wire.STREAM_NEXT_OFFSET,
    _wire.STREAM_CLOSED,
    _wire.STREAM_UP_TO_DATE,
    _wire.STREAM_CURSOR,
    _wire.STREAM_TTL,
    _wire.STREAM_EXPIRES_AT,
    _wire.STREAM_FULL,
    _wire.PRODUCER_EPOCH,
    _wire.PRODUCER_SEQ,
    _wire.PRODUCER_EXPECTED_SEQ,
    _wire.PRODUCER_RECEIVED_SEQ,
    _wire.SSE_DATA_ENCODING,
    "etag",
    "location",
    "retry-after",
)
_ALLOWED: Final = (
    "authorization",
    "cache-control",
    "content-encoding",
    "content-type",
    "if-none-match",
    _wire.STREAM_SEQ,
    _wire.STREAM_TTL,
    _wire.STREAM_EXPIRES_AT,
    _wire.STREAM_CLOSED,
    _wire.PRODUCER_ID,
    _wire.PRODUCER_EPOCH,
    _wire.PRODUCER_SEQ,
)
METHODS: Final = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
PREFLIGHT: Final = (
    ("access-control-allow-methods", METHODS),
    ("access-control-allow-headers", ", ".join(_ALLOWED)),
    ("access-control-max-age", "86400"),
)
_ON_EVERY_ANSWER: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", ", ".join(_EXPOSED).encode()),
)
_BODILESS: Final = frozenset({204, 304})
_SLOWEST_BYTES_PER_SECOND: Final = 1024
_MAX_LENGTH_DIGITS: Final = 18
_DISCARD_SECONDS: Final = 30.0
_MAX_DISCARDED_BYTES: Final = 256 * 1024 * 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host; a name other than ``localhost`` counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class DisconnectedError(Exception):
    """The client went away before its request was complete: there is nothing to do and nobody to tell."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, body_idle_seconds: float) -> None:
        self.method: str = scope["method"]
        self.raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope["query_string"]
        self.headers = _headers(scope["headers"])
        self.answered = False
        self.disconnected = False
        """Set only while somebody listens: see `set_on_disconnect`."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._idle_seconds = body_idle_seconds
        # Only a request with one of these headers has a body (RFC 9112, 6.3).
        length = self.headers.get("content-length", "0")
        self._body_ended = length == "0" and "transfer-encoding" not in self.headers
        self._body_given_up = False

    @property
    def url(self) -> str:
        """The absolute URL of the request, without its query."""
        host = self.headers.get("host")
        if host is None:
            name, port = self._scope.get("server") or ("localhost", None)
            host = name if port is None else f"{name}:{port}"
        return f"{self._scope['scheme']}://{host}{self.raw_path.decode('latin-1')}"

    @property
    def is_local(self) -> bool:
        """Whether the request names this machine, and no web page of another one made a browser send it."""
        host, origin = self.headers.get("host", ""), self.headers.get("origin")
        return is_loopback(_host_of(f"//{host}")) and (origin is None or is_loopback(_host_of(origin)))

    async def body(self, max_bytes: int) -> bytes:
        """The request's body as it came. Raises `RefusedError` (408, 413) and `DisconnectedError`."""
        refusal = RefusedError(413, f"the body is larger than {max_bytes} bytes")
        length = self.headers.get("content-length", "")
        if length and not (length.isascii() and length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS):
            raise RefusedError(400, "Content-Length is not a number")
        if length and int(length) > max_bytes:
            raise refusal
        chunks: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not self._body_ended:
            chunk = await self._next_chunk()
            size += len(chunk)
            if size > max_bytes:
                raise refusal
            chunks.append(chunk)
            if loop.time() - started > self._idle_seconds + size / _SLOWEST_BYTES_PER_SECOND:
                self._body_given_up = True
                raise RefusedError(408, f"a body comes with {_SLOWEST_BYTES_PER_SECOND} bytes a second at least")
        if length and size != int(length):
            # No HTTP server should let this happen; storing a part would be a silent loss.
            raise RefusedError(400, f"the body has {size} bytes, its Content-Length says {length[:20]}")
        return b"".join(chunks)

    async def refuse(
        self,
        status: int,
        reason: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        discard_seconds: float = _DISCARD_SECONDS,
    ) -> None:
        """Answer with a reason in plain text.

        What is left of the body is read first, for so long at most: a client that still sends when the
        connection is closed may never see the answer.
        """
        if "expect" not in self.headers and not self._body_given_up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(discard_seconds):
                    await self._discard_body()
        text = f"{reason}\n".encode()
        plain = (("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"))
        await self.answer(status, (*plain, *headers), text)

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], content: bytes = b"") -> None:
        """Send a complete answer."""
        bodiless = status in _BODILESS
        if not bodiless and self.method != "HEAD":
            headers = (*headers, ("content-length", str(len(content))))
        await self._start(status, headers)
        body = b"" if bodiless or self.method == "HEAD" else content
        await self._send({"type": "http.response.body", "body": body})

    async def start_streaming(self, headers: Iterable[tuple[str, str]]) -> None:
        """Begin an answer (200) whose body comes in pieces."""
        await self._start(200, headers)

    async def send_piece(self, piece: bytes, *, last: bool = False) -> None:
        """Send a piece of a streamed body."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": not last})

    @contextlib.asynccontextmanager
    async def set_on_disconnect(self, event: asyncio.Event) -> AsyncGenerator[None]:
        """Within this context the event is also set when the client goes away."""

        async def listen() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.disconnected = True
            event.set()

        listener = asyncio.create_task(listen())
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait({listener})

    async def _start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self.answered = True
        if not self._body_ended:
            headers = (*headers, ("connection", "close"))
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        pairs += _ON_EVERY_ANSWER
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _next_chunk(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_seconds):
                message = await self._receive()
        except TimeoutError:
            self._body_given_up = True
            raise RefusedError(408, f"no data for {self._idle_seconds:g} s in the middle of a body") from None
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        self._body_ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def _discard_body(self) -> None:
        left = _MAX_DISCARDED_BYTES
        with contextlib.suppress(RefusedError):
            while not self._body_ended and left > 0:
                left -= len(await self._next_chunk())


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers with lower-case names. Values of repeated ones are joined, so that they fail as values."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
