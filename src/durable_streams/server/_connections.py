"""The connections of the socket server: how many there may be, how slow they may be, and how one is broken.

uvicorn parses HTTP and knows neither a deadline for a request's head nor one for a reader that stopped reading.
Both are kept here, from what asyncio tells every protocol (opened, bytes came, writing paused and resumed, lost)
and from when the application runs. Nothing of uvicorn's own state is looked at.

The parser is h11. httptools would be faster, but uvicorn with it loses the body of a request that offers an
upgrade (curl --http2, Java's client), bounds neither heads nor trailers, and takes trailers for headers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from uvicorn.protocols.http.h11_impl import H11Protocol

from durable_streams.server._http import Exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from durable_streams.server._http import Receive, Scope, Send

    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ABORT: Final = "durable_streams.abort"
"""The name of an extension in each request's scope: a callable (`Abort`) that breaks the request's connection."""

_RETRY_AFTER_SECONDS: Final = 5
_DISCARD_SECONDS: Final = 1.0
_REFUSED_CONNECTIONS: Final = 64
"""So many more than allowed are told so with 503; those above are closed at once, as each takes a descriptor."""
_UNSENT_BYTES: Final = 128 * 1024
_DISCARD_AND_RESET: Final = struct.pack("ii", 1, 0)
_NOWHERE: Final = ("", None)

_Address = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the server takes from clients that are many, silent or slow.

    All values are positive; anything else raises `ValueError`.
    """

    max_connections: int = 1000
    """Requests on the connections above this number are answered 503."""
    head_seconds: float = 30.0
    """Time from a request's first byte (of the first one: from connecting) to the end of its head."""
    stalled_seconds: float = 60.0
    """Time in which a client that has an answer waiting for it must take some of it."""

    def __post_init__(self) -> None:
        for name in ("max_connections", "head_seconds", "stalled_seconds"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")


class Abort(Protocol):
    """Breaks the connection of a request at once; the application then returns without an answer.

    With ``flush`` the client gets what was sent so far, and then the connection ends.
    """

    def __call__(self, *, flush: bool = False) -> None:
        """Break it."""
        ...  # pragma: no cover


class Connections:
    """The open connections of a server, on whatever socket it accepted them. Belongs to one event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[tuple[_Address, _Address], Connection] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self) -> type[H11Protocol]:
        """The protocol class of an HTTP server, whose connections are kept here from now on."""
        return type("KeptProtocol", (_KeptProtocol,), {"ds_connections": self})

    def around(self, application: Application) -> Application:
        """The application, with requests of surplus connections refused, and with `ABORT` in its scopes."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            connection = self._open.get((_address(scope["client"]), _address(scope["server"])))
            if connection is None:
                return  # it is lost already: there is nobody to answer
            connection.request_came()
            try:
                if self._is_surplus(connection):
                    await _refuse(Exchange(scope, receive, send, body_idle_seconds=self.limits.head_seconds))
                    return
                scope["extensions"] = {**scope.get("extensions", {}), ABORT: connection.abort}
                await application(scope, receive, send)
            finally:
                await connection.request_ended()

        return serve

    def add(self, transport: asyncio.Transport) -> Connection:
        """Keep a connection that was just made."""
        key = (
            _address(transport.get_extra_info("peername")),
            _address(transport.get_extra_info("sockname")),
        )

        def forget() -> None:
            if self._open.get(key) is connection:  # a client that resets may be back from the same port already
                del self._open[key]

        connection = Connection(transport, self.limits, forget=forget)
        self._open[key] = connection
        return connection

    @property
    def are_too_many(self) -> bool:
        """Whether there are more than can be told that there are too many."""
        return len(self._open) > self.limits.max_connections + _REFUSED_CONNECTIONS

    def abort_all(self) -> None:
        """Break what is left when the server ends."""
        for connection in tuple(self._open.values()):
            connection.abort()

    def _is_surplus(self, connection: Connection) -> bool:
        # Who came first is served: a crowd of newcomers does not drive out those who are at work.
        most = self.limits.max_connections
        return len(self._open) > most and connection not in islice(self._open.values(), most)


class Connection:
    """One connection: what its client owes, and until when."""

    def __init__(
        self, transport: asyncio.Transport, limits: ConnectionLimits, *, forget: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._limits = limits
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._running = 0
        self._head_deadline: asyncio.TimerHandle | None = None
        self._progress_check: asyncio.TimerHandle | None = None
        self._broken = False
        self._lost = asyncio.Event()
        self._expect_head()

    def bytes_came(self) -> None:
        """Bytes came: between two requests they are the beginning of a head."""
        if not self._running:
            self._expect_head()

    def request_came(self) -> None:
        """A head is complete."""
        self._running += 1
        self._expect_no_head()

    async def request_ended(self) -> None:
        """The application has done its part. Of a broken connection it is waited for the end.

        So the HTTP server sees a client that went away, not an application that failed to answer.
        """
        self._running -= 1
        if self._broken:
            await self._lost.wait()

    def writing_paused(self) -> None:
        """The client does not take its answer as fast as it is made."""
        if self._progress_check is None:
            self._check_progress_later()

    def writing_resumed(self) -> None:
        """The client took its answer, or nearly."""
        self._expect_no_progress()

    def lost(self) -> None:
        """The connection is no more."""
        self._expect_no_head()
        self._expect_no_progress()
        self._forget()
        self._lost.set()

    def abort(self, *, flush: bool = False) -> None:
        """Break the connection; see `Abort`."""
        if self._lost.is_set():
            return
        self._broken = True
        if flush:
            self._transport.close()
            return
        # Without it the kernel would go on sending what it still has, to a client that does not read.
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD_AND_RESET
        )
        self._transport.abort()

    def _expect_head(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self._loop.call_later(self._limits.head_seconds, self.abort)

    def _expect_no_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _expect_no_progress(self) -> None:
        if self._progress_check is not None:
            self._progress_check.cancel()
            self._progress_check = None

    def _check_progress_later(self) -> None:
        unsent_bytes = self._transport.get_write_buffer_size()
        self._progress_check = self._loop.call_later(
            self._limits.stalled_seconds, self._check_progress, unsent_bytes
        )

    def _check_progress(self, unsent_bytes_before: int) -> None:
        # Nothing is added while writing is paused: a slow reader makes it less, a stalled one does not.
        if self._transport.get_write_buffer_size() < unsent_bytes_before:
            self._check_progress_later()
        else:
            self.abort()


class _KeptProtocol(H11Protocol):
    """uvicorn's protocol, which also tells a `Connection` what the transport tells it."""

    ds_connections: ClassVar[Connections]  # names that uvicorn's classes do not use
    ds_connection: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self.ds_connection = self.ds_connections.add(transport)
        if self.ds_connections.are_too_many:
            self.ds_connection.abort()

    def data_received(self, data: bytes) -> None:
        self.ds_connection.bytes_came()
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.ds_connection.writing_paused()

    def resume_writing(self) -> None:
        self.ds_connection.writing_resumed()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.ds_connection.lost()


def prepare(listener: socket.socket) -> None:
    """Make the connections of a listening socket tell early that their clients do not read.

    Otherwise the kernel takes megabytes, and reports nothing until a third of them is sent: a slow reader would
    look like one that has stopped.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


async def _refuse(exchange: Exchange) -> None:
    headers = (("retry-after", str(_RETRY_AFTER_SECONDS)), ("connection", "close"))
    await exchange.refuse(503, "too many connections", headers, discard_seconds=_DISCARD_SECONDS)


def _address(name: Any) -> _Address:
    """Host and port, as ASGI has them: IPv6 addresses come with two more numbers."""
    return _NOWHERE if name is None else (str(name[0]), name[1])
