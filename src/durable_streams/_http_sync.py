"""Performs the effects of flows with `httpx.Client`."""

from __future__ import annotations

import contextlib
import inspect
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx

from durable_streams import _checks, _http
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._urls import with_params
from durable_streams._wire import Answer, Failure, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams._inflate import GzipInflater
    from durable_streams._types import ReadErrorHandler

T = TypeVar("T")

_PIECE_BYTES: Final = 16 * 1024
_NO_COOKIES: Final = _http.NoCookies()


class OwnClient(httpx.Client):
    """A client of our own: it keeps no cookies."""

    @property
    def cookies(self) -> httpx.Cookies:
        """None, whatever servers send."""
        return _NO_COOKIES

    @cookies.setter
    def cookies(self, cookies: object) -> None:  # noqa: ARG002 - the library's signature
        raise AttributeError("inject a client of yours to send cookies")


def own_client() -> httpx.Client:
    """Return a client of our own: the shared TLS context, no redirects, no cookies."""
    return OwnClient(verify=_http.shared_tls_context(), timeout=_http.DEFAULT_TIMEOUT_SECONDS)


class SyncCarrier:
    """Runs flows with one client. An injected client is never closed, one of our own is."""

    def __init__(
        self,
        client: httpx.Client | None,
        extras: _http.Extras,
        *,
        timeout: float | httpx.Timeout | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> None:
        if isinstance(client, httpx.AsyncClient):
            raise TypeError("this needs an httpx.Client, not an httpx.AsyncClient")
        self.client: httpx.Client = client if client is not None else own_client()
        self.extras = extras
        self.timeout: httpx.Timeout | None = (
            httpx.Timeout(timeout) if isinstance(timeout, int | float) else timeout
        )
        self._owned = client is None
        self._on_error = on_error
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] | None = None

    def borrow(self, extras: _http.Extras, *, on_error: ReadErrorHandler | None = None) -> SyncCarrier:
        """Return a carrier with the same client, which stays this one's."""
        return SyncCarrier(self.client, extras, timeout=self.timeout, on_error=on_error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the open body, and of the client if it is our own. A second call does nothing."""
        try:
            self._close_body()
        finally:
            owned, self._owned = self._owned, False
            if owned:
                self.client.close()

    def run(self, flow: Flow[T]) -> T:
        """Perform a flow's effects until it returns."""
        outcome = None
        try:
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                # Outside the inner try: a StopIteration of the caller's own callables is not the flow's end.
                outcome = self._perform(effect)
        finally:
            flow.close()

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Request():
                return self.exchange(effect)
            case Open(request):
                return self._open(request)
            case NextChunk():
                return self._next_chunk()
            case CloseBody():
                return self._close_body()
            case Sleep(seconds):
                return time.sleep(seconds)
            case Consult(error):
                changes = self._on_error(error) if self._on_error is not None else None
                if changes is None:
                    return False
                self.extras.adopt(_not_awaitable(changes, "on_error"))
                return True

    def exchange(self, request: Request) -> Answer:
        """Perform one request with its whole answer. Safe to call from several threads."""
        call = self._arguments(request)
        try:
            match request.method:
                case "PUT":
                    response = self.client.put(**call, content=request.body)
                case "POST":
                    response = self.client.post(**call, content=request.body)
                case "HEAD":
                    response = self.client.head(**call)
                case "DELETE":
                    response = self.client.delete(**call)
                case _:
                    response = self.client.request(request.method, **call)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _http.failure_from(error, request)
        return _http.reply_from(response, response.content)

    def exchange_bounded(self, request: Request, *, max_reply_bytes: int, seconds: float) -> Answer:
        """As `exchange`, for a caller that must survive any server: bounded in memory and in time.

        The body leaves in small pieces, so that a write timeout means that nothing moves, not that the link is
        slow. An answer that is not complete after ``seconds`` is none; one with more than ``max_reply_bytes`` is
        cut there. The time is looked at whenever something moved: it may take one timeout of the client longer.
        """
        call = self._arguments(request)
        call.pop("follow_redirects")
        call["timeout"] = _at_most(call["timeout"], seconds)
        deadline = time.monotonic() + seconds
        content = None
        if request.body:
            call["headers"] = {**call["headers"], "content-length": str(len(request.body))}
            content = _pieces(request.body, deadline)
        try:
            built = self.client.build_request(request.method, **call, content=content)
            response = self.client.send(built, stream=True, follow_redirects=False)
            with contextlib.closing(response):
                return _http.reply_from(response, _read_at_most(response, max_reply_bytes, deadline))
        except _TooSlowError:
            return Failure(f"no complete answer within {seconds:.0f} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _http.failure_from(error, request)

    def _open(self, request: Request) -> Answer:
        self._close_body()
        call = self._arguments(request)
        call.pop("follow_redirects")
        _http.prefer_coding(call, self.client)
        try:
            built = self.client.build_request(request.method, **call)
            self._response = self.client.send(built, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _http.failure_from(error, request)
        self._chunks = _content(self._response)
        if self._response.status_code == 200:
            return _http.reply_from(self._response)
        return self._short_reply(self._response)

    def _short_reply(self, response: httpx.Response) -> Answer:
        body = bytearray()
        while len(body) < _http.MAX_ERROR_BODY_BYTES:
            chunk = self._next_chunk()
            if isinstance(chunk, Failure) or not chunk:
                break
            body += chunk
        self._close_body()
        self._chunks = iter(())
        return _http.reply_from(response, bytes(body))

    def _next_chunk(self) -> bytes | Failure:
        # Whoever interrupts this leaves no body behind: its next bytes would not be the ones that follow.
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            return Failure("the answer was interrupted")
        try:
            chunk = next(chunks, b"")
        except _http.READ_ERRORS as error:
            return _http.broken_body(error)
        self._chunks = chunks
        return chunk

    def _close_body(self) -> None:
        response, self._response = self._response, None
        self._chunks = None
        if response is not None:
            with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
                response.close()

    def _arguments(self, request: Request) -> dict[str, Any]:
        if self.client.is_closed:
            raise _http.closed_client(request)
        headers = [
            (name, value if isinstance(value, str) else _checks.header_value(name, self._value(value, name)))
            for name, value in self.extras.headers.items()
        ]
        params = [
            pair
            for name, value in self.extras.params.items()
            for pair in _http.flatten(name, self._value(value, name))
        ]
        return {
            "url": with_params(request.url, request.params, params),
            "headers": _http.merge_headers(dict(request.headers), headers),
            "timeout": _http.timeout_for(request, self.timeout, self.client),
            "follow_redirects": False,
        }

    @staticmethod
    def _value(value: Any, name: str) -> Any:
        return _not_awaitable(value(), name) if callable(value) else value


class _TooSlowError(Exception):
    """An exchange takes longer than it may."""


def _at_most(timeout: httpx.Timeout, seconds: float) -> httpx.Timeout:
    limits = (timeout.connect, timeout.read, timeout.write, timeout.pool)
    connect, read, write, pool = (seconds if limit is None else min(limit, seconds) for limit in limits)
    return httpx.Timeout(connect=connect, read=read, write=write, pool=pool)


def _pieces(body: bytes, deadline: float) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        _check_time(deadline)
        yield body[start : start + _PIECE_BYTES]


def _read_at_most(response: httpx.Response, max_bytes: int, deadline: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > max_bytes:
            break
        _check_time(deadline)
    return bytes(body[:max_bytes])


def _check_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise _TooSlowError


def _content(response: httpx.Response) -> Iterator[bytes]:
    """Give the content of a body as it comes, in pieces of bounded size."""
    if not _http.is_raw_readable(response):
        return response.iter_bytes()
    inflater = _http.inflater(response)
    return response.iter_raw() if inflater is None else _inflated(response.iter_raw(), inflater)


def _inflated(chunks: Iterator[bytes], inflater: GzipInflater) -> Iterator[bytes]:
    for chunk in chunks:
        yield from inflater.feed(chunk)
    inflater.finish()


def _not_awaitable(value: Any, name: str) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{name!r} is a coroutine function: only the async front can await it")
    return value
