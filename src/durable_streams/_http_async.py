"""Performs the effects of flows with `httpx.AsyncClient`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import anyio
import httpx

from durable_streams import _checks, _http
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._wire import Answer, Failure, Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from durable_streams._inflate import Inflater
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
        timeout = _http.as_timeout(timeout)
        if client is not None:
            _http.check_client(client, httpx.AsyncClient)
        self.client: httpx.AsyncClient = client if client is not None else own_client()
        self.extras = extras
        self.timeout = timeout
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
        """Perform a flow's effects until it returns. What performing one raises is raised in the flow, there."""
        step: Callable[[], Effect] = functools.partial(flow.send, None)
        try:
            while True:
                try:
                    effect = step()
                except StopIteration as done:
                    result: T = done.value
                    return result
                try:
                    step = functools.partial(flow.send, await self._perform(effect))
                # Boundary: the caller's own callables may raise anything. Only the flow knows what is in doubt.
                except Exception as error:  # noqa: BLE001
                    step = functools.partial(flow.throw, error)
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
        """Perform one request; give its answer with the first of its body. Several may run at the same time."""
        call = await self._call(request)
        _http.prefer_coding(call, self.client, "identity")
        verb = _http.callers_verb(self.client, request.method)
        if verb is not None:
            return await _call_verb(verb, request, call)
        response = await self._send(request, call)
        if isinstance(response, Reply | Failure):
            return response
        return await _short_reply(response, call.short_body_seconds)

    async def _send(self, request: Request, call: _http.Call) -> httpx.Response | Answer:
        """Send a request; return the response, its body unread, or the answer that there is in its place."""
        sent = False
        try:
            built = self.client.build_request(request.method, call.url, **call.options, content=request.body)
            sent = True
            return await self.client.send(built, stream=True, follow_redirects=False)
        # Boundary: a client runs code of many hands, libraries' and the caller's, fed with what a server says.
        except Exception as error:  # noqa: BLE001
            return _http.answer_from(error, request, sent=sent)

    async def exchange_bounded(self, request: Request, *, max_reply_bytes: int, seconds: float) -> Answer:
        """As `exchange`, for a caller that must survive any server: bounded in memory and in time.

        The body leaves in small pieces, so that a write timeout means that nothing moves, not that the link is
        slow. An answer that is not complete after ``seconds`` is none; one with more than ``max_reply_bytes`` is
        cut there.
        """
        url, options = await self._call(request)
        body = request.body
        if body:
            options["headers"]["content-length"] = str(len(body))
        answer: Answer = Failure(f"no complete answer within {seconds:.0f} s")
        with anyio.move_on_after(seconds):
            try:
                content = _pieces(body) if body else None
                built = self.client.build_request(request.method, url, **options, content=content)
                response = await self.client.send(built, stream=True, follow_redirects=False)
                async with contextlib.aclosing(response):
                    content_read = bytearray()
                    await _read_into(content_read, response, max_reply_bytes)
                    answer = _http.reply_from(response, bytes(content_read))
            # Boundary, as in `_send`.
            except Exception as error:  # noqa: BLE001
                answer = _http.answer_from(error, request)
        return answer

    async def _open(self, request: Request) -> Answer:
        await self._close_body()
        call = await self._call(request)
        _http.prefer_coding(call, self.client)
        response = await self._send(request, call)
        if isinstance(response, Reply | Failure):
            return response
        if response.status_code == 200:
            self._response, self._chunks = response, _content(response)
            return _http.reply_from(response)
        self._chunks = _nothing()
        return await _short_reply(response, call.short_body_seconds)

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

    async def _call(self, request: Request) -> _http.Call:
        if self.client.is_closed is True:  # a caller's mock of a client has something else there
            raise _http.closed_client(request, injected=not isinstance(self.client, OwnClient))
        headers = [
            (name, value if isinstance(value, str) else _checks.header_value(name, await self._value(value)))
            for name, value in self.extras.headers.items()
        ]
        params = [
            pair
            for name, value in self.extras.params.items()
            for pair in _http.flatten(name, await self._value(value))
        ]
        return _http.call_of(request, self.client, headers, params, self.timeout)

    @staticmethod
    async def _value(value: Any) -> Any:
        return await _settle(value()) if callable(value) else value


async def _call_verb(verb: Callable[..., Awaitable[httpx.Response]], request: Request, call: _http.Call) -> Answer:
    content = {"content": request.body} if request.method in {"PUT", "POST"} else {}
    try:
        response = await verb(call.url, **call.options, **content, follow_redirects=False)
        return _http.reply_from(response, await response.aread())
    # Boundary, as in `_send`.
    except Exception as error:  # noqa: BLE001
        return _http.answer_from(error, request)


async def _short_reply(response: httpx.Response, seconds: float) -> Reply:
    """Return an answer with the first of its body: as much as comes in time, and before it breaks off."""
    body = bytearray()
    try:
        with contextlib.suppress(*_http.READ_ERRORS), anyio.move_on_after(seconds):
            await _read_into(body, response, _http.MAX_SHORT_BODY_BYTES)
    finally:
        with contextlib.suppress(*_http.READ_ERRORS):
            await response.aclose()
    return _http.reply_from(response, bytes(body))


def _content(response: httpx.Response) -> AsyncIterator[bytes]:
    """Give the content of a body as it comes, in pieces of bounded size."""
    raw, inflater = _http.decoding(response)
    chunks = response.aiter_raw() if raw else response.aiter_bytes()
    return chunks if inflater is None else _inflated(chunks, inflater)


async def _inflated(chunks: AsyncIterator[bytes], inflater: Inflater) -> AsyncGenerator[bytes]:
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


async def _read_into(body: bytearray, response: httpx.Response, max_bytes: int) -> None:
    """Read the content; stop at the first piece that is too much."""
    chunks = _content(response)
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            await _end(chunks)
            del body[max_bytes:]
            return


async def _settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
