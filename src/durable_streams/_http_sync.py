"""Performs the effects of flows with `httpx.Client`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx

from durable_streams import _checks, _http
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._wire import Answer, Failure, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durable_streams._inflate import Inflater
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
        timeout = _http.as_timeout(timeout)
        if client is not None:
            _http.check_client(client, httpx.Client)
        self.client: httpx.Client = client if client is not None else own_client()
        self.extras = extras
        self.timeout = timeout
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
                    step = functools.partial(flow.send, self._perform(effect))
                # Boundary: the caller's own callables may raise anything. Only the flow knows what is in doubt.
                except Exception as error:  # noqa: BLE001
                    step = functools.partial(flow.throw, error)
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
        """Perform one request; give its answer with the first of its body. Safe to call from several threads."""
        call = self._call(request)
        _http.prefer_coding(call, self.client, "identity")
        verb = _http.callers_verb(self.client, request.method)
        if verb is not None:
            return _call_verb(verb, request, call)
        response = self._send(request, call)
        if isinstance(response, Reply | Failure):
            return response
        return _short_reply(response, call.short_body_seconds)

    def _send(self, request: Request, call: _http.Call) -> httpx.Response | Answer:
        """Send a request; return the response, its body unread, or the answer that there is in its place."""
        sent = False
        try:
            built = self.client.build_request(request.method, call.url, **call.options, content=request.body)
            sent = True
            return self.client.send(built, stream=True, follow_redirects=False)
        # Boundary: a client runs code of many hands, libraries' and the caller's, fed with what a server says.
        except Exception as error:  # noqa: BLE001
            return _http.answer_from(error, request, sent=sent)

    def exchange_bounded(self, request: Request, *, max_reply_bytes: int, seconds: float) -> Answer:
        """As `exchange`, for a caller that must survive any server: bounded in memory and in time.

        The body leaves in small pieces, so that a write timeout means that nothing moves, not that the link is
        slow. An answer that is not complete after ``seconds`` is none; one with more than ``max_reply_bytes`` is
        cut there. The time is looked at whenever something moved: it may take one timeout of the client longer.
        """
        url, options = self._call(request)
        options["timeout"] = _at_most(options["timeout"], seconds)
        deadline = time.monotonic() + seconds
        content = None
        if request.body:
            options["headers"]["content-length"] = str(len(request.body))
            content = _pieces(request.body, deadline)
        try:
            built = self.client.build_request(request.method, url, **options, content=content)
            response = self.client.send(built, stream=True, follow_redirects=False)
            with contextlib.closing(response):
                reply = bytearray()
                _read_into(reply, response, max_reply_bytes, deadline)
                return _http.reply_from(response, bytes(reply))
        except _TooSlowError:
            return Failure(f"no complete answer within {seconds:.0f} s")
        # Boundary, as in `_send`.
        except Exception as error:  # noqa: BLE001
            return _http.answer_from(error, request)

    def _open(self, request: Request) -> Answer:
        self._close_body()
        call = self._call(request)
        _http.prefer_coding(call, self.client)
        response = self._send(request, call)
        if isinstance(response, Reply | Failure):
            return response
        if response.status_code == 200:
            self._response, self._chunks = response, _content(response)
            return _http.reply_from(response)
        self._chunks = iter(())
        return _short_reply(response, call.short_body_seconds)

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

    def _call(self, request: Request) -> _http.Call:
        if self.client.is_closed is True:  # a caller's mock of a client has something else there
            raise _http.closed_client(request, injected=not isinstance(self.client, OwnClient))
        headers = [
            (name, value if isinstance(value, str) else _checks.header_value(name, self._value(value, name)))
            for name, value in self.extras.headers.items()
        ]
        params = [
            pair
            for name, value in self.extras.params.items()
            for pair in _http.flatten(name, self._value(value, name))
        ]
        return _http.call_of(request, self.client, headers, params, self.timeout)

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


def _call_verb(verb: Callable[..., httpx.Response], request: Request, call: _http.Call) -> Answer:
    content = {"content": request.body} if request.method in {"PUT", "POST"} else {}
    try:
        response = verb(call.url, **call.options, **content, follow_redirects=False)
        return _http.reply_from(response, response.read())
    # Boundary, as in `_send`.
    except Exception as error:  # noqa: BLE001
        return _http.answer_from(error, request)


def _short_reply(response: httpx.Response, seconds: float) -> Reply:
    """Return an answer with the first of its body: as much as comes in time, and before it breaks off.

    The time is looked at whenever something came: it may take one timeout of the client longer.
    """
    body = bytearray()
    with contextlib.suppress(_TooSlowError, *_http.READ_ERRORS), contextlib.closing(response):
        _read_into(body, response, _http.MAX_SHORT_BODY_BYTES, time.monotonic() + seconds)
    return _http.reply_from(response, bytes(body))


def _read_into(body: bytearray, response: httpx.Response, max_bytes: int, deadline: float) -> None:
    """Read the content; stop at the first piece that is too much. Raises `_TooSlowError`."""
    for chunk in _content(response):
        body += chunk
        if len(body) > max_bytes:
            del body[max_bytes:]
            return
        _check_time(deadline)


def _check_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise _TooSlowError


def _content(response: httpx.Response) -> Iterator[bytes]:
    """Give the content of a body as it comes, in pieces of bounded size."""
    raw, inflater = _http.decoding(response)
    chunks = response.iter_raw() if raw else response.iter_bytes()
    return chunks if inflater is None else _inflated(chunks, inflater)


def _inflated(chunks: Iterator[bytes], inflater: Inflater) -> Iterator[bytes]:
    for chunk in chunks:
        yield from inflater.feed(chunk)
    inflater.finish()


def _not_awaitable(value: Any, name: str) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{name!r} is a coroutine function: only the async front can await it")
    return value
