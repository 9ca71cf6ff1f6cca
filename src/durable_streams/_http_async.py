"""Performs the effects of flows with `httpx.AsyncClient`."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import anyio
import httpx

from durable_streams import _checks, _http
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._urls import with_params
from durable_streams._wire import Answer, Failure, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from durable_streams._inflate import GzipInflater
    from durable_streams._types import ReadErrorHandler

T = TypeVar("T")

_PIECE_BYTES: Final = 16 * 1024
_NO_COOKIES: Final = _http.NoCookies()
_MAX_BUFFERED_CHUNKS: Final = 100_000


class OwnClient(httpx.AsyncClient):
    """A client of our own: it keeps no cookies."""

    @property
    def cookies(self) -> httpx.Cookies:
        """None, whatever servers send."""
        return _NO_COOKIES

    @cookies.setter
    def cookies(self, cookies: object) -> None:  # noqa: ARG002 - the library's signature
        raise AttributeError("inject a client of yours to send cookies")


def own_client() -> httpx.AsyncClient:
    """Return a client of our own: the shared TLS context, no redirects, no cookies."""
    return OwnClient(verify=_http.shared_tls_context(), timeout=_http.DEFAULT_TIMEOUT_SECONDS)


class AsyncCarrier:
    """Runs flows with one client. An injected client is never closed, one of our own is."""

    def __init__(
        self,
        client: httpx.AsyncClient | None,
        extras: _http.Extras,
        *,
        timeout: float | httpx.Timeout | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> None:
        if isinstance(client, httpx.Client):
            raise TypeError("this needs an httpx.AsyncClient, not an httpx.Client")
        self.client: httpx.AsyncClient = client if client is not None else own_client()
        self.extras = extras
        self.timeout: httpx.Timeout | None = (
            httpx.Timeout(timeout) if isinstance(timeout, int | float) else timeout
        )
        self._owned = client is None
        self._on_error = on_error
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    def borrow(self, extras: _http.Extras, *, on_error: ReadErrorHandler | None = None) -> AsyncCarrier:
        """Return a carrier with the same client, which stays this one's."""
        return AsyncCarrier(self.client, extras, timeout=self.timeout, on_error=on_error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the open body, and of the client if it is our own. A second call does nothing."""
        # Shielded: whoever was cancelled has connections to give back all the same.
        with anyio.CancelScope(shield=True):
            try:
                await self._close_body()
            finally:
                owned, self._owned = self._owned, False
                if owned:
                    await self.client.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Perform a flow's effects until it returns."""
        outcome = None
        try:
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = await self._perform(effect)
        finally:
            flow.close()

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Request():
                return await self.exchange(effect)
            case Open(request):
                return await self._open(request)
            case NextChunk():
                return await self._next_chunk()
            case CloseBody():
                return await self._close_body()
            case Sleep(seconds):
                return await anyio.sleep(seconds)
            case Consult(error):
                changes = await _settle(self._on_error(error)) if self._on_error is not None else None
                if changes is None:
                    return False
                self.extras.adopt(changes)
                return True

    async def exchange(self, request: Request) -> Answer:
        """Perform one request with its whole answer. Several may run at the same time."""
        call = await self._arguments(request)
        try:
            match request.method:
                case "PUT":
                    response = await self.client.put(**call, content=request.body)
                case "POST":
                    response = await self.client.post(**call, content=request.body)
                case "HEAD":
                    response = await self.client.head(**call)
                case "DELETE":
                    response = await self.client.delete(**call)
                case _:
                    response = await self.client.request(request.method, **call)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _http.failure_from(error, request)
        return _http.reply_from(response, response.content)

    async def exchange_bounded(self, request: Request, *, max_reply_bytes: int, seconds: float) -> Answer:
        """As `exchange`, for a caller that must survive any server: bounded in memory and in time.

        The body leaves in small pieces, so that a write timeout means that nothing moves, not that the link is
        slow. An answer that is not complete after ``seconds`` is none; one with more than ``max_reply_bytes`` is
        cut there.
        """
        call = await self._arguments(request)
        call.pop("follow_redirects")
        body = request.body
        if body:
            call["headers"] = {**call["headers"], "content-length": str(len(body))}
        answer: Answer = Failure(f"no complete answer within {seconds:.0f} s")
        with anyio.move_on_after(seconds):
            try:
                built = self.client.build_request(request.method, **call, content=_pieces(body) if body else None)
                response = await self.client.send(built, stream=True, follow_redirects=False)
                async with contextlib.aclosing(response):
                    answer = _http.reply_from(response, await _read_at_most(response, max_reply_bytes))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                answer = _http.failure_from(error, request)
        return answer

    async def _open(self, request: Request) -> Answer:
        await self._close_body()
        call = await self._arguments(request)
        call.pop("follow_redirects")
        _http.prefer_coding(call, self.client)
        try:
            built = self.client.build_request(request.method, **call)
            self._response = await self.client.send(built, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _http.failure_from(error, request)
        self._chunks = _content(self._response)
        if self._response.status_code == 200:
            return _http.reply_from(self._response)
        return await self._short_reply(self._response)

    async def _short_reply(self, response: httpx.Response) -> Answer:
        body = bytearray()
        while len(body) < _http.MAX_ERROR_BODY_BYTES:
            chunk = await self._next_chunk()
            if isinstance(chunk, Failure) or not chunk:
                break
            body += chunk
        await self._close_body()
        self._chunks = _nothing()
        return _http.reply_from(response, bytes(body))

    async def _next_chunk(self) -> bytes | Failure:
        # Whoever cancels this leaves no body behind: its next bytes would not be the ones that follow.
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            return Failure("the answer was interrupted")
        try:
            chunk = await anext(chunks, b"")
        except _http.READ_ERRORS as error:
            return _http.broken_body(error)
        self._chunks = chunks
        return chunk

    async def _close_body(self) -> None:
        response, self._response = self._response, None
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            await _end(chunks)
        if response is not None:
            with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
                await response.aclose()

    async def _arguments(self, request: Request) -> dict[str, Any]:
        if self.client.is_closed:
            raise _http.closed_client(request)
        headers = [
            (name, value if isinstance(value, str) else _checks.header_value(name, await self._value(value)))
            for name, value in self.extras.headers.items()
        ]
        params = [
            pair
            for name, value in self.extras.params.items()
            for pair in _http.flatten(name, await self._value(value))
        ]
        return {
            "url": with_params(request.url, request.params, params),
            "headers": _http.merge_headers(dict(request.headers), headers),
            "timeout": _http.timeout_for(request, self.timeout, self.client),
            "follow_redirects": False,
        }

    @staticmethod
    async def _value(value: Any) -> Any:
        return await _settle(value()) if callable(value) else value


def _content(response: httpx.Response) -> AsyncIterator[bytes]:
    """Give the content of a body as it comes, in pieces of bounded size."""
    if not _http.is_raw_readable(response):
        return response.aiter_bytes()
    inflater = _http.inflater(response)
    return response.aiter_raw() if inflater is None else _inflated(response.aiter_raw(), inflater)


async def _inflated(chunks: AsyncIterator[bytes], inflater: GzipInflater) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        for piece in inflater.feed(chunk):
            yield piece
    inflater.finish()


async def _nothing() -> AsyncGenerator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


async def _end(chunks: AsyncIterator[bytes]) -> None:
    """Bring a body that was not read to its end to one.

    It is a tower of generators, httpx's and its transport's. To close the highest would leave the others to the
    garbage collector, which can await nothing. A cancellation goes through all of them.
    """
    with anyio.CancelScope() as scope, contextlib.suppress(*_http.READ_ERRORS):
        scope.cancel()
        for _ in range(_MAX_BUFFERED_CHUNKS):
            if not await anext(chunks, b""):
                break


async def _pieces(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


async def _read_at_most(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async with contextlib.aclosing(_generator(response)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                break
    return bytes(body[:max_bytes])


async def _generator(response: httpx.Response) -> AsyncGenerator[bytes]:
    """`aiter_bytes` as a generator that can be closed at once, instead of by the garbage collector."""
    chunks = response.aiter_bytes()
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
