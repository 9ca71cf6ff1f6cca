"""Requests to a stream server in this process, without a socket.

    with httpx.Client(transport=InProcessTransport(server)) as client:
        client.put("http://any.host/s")

It serves the tests' server (`durable_streams.testing`) and programs that have a server built in.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx

from durable_streams._crossing import said
from durable_streams._outcome import Outcome
from durable_streams.server._connections import ABORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from concurrent.futures import Future

    from durable_streams.server import ServerThread
    from durable_streams.server._http import Message

__all__ = ["InProcessTransport"]

Result = TypeVar("Result")

_UNREAD_MESSAGES: Final = 4


class InProcessTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Carries requests to a server in this process, from any thread or event loop."""

    def __init__(self, server: ServerThread) -> None:
        self._server = server

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        call = _Call(self._server, request, request.read())
        return call.response(call.next_message().result())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        call = _Call(self._server, request, await request.aread())
        return call.response(await _settled(call.next_message()))


class _Call:
    """One request to the application, which runs on the server's loop, as do all coroutines here."""

    def __init__(self, server: ServerThread, request: httpx.Request, body: bytes) -> None:
        self._server = server
        self._request = request
        self._body: bytes | None = body
        self._read_timeout = request.extensions.get("timeout", {}).get("read")
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._gone = asyncio.Event()
        self._reset = False
        self._start(self._run())

    def next_message(self) -> Future[Message]:
        """The next part of the answer."""
        return self._start(self._next())

    def response(self, start: Message) -> httpx.Response:
        """The response that begins with the message."""
        return httpx.Response(start["status"], headers=start["headers"], stream=_Body(self))

    def hang_up(self) -> None:
        """Tell the application that nobody listens any more."""
        self._start(self._disconnect())

    def _start(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        try:
            return self._server.run(coroutine)
        except RuntimeError as error:
            coroutine.close()
            raise httpx.ConnectError("the server is closed", request=self._request) from error

    async def _run(self) -> None:
        path, _, query = self._request.url.raw_path.partition(b"?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": self._request.url.scheme,
            "path": self._request.url.path,
            "raw_path": path,
            "query_string": query,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "extensions": {ABORT: self._abort},
        }
        try:
            await self._server.application(scope, self._receive, self._send)
        finally:
            self._messages.put_nowait(None)

    async def _receive(self) -> Message:
        if self._body is None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        # As over a socket: who reads slowly makes the application wait, not the memory grow.
        while self._messages.qsize() >= _UNREAD_MESSAGES and not self._gone.is_set():
            self._taken.clear()
            await self._taken.wait()
        self._messages.put_nowait(message)

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._read_timeout):
                message = await self._messages.get()
            self._taken.set()
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time", request=self._request) from error
        except asyncio.CancelledError as error:
            raise httpx.ReadError("the server was closed", request=self._request) from error
        if message is None and self._reset:
            raise httpx.ReadError("the server broke the connection", request=self._request)
        if message is None:
            raise httpx.RemoteProtocolError("the answer is incomplete", request=self._request)
        return message

    def _abort(self, *, flush: bool = False) -> None:
        # The errors are those of a socket: what was sent may be lost with a reset, and is not at an orderly end.
        self._reset = not flush
        self._gone.set()
        self._taken.set()
        self._messages.put_nowait(None)

    async def _disconnect(self) -> None:
        self._gone.set()
        self._taken.set()


async def _settled(future: Future[Result]) -> Result:
    """Wait for a future of the server's thread; whoever gives up takes what it waited for back."""
    settled: Outcome[None] = Outcome()
    future.add_done_callback(lambda _: settled.set_result(None))
    try:
        await said(settled)
        return future.result()
    finally:
        future.cancel()  # without effect on what is settled


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        more = True
        while more:
            message = self._call.next_message().result()
            more = message.get("more_body", False)
            yield message["body"]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await _settled(self._call.next_message())
            more = message.get("more_body", False)
            yield message["body"]

    def close(self) -> None:
        self._call.hang_up()

    async def aclose(self) -> None:
        self._call.hang_up()
