"""What both fronts need of httpx: one TLS context, timeouts, codings, and its exceptions turned into failures."""

from __future__ import annotations

import functools
import ipaddress
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from durable_streams import _checks
from durable_streams._exchange import RetryPolicy
from durable_streams._inflate import BrokenBodyError, DeflateInflater, GzipInflater, Inflater, NoInflater
from durable_streams._urls import PROTOCOL_PARAMS, split_params, with_params
from durable_streams._wire import Answer, Failure, Reply, Request
from durable_streams.errors import FetchError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from durable_streams._types import HeadersLike, ParamsLike, RetryWith

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
MAX_SHORT_BODY_BYTES: Final = 64 * 1024
MAX_SHORT_BODY_SECONDS: Final = 30.0
"""A body that is read for its words only, behind a head that says what happened."""

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


def check_client(client: object, kind: type[httpx.Client | httpx.AsyncClient]) -> httpx.Client | httpx.AsyncClient:
    """Return an injected client: of the right kind, and it adds nothing of the protocol's to every request."""
    if not isinstance(client, kind):
        found = type(client).__name__
        what = f"an httpx.{found}" if isinstance(client, httpx.Client | httpx.AsyncClient) else f"a {found}"
        raise TypeError(f"this needs an httpx.{kind.__name__}, not {what}")
    for name in client.headers:
        _checks.header_name(name)
    for name in client.params:
        if name in PROTOCOL_PARAMS:
            raise ValueError(f"the client's parameter {name!r} is the protocol's: take it out of httpx's `params`")
    return client


def check_target(url: str, client: object, *, asynchronous: bool) -> None:
    """Check a stream's URL and an injected client; for one with a base URL a path is enough."""
    relative = False
    if client is not None:
        checked = check_client(client, httpx.AsyncClient if asynchronous else httpx.Client)
        relative = str(checked.base_url) != ""
    _checks.stream_url(url, relative=relative)


def as_timeout(timeout: float | httpx.Timeout | None) -> httpx.Timeout | None:
    """Return what the caller chose in the library's form."""
    if isinstance(timeout, int | float):
        return httpx.Timeout(timeout)
    if timeout is None or isinstance(timeout, httpx.Timeout):
        return timeout
    raise TypeError(f"timeout is a number of seconds, an httpx.Timeout or None, not {timeout!r}")


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


class Call(NamedTuple):
    """A request as httpx takes it: ``client.build_request(method, url, **options, content=...)``."""

    url: str
    options: dict[str, Any]

    @property
    def short_body_seconds(self) -> float:
        """How long a short body may take: as long as the first byte of the answer may, within reason."""
        seconds = self.options["timeout"].read
        return min(seconds, MAX_SHORT_BODY_SECONDS) if isinstance(seconds, int | float) else MAX_SHORT_BODY_SECONDS


def call_of(
    request: Request,
    client: httpx.Client | httpx.AsyncClient,
    headers: Iterable[tuple[str, str]],
    params: Sequence[tuple[str, str]],
    timeout: httpx.Timeout | None,
) -> Call:
    """Put together what goes out: the protocol's, the caller's, and what httpx has to be told about its client."""
    url = with_params(request.url, request.params, params)
    options: dict[str, Any] = {
        "headers": merge_headers(dict(request.headers), headers),
        "timeout": timeout_for(request, timeout, client),
    }
    # A client with params of its own puts them in the place of the URL's, unless it has those to merge with.
    if len(client.params) > 0:
        url, options["params"] = split_params(url)
    return Call(url, options)


_VERBS: Final = {"PUT": "put", "POST": "post", "HEAD": "head", "DELETE": "delete"}
_LIBRARYS_OWN: Final = frozenset(
    getattr(kind, name) for kind in (httpx.Client, httpx.AsyncClient) for name in (*_VERBS.values(), "request")
)


def callers_verb(client: httpx.Client | httpx.AsyncClient, method: str) -> Callable[..., Any] | None:
    """Return a client's ``post`` (``put`` ...) if it is somebody's own, not httpx's: then it has to be called.

    httpx's own does nothing but `build_request`, `send` and then read an answer of any size, for any time.
    """
    verb: Any = getattr(client, _VERBS.get(method, "request"))
    beneath = client.request
    if {getattr(each, "__func__", None) for each in (verb, beneath)} <= _LIBRARYS_OWN:
        return None
    return functools.partial(beneath, method) if method not in _VERBS else verb


def answer_from(error: Exception, request: Request, *, sent: bool = True) -> Answer:
    """Translate an exception of sending a request. Raises `FetchError` for what no second attempt can help.

    ``sent``: whether there was a request to be sent at all.

    An answer that a hook of the caller's raised as an error is an answer all the same. Its body is there only if
    the hook has read it. One with a page in it is none: whoever reads on must not take it for an empty page.
    """
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        raise FetchError(f"cannot send a request to {request.url!r}: {error}", url=request.url) from error
    if isinstance(error, httpx.HTTPStatusError) and not error.response.is_success:
        try:
            return reply_from(error.response, error.response.content)
        except httpx.ResponseNotRead:
            return reply_from(error.response)
    return Failure(_reason(error), sent=sent and not isinstance(error, _NOT_SENT), cause=error)


def broken_body(error: Exception) -> Failure:
    """Translate an exception that one of `READ_ERRORS` is."""
    return Failure(f"the answer broke off: {_reason(error)}", cause=error)


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def closed_client(request: Request, *, injected: bool) -> FetchError:
    """Say that the client is closed: no second attempt can help."""
    message = (
        "the HTTP client is closed: it was injected, and must stay open"
        if injected
        else "this is closed, and with it its HTTP client: make a new one"
    )
    return FetchError(message, url=request.url)


def reply_from(response: httpx.Response, body: bytes = b"") -> Reply:
    """Return the head of a response as a `Reply`."""
    headers: dict[str, str] = {}
    unclear: set[str] = set()
    for raw_name, raw_value in response.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name not in headers:
            headers[name] = value
        elif not name.startswith(_checks.PROTOCOL_HEADERS):
            headers[name] = f"{headers[name]}, {value}"
        elif headers[name] != value:
            unclear.add(name)
    # The protocol's have one value each. Where a proxy says it twice it is still that one; two are none.
    for name in unclear:
        del headers[name]
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
        if not isinstance(changes, Mapping):
            raise TypeError(f"on_error returns None or a dict like {{'headers': ...}}, not {changes!r}")
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


def prefer_coding(call: Call, client: httpx.Client | httpx.AsyncClient, coding: str | None = None) -> None:
    """Ask for what can be taken in bounded pieces: gzip, and nothing at all from this very machine; or ``coding``.

    What the caller asked for, in a header or with the client, stays.
    """
    headers: dict[str, str] = call.options["headers"]
    usual = client.headers.get("accept-encoding") == _usual_codings()
    if usual and not any(name.lower() == "accept-encoding" for name in headers):
        headers["accept-encoding"] = coding or (
            "identity" if _is_loopback(urlsplit(call.url).hostname) else "gzip"
        )


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


def decoding(response: httpx.Response) -> tuple[bool, Inflater | None]:
    """Say how to get at the content of a body: whether from its raw bytes, and what undoes their coding.

    gzip and deflate are undone here, in bounded pieces, other codings by httpx where it can. Ready-made responses
    have no raw bytes any more, and mocks of responses never had.
    """
    codings = _codings(response)
    raw = not getattr(response, "is_stream_consumed", True)
    match codings:
        case []:
            return raw, None
        case ["gzip" | "x-gzip"]:
            return raw, GzipInflater() if raw else None
        case ["deflate"]:
            return raw, DeflateInflater() if raw else None
        case _:
            pass
    unknown = set(codings) - set((_usual_codings() or "").split(", "))
    return (raw, NoInflater(", ".join(sorted(unknown)))) if unknown else (False, None)


def _codings(response: httpx.Response) -> list[str]:
    named: str = response.headers.get("content-encoding", "")
    return [coding for each in named.lower().split(",") if (coding := each.strip()) not in {"", "identity"}]


class NoCookies(httpx.Cookies):
    """What a client of our own keeps of the cookies that servers send. To look for them takes httpx long."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take nothing."""
