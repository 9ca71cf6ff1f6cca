"""The page as an ASGI application. It only reads, and it says nothing that is secret.

| path         | answer                                                                | needs the token |
|--------------|-----------------------------------------------------------------------|-----------------|
| /            | the page: one file, the same for everybody                            | no              |
| /status.json | the status document                                                   | yes             |
| /metrics     | the same as Prometheus metrics                                        | yes             |
| /healthz     | 200 while the event loop, the journal's writer and the sources turn   | no: one word    |
| /readyz      | 200 while the gateway is up, as the service manager was told it       | no: one word    |

Without a token only this machine is served, and a ``Host`` that names another one is refused: a web page whose
name was made to point here (DNS rebinding) could read everything otherwise. A token is what such a page lacks.
"""

from __future__ import annotations

import gzip
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway import metrics
from ds_gateway.config.addresses import host_and_port, is_loopback
from ds_gateway.logs import event, logger
from ds_gateway.page.document import Page
from ds_gateway.page.inside import SilentError

if TYPE_CHECKING:
    from ds_gateway.config.credential import Credential
    from ds_gateway.page.inside import Asking

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logger("page")

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_COMPRESSED_BYTES: Final = 4096
"""From this size on an answer is compressed for who accepts it."""
_GZIP_LEVEL: Final = 1
"""A small box spends its time on devices."""
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
"""The policy of what is no page."""


class RefusedError(Exception):
    """The request gets another answer than it asked for."""

    def __init__(self, status: HTTPStatus, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class PageApp:
    """Serves the page. ``token`` is asked at each request, so that a changed file counts at once."""

    def __init__(self, asking: Asking, token: Credential | None, page: Page | None = None) -> None:
        self._asking = asking
        self._token = token
        self._page = page or Page.load()
        self._paths: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "/": self._index,
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    async def start(self) -> None:
        """Nothing is to be begun; see `durable_streams.server.ServerThread`."""

    def stop_waiting(self) -> None:
        """Nothing waits for long."""

    async def close(self) -> None:
        """Nothing is to be ended."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        del receive  # there are no bodies to read
        if scope["type"] != "http":
            return
        request = Request(scope)
        try:
            answer = await self._answer(request)
        except RefusedError as refused:
            answer = Answer(_line(str(refused)), _TEXT, refused.status, refused.headers)
        except SilentError as error:
            answer = Answer(_line(str(error)), _TEXT, HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception as error:  # noqa: BLE001 - supervision boundary: a page that fails must stop nothing
            event(_log, "error", "page.failed", path=request.path, error=repr(error), exc=error)
            reason = "this failed inside the gateway, whose log says why; its work goes on"
            answer = Answer(_line(reason), _TEXT, HTTPStatus.INTERNAL_SERVER_ERROR)
        await answer.send(request, send)

    async def _answer(self, request: Request) -> Answer:
        if self._token is None and not request.is_for_this_machine:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "without status.token only this machine is served, under the name localhost or 127.0.0.1: set a "
                "token to be served under another one, as behind a proxy",
            )
        serve = self._paths.get(request.path)
        if serve is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there are {', '.join(self._paths)}")
        if request.method not in {"GET", "HEAD"}:
            raise RefusedError(
                HTTPStatus.METHOD_NOT_ALLOWED, "this is only for looking: GET, HEAD", allow="GET, HEAD"
            )
        return await serve(request)

    async def _index(self, _request: Request) -> Answer:
        headers = {"content-security-policy": self._page.policy}
        return Answer(self._page.content, "text/html; charset=utf-8", headers=headers)

    async def _status(self, request: Request) -> Answer:
        self._need_token(request)
        return Answer(orjson.dumps(await self._asking.status()), _JSON)

    async def _metrics(self, request: Request) -> Answer:
        self._need_token(request)
        content, kind = metrics.exposition(await self._asking.status(), request.headers.get("accept", ""))
        return Answer(content, kind)

    async def _health(self, request: Request) -> Answer:
        stalled = await self._asking.stalled()
        return self._verdict(request, "stalled", ", ".join(stalled))

    async def _readiness(self, request: Request) -> Answer:
        return self._verdict(request, "not ready", await self._asking.why_not_ready())

    def _verdict(self, request: Request, word: str, reason: str) -> Answer:
        """For programs the status, and a word; why, only for who may know."""
        if not reason:
            return Answer(b"ok\n", _TEXT)
        text = f"{word}: {reason}" if self._is_authorized(request) else word
        return Answer(_line(text), _TEXT, HTTPStatus.SERVICE_UNAVAILABLE)

    def _need_token(self, request: Request) -> None:
        if not self._is_authorized(request):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED, "a valid bearer token is needed", www_authenticate="Bearer"
            )

    def _is_authorized(self, request: Request) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = self._token.get().strip().encode()
        # A header's bytes are read as Latin-1, whatever they are: these are the bytes that were sent.
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), token)
        return bool(token) and is_right and scheme.lower() == "bearer"


class Request:
    """What is looked at of a request. It has no body: only GET and HEAD are served."""

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }

    @property
    def is_for_this_machine(self) -> bool:
        """Whether its ``Host`` names this machine alone."""
        try:
            host, _ = host_and_port(self.headers.get("host", ""))
        except ValueError:
            return False
        return is_loopback(host.lower())

    @property
    def accepts_gzip(self) -> bool:
        """Whether the answer may be compressed."""
        offered = (part.partition(";") for part in self.headers.get("accept-encoding", "").split(","))
        return any(name.strip().lower() == "gzip" and "q=0" not in rest for name, _, rest in offered)


class Answer:
    """What is answered."""

    def __init__(
        self,
        content: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
    ) -> None:
        self._content = content
        self._kind = kind
        self._status = status
        self._headers = headers or {}

    async def send(self, request: Request, send: Send) -> None:
        """Send it, compressed where that is worth it."""
        content = self._content
        headers = {**_HEADERS, "content-security-policy": _NOTHING, "content-type": self._kind, **self._headers}
        if len(content) >= _COMPRESSED_BYTES:
            headers["vary"] = "accept-encoding"
            if request.accepts_gzip:
                content = gzip.compress(content, _GZIP_LEVEL)
                headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(content))
        pairs = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": int(self._status), "headers": pairs})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else content})


def _line(text: str) -> bytes:
    return f"{text}\n".encode()
