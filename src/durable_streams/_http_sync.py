"""Performs the effects of flows with `httpx.Client`."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from durable_streams import _http
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._urls import with_params
from durable_streams._wire import Answer, Failure, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams._types import ReadErrorHandler

T = TypeVar("T")


def own_client() -> httpx.Client:
    """Return a client of our own: the shared TLS context, no redirects."""
    return httpx.Client(verify=_http.shared_tls_context(), timeout=_http.DEFAULT_TIMEOUT_SECONDS)


class SyncCarrier:
    """Runs flows with one client. An injected client is never closed, one of our own is."""

    def __init__(
        self,
        client: httpx.Client | None,
        extras: _http.Extras,
        *,
        timeout: float | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> None:
        self.client = client if client is not None else own_client()
        self.extras = extras
        self.timeout = timeout
        self._owned = client is None
        self._on_error = on_error
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def borrow(self, extras: _http.Extras, *, on_error: ReadErrorHandler | None = None) -> SyncCarrier:
        """Return a carrier with the same client, which stays this one's."""
        return SyncCarrier(self.client, extras, timeout=self.timeout, on_error=on_error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the open body, and of the client if it is our own."""
        self._close_body()
        if self._owned:
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

    def _open(self, request: Request) -> Answer:
        self._close_body()
        call = self._arguments(request)
        call.pop("follow_redirects")
        try:
            built = self.client.build_request(request.method, **call)
            self._response = self.client.send(built, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _http.failure_from(error, request)
        self._chunks = self._response.iter_bytes()
        if self._response.status_code == 200:
            return _http.reply_from(self._response)
        return self._error_reply(self._response)

    def _error_reply(self, response: httpx.Response) -> Answer:
        body = bytearray()
        while len(body) < _http.MAX_ERROR_BODY_BYTES:
            chunk = self._next_chunk()
            if isinstance(chunk, Failure) or not chunk:
                break
            body += chunk
        self._close_body()
        return _http.reply_from(response, bytes(body))

    def _next_chunk(self) -> bytes | Failure:
        try:
            return next(self._chunks, b"")
        except httpx.HTTPError as error:
            return Failure(f"the answer broke off: {type(error).__name__}: {error}", cause=error)

    def _close_body(self) -> None:
        response, self._response = self._response, None
        self._chunks = iter(())
        if response is not None:
            response.close()

    def _arguments(self, request: Request) -> dict[str, Any]:
        headers = [(name, self._value(value, name)) for name, value in self.extras.headers.items()]
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


def _not_awaitable(value: Any, name: str) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{name!r} is a coroutine function: only the async front can await it")
    return value
