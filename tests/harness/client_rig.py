"""A stream and one front of the client, wired up with transports of a test's choice. Nothing here may hang."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import httpx

from durable_streams import DurableStream, DurableStreamError, stream
from harness.stream_client import Wire
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    import pytest

    from durable_streams.testing import InMemoryStreamServer
    from harness.stream_client import Front

JSON: Final = "application/json"
DEADLINE_SECONDS: Final = 20.0


class Rig:
    """A JSON stream, the way to it and a front. Clients made here are closed here."""

    def __init__(self, front: Front, server: InMemoryStreamServer, url: str) -> None:
        self.front = front
        self.server = server
        self.url = url
        self._clients: dict[Any, Any] = {}
        with ExitStack() as stack:
            self.wire = stack.enter_context(Wire(server, url))
            self.stream = stack.enter_context(DurableStream.create(url, content_type=JSON))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            self.front.close(client)
        self._stack.close()

    def client(self, transport: Any) -> Any:
        """The client of a transport."""
        if transport not in self._clients:
            self._clients[transport] = self.front.client(transport)
        return self._clients[transport]

    def options(self, transport: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Options with the client of a transport; None leaves it to the front to have one of its own."""
        return options if transport is None else {"client": self.client(transport), **options}

    def producer(self, transport: Any = None, **options: Any) -> Any:
        """A producer of JSON on the stream."""
        chosen = {"url_or_stream": self.url, "producer_id": "p", "content_type": JSON, **options}
        return self.front.producer(**self.options(transport, chosen))

    def handle(self, transport: Any = None, **options: Any) -> Any:
        """A handle on the stream that was told nothing about it."""
        return self.front.handle(**self.options(transport, {"url": self.url, **options}))

    def read(self, transport: Any = None, **options: Any) -> AbstractContextManager[Any]:
        """An open read of the stream."""
        return self.front.stream(**self.options(transport, {"url": self.url, **options}))

    def content(self) -> Any:
        """What the stream holds."""
        with stream(self.url, live=False) as response:
            return response.read_json()

    def finish(self, call: Callable[[], Any]) -> Any:
        """Make a call that must not hang, and return its result."""
        if self.front.name == "sync":
            return in_time(call)

        async def wait() -> Any:
            with anyio.fail_after(DEADLINE_SECONDS):
                return await call()

        return self.front.run(wait())

    def take(self, producer: Any, messages: Iterable[Any]) -> list[Any]:
        """Append without waiting for anything; return acknowledgements, or errors in their place."""

        def append_all() -> list[Any]:
            return [_append(producer, message) for message in messages]

        async def on_the_loop() -> list[Any]:
            return append_all()

        return append_all() if self.front.name == "sync" else self.front.run(on_the_loop())

    def settle(self, acknowledgement: Any) -> Any:
        """Wait for one acknowledgement."""
        return self.finish(acknowledgement.result if self.front.name == "sync" else lambda: acknowledgement)


def in_time(call: Callable[[], Any]) -> Any:
    """Make a call that must not hang, and return its result; a thread that hangs is left behind."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the test
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(DEADLINE_SECONDS)


def _append(producer: Any, message: Any) -> Any:
    try:
        return producer.append_nowait(message)
    except DurableStreamError as error:
        return error


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread waits for another one, or has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is None or frame.f_code.co_filename == threading.__file__


def note_clients(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that each HTTP client is added to that is made from now on."""
    clients: list[Any] = []

    def noting(original: Callable[..., None]) -> Callable[..., None]:
        def note(client: Any, *arguments: Any, **options: Any) -> None:
            clients.append(client)
            original(client, *arguments, **options)

        return note

    for kind in (httpx.Client, httpx.AsyncClient):
        monkeypatch.setattr(kind, "__init__", noting(kind.__init__))
    return clients


class Held(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Holds each POST back until a condition holds, which nobody else looks at meanwhile."""

    def __init__(self, inner: Any, may_pass: Callable[[], object]) -> None:
        self._inner = inner
        self._one_by_one = threading.Lock()
        self.may_pass = may_pass
        self.bodies: list[bytes] = []
        """Of the POSTs that came so far."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        if request.method == "POST":
            self.bodies.append(request.read())
            wait_until(self._passes, what="a request may pass")
        response: httpx.Response = self._inner.handle_request(request)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        if request.method == "POST":
            self.bodies.append(await request.aread())
            await await_until(self._passes, what="a request may pass")
        response: httpx.Response = await self._inner.handle_async_request(request)
        return response

    def _passes(self) -> object:
        with self._one_by_one:
            return self.may_pass()


class ShortLived(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Ends the first event stream behind its first piece, in order, and the second one by a reset."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._resets = [False, True]
        self.asked: list[str | None] = []
        """The live mode of each request."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        return self._shortened(request, self._inner.handle_request(request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        return self._shortened(request, await self._inner.handle_async_request(request))

    def _shortened(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        self.asked.append(request.url.params.get("live"))
        if self.asked[-1] == "sse" and self._resets:
            response.stream = _FirstPiece(response.stream, reset=self._resets.pop(0))
        return response


class _FirstPiece(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The first piece of a body."""

    def __init__(self, body: Any, *, reset: bool) -> None:
        self._body = body
        self._reset = reset

    def __iter__(self) -> Iterator[bytes]:
        yield next(iter(self._body))
        if self._reset:
            raise httpx.ReadError("the connection was reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._body)
        yield await anext(pieces)
        await pieces.aclose()
        if self._reset:
            raise httpx.ReadError("the connection was reset")

    def close(self) -> None:
        self._body.close()

    async def aclose(self) -> None:
        await self._body.aclose()


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks that are made on the way; counts those that were taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.taken += 1
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk
