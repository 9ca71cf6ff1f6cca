"""What both fronts need of httpx: one TLS context, timeouts, and its exceptions turned into failures."""

from __future__ import annotations

import functools
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import httpx

from durable_streams._exchange import RetryPolicy
from durable_streams._wire import Failure, Reply, Request
from durable_streams.errors import FetchError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    from durable_streams._types import HeadersLike, ParamsLike, RetryWith

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
MAX_ERROR_BODY_BYTES: Final = 64 * 1024

# Exceptions that are raised before the first byte of a request is written.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


def default_policy() -> RetryPolicy:
    """Return the retry policy with the machine's clocks and random source."""
    return RetryPolicy(random=random.SystemRandom(), utc_now=lambda: datetime.now(UTC), monotonic=time.monotonic)


@functools.cache
def shared_tls_context() -> ssl.SSLContext:
    """Return the TLS context of all clients of our own; building one takes 20 ms."""
    return httpx.create_ssl_context()


def timeout_for(
    request: Request, timeout_seconds: float | None, client: httpx.Client | httpx.AsyncClient
) -> httpx.Timeout:
    """Return the timeouts of one request. A live read has its own read timeout, whatever the caller chose."""
    chosen = client.timeout if timeout_seconds is None else httpx.Timeout(timeout_seconds)
    if request.timeout_seconds is None:
        return chosen
    return httpx.Timeout(
        connect=chosen.connect, write=chosen.write, pool=chosen.pool, read=request.timeout_seconds
    )


def failure_from(error: httpx.HTTPError | httpx.InvalidURL, request: Request) -> Failure:
    """Translate an exception of httpx. Raises `FetchError` for what no second attempt can help."""
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        raise FetchError(f"cannot send a request to {request.url!r}: {error}", url=request.url) from error
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(reason, sent=not isinstance(error, _NOT_SENT), cause=error)


def reply_from(response: httpx.Response, body: bytes = b"") -> Reply:
    """Return the head of a response as a `Reply`."""
    return Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


class Extras:
    """The caller's headers and parameters. What is dynamic is evaluated by the fronts, once for each request."""

    def __init__(self, headers: HeadersLike | None, params: ParamsLike | None) -> None:
        self.headers: HeadersLike = headers or {}
        self.params: ParamsLike = params or {}

    def adopt(self, changes: RetryWith) -> None:
        """Take over what ``on_error`` returned."""
        self.headers = changes.get("headers", self.headers)
        self.params = changes.get("params", self.params)

    def merged(self, headers: HeadersLike | None, params: ParamsLike | None) -> Extras:
        """Return these with others on top."""
        return Extras({**self.headers, **(headers or {})}, {**self.params, **(params or {})})


def merge_headers(protocol: dict[str, str], caller: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join the caller's headers with the protocol's, which win whatever case they are written in."""
    merged = {name: value for name, value in caller if name.lower() not in protocol}
    merged.update(protocol)
    return merged


def flatten(name: str, value: Any) -> Sequence[tuple[str, str]]:
    """Return a query parameter once for each of its values."""
    if isinstance(value, str):
        return ((name, value),)
    return tuple((name, str(each)) for each in value)
