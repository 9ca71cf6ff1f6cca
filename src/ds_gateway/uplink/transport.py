"""The way to the stream server: certificates read again when their files change, and failures that name the cause.

httpx keeps one TLS context for ever, and of a refused certificate it often knows nothing but that the connection
broke: with TLS 1.3 the server judges the client's certificate when the client believes the handshake to be over.
Then one more connection is made, on which nothing is sent, to hear what the server says to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from ds_gateway import tls
from ds_gateway.errors import CertificateError
from ds_gateway.logs import event, logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ds_gateway.config.server import ServerSettings

_log = logger("uplink")

KEY: Final = "server.tls"
ASK_SECONDS: Final = 5.0
"""How long a server may take for what it has to say of a client's certificate."""
ASK_TIMES: Final = 5
"""A server that hangs up with something unread resets the connection, and its last words may be lost."""
ASK_AGAIN_SECONDS: Final = 60.0
"""How often at most a server is asked, and how long what it said stands for failures without words."""
_DEFAULT_HTTP_PORT: Final = 80
_DEFAULT_HTTPS_PORT: Final = 443
_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0)
"""httpx's own, but for the last: a reading each 10 s is not to cost a handshake each, on a line that is paid for.

Shorter than servers (75 s in nginx) and networks keep an idle connection.
"""


class Watch(Protocol):
    """Who is told of the server's certificates."""

    def shown(self, name: str, url: str, chain: Sequence[bytes]) -> None:
        """The server was accepted by these, in DER."""
        ...  # pragma: no cover


class _Pool:
    """Connections that were made with one context. It is closed when nobody uses it any more."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.users = 0
        self.is_retired = False

    async def leave(self) -> None:
        """One request less."""
        self.users -= 1
        await self.close_if_done()

    async def close_if_done(self) -> None:
        """Close a retired one that nobody uses."""
        if self.is_retired and self.users == 0:
            await self.transport.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer: OpenSSL's errors come as httpx's, and its pool learns of its end."""

    def __init__(self, stream: httpx.AsyncByteStream, pool: _Pool) -> None:
        self._stream = stream
        self._pool: _Pool | None = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except ssl.SSLError as error:
            raise httpx.ReadError(f"TLS broke off: {error.reason or error}") from error

    async def aclose(self) -> None:
        await self._stream.aclose()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.leave()


class ServerTransport(httpx.AsyncBaseTransport):
    """Carries requests to the stream server, through the configured proxy if there is one.

    Without usable certificates every request fails with the reason, until there are some.
    """

    def __init__(
        self,
        settings: ServerSettings,
        watch: Watch | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._monotonic = monotonic
        self._is_secure = settings.url.startswith("https:")
        self._pool: _Pool | None = None
        self._context: ssl.SSLContext | None = None
        self._stamps: tuple[object, ...] | None = None
        self._unusable = ""
        self._last_connection: object = None
        self._asked_at = float("-inf")
        self._said: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request. Raises what httpx raises, with the cause in its text."""
        pool = await self._current()
        if pool is None:
            raise httpx.ConnectError(self._unusable, request=request)
        pool.users += 1
        try:
            response = await pool.transport.handle_async_request(request)
        except (httpx.TransportError, ssl.SSLError) as error:
            await pool.leave()
            text = await self._cause(error, request.url)
            if isinstance(error, ssl.SSLError):
                raise httpx.ReadError(text or str(error), request=request) from error
            if text is None:
                raise
            raise type(error)(text, request=request) from error
        except BaseException:
            await pool.leave()
            raise
        self._said = None
        if not self._is_secure:
            pool.users -= 1
            return response
        self._look(response)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, pool)
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            await self._pool.transport.aclose()

    # -- certificates

    async def _current(self) -> _Pool | None:
        """The pool with the certificates as they are on the disk now; the one before while they cannot be used."""
        stamps = self._stamps_now()
        if self._pool is not None and stamps == self._stamps:
            return self._pool
        if stamps != self._stamps or self._unusable:
            await self._renew(stamps)
        return self._pool

    async def _renew(self, stamps: tuple[object, ...]) -> None:
        is_first, self._stamps = self._stamps is None, stamps
        try:
            context = tls.client_context(self._settings.tls, key=KEY) if self._is_secure else None
        except CertificateError as error:
            if self._unusable != str(error):
                event(_log, "error", "uplink.certificates.unusable", reason=str(error))
            self._unusable = str(error)
            return
        if not is_first:
            event(_log, "info", "uplink.certificates.read")
        self._unusable = ""
        retired, self._context = self._pool, context
        self._pool = _Pool(
            httpx.AsyncHTTPTransport(
                verify=_context_for_proxy(self._settings.proxy) if context is None else context,
                proxy=None if self._settings.proxy is None else httpx.Proxy(self._settings.proxy),
                trust_env=False,
                limits=_LIMITS,
            )
        )
        if retired is not None:
            retired.is_retired = True
            await retired.close_if_done()

    def _stamps_now(self) -> tuple[object, ...]:
        """What changes when a file with certificates is replaced."""
        if not self._is_secure:
            return ()
        files = self._settings.tls
        usual = ssl.get_default_verify_paths()
        authorities = (files.ca,) if files.ca is not None else (usual.cafile, usual.capath)
        return tuple(_stamp(path) for path in (*authorities, files.cert, files.key))

    def _look(self, response: httpx.Response) -> None:
        """Tell of the server's certificates, once for each connection."""
        network = response.extensions.get("network_stream")
        secure: Any = None if network is None else network.get_extra_info("ssl_object")
        if self._watch is None or secure is None or secure is self._last_connection:
            return
        self._last_connection = secure
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._watch.shown("server", self._settings.url, tls.peer_chain(secure))

    # -- causes

    async def _cause(self, error: BaseException, url: httpx.URL) -> str | None:
        """Why it failed, and what to do; None where the error itself says as much."""
        refused = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
        if refused is not None:
            self._said = tls.explain(refused, peer="the server", key=KEY)
            return self._said
        if isinstance(error, httpx.ProxyError):
            return f"the proxy does not let the request through: {error}; see server.proxy"
        if self._settings.proxy is not None and isinstance(error, httpx.ConnectError):
            return f"the proxy in server.proxy cannot be reached: {error or _words(error)}"
        if isinstance(error, httpx.ConnectError) and (system := _system_words(error)):
            place = f"{url.host}:{url.port or (_DEFAULT_HTTPS_PORT if self._is_secure else _DEFAULT_HTTP_PORT)}"
            return f"{place} cannot be reached ({system}): start the server, or see that server.url leads to it"
        if not self._is_secure or str(error) or isinstance(error, httpx.TimeoutException):
            return None
        if self._settings.proxy is None:
            await self._ask(url)
        return self._said or (
            f"the connection broke off in TLS ({_words(error)}): if the server wants client certificates, see "
            f"{KEY}.cert and {KEY}.key, and the server's log"
        )

    async def _ask(self, url: httpx.URL) -> None:
        """Ask on a connection of its own, without a request, what the server has against it."""
        if self._monotonic() < self._asked_at + ASK_AGAIN_SECONDS or self._context is None:
            return
        self._asked_at = self._monotonic()
        self._said = None
        for _ in range(ASK_TIMES):
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    if not await self._is_reset(url, self._context):
                        return
            except ssl.SSLError as error:
                self._said = tls.explain(error, peer="the server", key=KEY)
                return
            except (OSError, ValueError):  # TimeoutError is one: it has nothing against this one
                return

    async def _is_reset(self, url: httpx.URL, context: ssl.SSLContext) -> bool:
        """Shake hands and listen. True: it was reset, and what the server said before got lost. Raises OSError."""
        reader, writer = await asyncio.open_connection(
            url.host, url.port or _DEFAULT_HTTPS_PORT, ssl=context, server_hostname=url.host
        )
        try:
            await reader.read(1)
        except ConnectionError:
            return True
        finally:
            writer.transport.abort()
        return False


def _context_for_proxy(proxy: str | None) -> ssl.SSLContext:
    """The context of a server without TLS: for a proxy that has it. Authorities take long to be read."""
    has_tls = proxy is not None and proxy.startswith("https:")
    return ssl.create_default_context() if has_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, at most ten deep."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and len(found) < 10:
        found.append(each)
        each = each.__cause__ or each.__context__
    return found


def _words(error: BaseException) -> str:
    """The innermost words that there are."""
    return next((text for each in reversed(_causes(error)) if (text := str(each))), type(error).__name__)


def _system_words(error: BaseException) -> str:
    """What the operating system said; empty if it was nothing of the system's."""
    for each in reversed(_causes(error)):
        # A host with several addresses fails with one error for each.
        last = each.exceptions[-1] if isinstance(each, ExceptionGroup) else each
        if isinstance(last, socket.gaierror):
            return str(last.strerror)
        if isinstance(last, OSError) and last.errno is not None:
            return os.strerror(last.errno)  # asyncio has words of its own in its place
    return ""


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
