"""What both fronts need of httpx: one TLS context, timeouts, codings, and its exceptions turned into failures."""

from __future__ import annotations

import functools
import ipaddress
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from durable_streams import _checks
from durable_streams._exchange import RetryPolicy
from durable_streams._inflate import BrokenBodyError, GzipInflater
from durable_streams._wire import Failure, Reply, Request
from durable_streams.errors import FetchError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    from durable_streams._types import HeadersLike, ParamsLike, RetryWith

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
MAX_ERROR_BODY_BYTES: Final = 64 * 1024

READ_ERRORS: Final = (httpx.HTTPError, httpx.StreamError, BrokenBodyError)
"""What may be raised by the next bytes of a body."""

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
    request: Request, timeout: httpx.Timeout | None, client: httpx.Client | httpx.AsyncClient
) -> httpx.Timeout:
    """Return the timeouts of one request. A live read has its own read timeout, whatever the caller chose."""
    chosen = client.timeout if timeout is None else timeout
    if request.timeout_seconds is None:
        return chosen
    return httpx.Timeout(
        connect=chosen.connect, write=chosen.write, pool=chosen.pool, read=request.timeout_seconds
    )


def failure_from(error: httpx.HTTPError | httpx.InvalidURL, request: Request) -> Failure:
    """Translate an exception of httpx. Raises `FetchError` for what no second attempt can help."""
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        raise FetchError(f"cannot send a request to {request.url!r}: {error}", url=request.url) from error
    return Failure(_reason(error), sent=not isinstance(error, _NOT_SENT), cause=error)


def broken_body(error: Exception) -> Failure:
    """Translate an exception that one of `READ_ERRORS` is."""
    return Failure(f"the answer broke off: {_reason(error)}", cause=error)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def closed_client(request: Request) -> FetchError:
    """Say that the caller's client is closed: no second attempt can help."""
    return FetchError("the HTTP client is closed: it was injected, and must stay open", url=request.url)


def reply_from(response: httpx.Response, body: bytes = b"") -> Reply:
    """Return the head of a response as a `Reply`."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Reply(response.status_code, headers, body)


class Extras:
    """The caller's headers and parameters. What is dynamic is evaluated by the fronts, once for each request."""

    def __init__(self, headers: HeadersLike | None, params: ParamsLike | None) -> None:
        _checks.headers(headers)
        _checks.params(params)
        self.headers: HeadersLike = headers or {}
        self.params: ParamsLike = params or {}

    def adopt(self, changes: RetryWith) -> None:
        """Lay what ``on_error`` returned over what is there."""
        changed = self.merged(changes.get("headers"), changes.get("params"))
        self.headers, self.params = changed.headers, changed.params

    def merged(self, headers: HeadersLike | None, params: ParamsLike | None) -> Extras:
        """Return these with others on top, which replace the same headers in whatever case they are written."""
        _checks.headers(headers)
        _checks.params(params)
        replaced = {name.lower() for name in headers or {}}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in replaced}
        return Extras({**kept, **(headers or {})}, {**self.params, **(params or {})})


def merge_headers(protocol: dict[str, str], caller: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join the caller's headers with the protocol's, which win whatever case they are written in."""
    merged = {name: value for name, value in caller if name.lower() not in protocol}
    merged.update(protocol)
    return merged


def flatten(name: str, value: Any) -> Sequence[tuple[str, str]]:
    """Return a query parameter once for each of its values."""
    return tuple((name, each) for each in _checks.param_values(name, value))


def prefer_coding(call: dict[str, Any], client: httpx.Client | httpx.AsyncClient) -> None:
    """Ask for what a read can take in bounded pieces: gzip, and nothing at all from this very machine.

    What the caller asked for, in a header or with the client, stays.
    """
    headers: dict[str, str] = call["headers"]
    usual = client.headers.get("accept-encoding") == _usual_codings()
    if usual and not any(name.lower() == "accept-encoding" for name in headers):
        headers["accept-encoding"] = "identity" if _is_loopback(urlsplit(call["url"]).hostname) else "gzip"


@functools.cache
def _usual_codings() -> str | None:
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(501)), trust_env=False) as client:
        codings: str | None = client.headers.get("accept-encoding")
        return codings


@functools.lru_cache(maxsize=1000)
def _is_loopback(host: str | None) -> bool:
    """Whether a host is this machine: to compress for a connection to itself is work for nothing."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def inflater(response: httpx.Response) -> GzipInflater | None:
    """Return what undoes the coding of a raw body; None where its bytes are the content."""
    return GzipInflater() if _coding(response) in {"gzip", "x-gzip"} else None


def is_raw_readable(response: httpx.Response) -> bool:
    """Whether the body is read raw: as it is, or gzip. httpx undoes other codings, and ready-made responses."""
    return _coding(response) in {"", "identity", "gzip", "x-gzip"} and not response.is_stream_consumed


def _coding(response: httpx.Response) -> str:
    coding: str = response.headers.get("content-encoding", "")
    return coding.strip().lower()


class NoCookies(httpx.Cookies):
    """What a client of our own keeps of the cookies that servers send. To look for them takes httpx long."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take nothing."""
