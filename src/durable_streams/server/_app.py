"""The server as one ASGI application over a store.

It turns HTTP into requests, asks the rules (in the store's transaction where something may change) and sends
what they say. Any path is a stream; forks and subscriptions are answered with 501. Answers to reads are compressed
for who accepts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from durable_streams import _wire
from durable_streams.server import _commands, _encoding, _reads, _requests, _rules
from durable_streams.server._commands import Moment
from durable_streams.server._errors import StoreError, StoreFullError
from durable_streams.server._http import METHODS, PREFLIGHT, DisconnectedError, Exchange
from durable_streams.server._limits import Limits
from durable_streams.server._requests import ReadRequest, RefusedError
from durable_streams.server._room import FullNotice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from durable_streams.server._http import Receive, Scope, Send
    from durable_streams.server._requests import Body
    from durable_streams.server._rules import Answer, Headers
    from durable_streams.server._store import Page, Store, Stream

logger = logging.getLogger("durable_streams.server")

_SWEEP_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 1.0
"""Between two sweeps when there is more to do: others write, too."""
_BRIEFLY_SECONDS: Final = 1.0
_NOT_FOUND: Final = RefusedError(404, _rules.NOT_FOUND.reason)


class StreamApp:
    """An ASGI application that serves the streams of a store.

    With a ``token`` every request needs ``Authorization: Bearer <token>``. With ``local_only`` requests that a web
    page of another machine makes a browser send are refused, by their ``Origin`` and ``Host``.

    `start` and `close` are called by the lifespan protocol, or by whoever runs the application without it.
    ``clock`` gives seconds since 1970, ``monotonic`` seconds that no change of the clock disturbs.
    """

    def __init__(
        self,
        store: Store,
        *,
        token: str | None = None,
        local_only: bool = False,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random_source: _reads.RandomSource | None = None,
    ) -> None:
        self._store = store
        self._token = None if token is None else token.strip()
        self._local_only = local_only
        self._limits = limits or Limits()
        self._clock = clock
        self._monotonic = monotonic
        self._served_since = monotonic()
        self._full = FullNotice(logger, monotonic)
        self._parsing = asyncio.Lock()
        self._random = random_source or random.Random()  # noqa: S311 - jitter
        self._stopping = False
        self._sweeper: asyncio.Task[None] | None = None
        self._methods: Mapping[str, Callable[[Exchange, str], Awaitable[None]]] = {
            "PUT": self._create,
            "POST": self._append,
            "GET": self._read,
            "HEAD": self._describe,
            "DELETE": self._delete,
        }

    async def start(self) -> None:
        """Begin the upkeep: expired streams are deleted now and then."""
        if self._sweeper is None:
            self._served_since = self._monotonic() - await self._store.served_seconds()
            self._sweeper = asyncio.create_task(self._sweep_for_ever())

    def stop_waiting(self) -> None:
        """End all live reads; to be called from the event loop before the server stops."""
        self._stopping = True
        self._store.stop_waiting()

    async def close(self) -> None:
        """End the upkeep and close the store."""
        self.stop_waiting()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait({self._sweeper})
        await self._store.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            idle = self._limits.body_idle_seconds
            await self._serve(Exchange(scope, receive, send, body_idle_seconds=idle))

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            await self.start()
            await send({"type": "lifespan.startup.complete"})
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except RefusedError as refused:
            await self._give_up(exchange, refused.status, refused.reason)
        except DisconnectedError:
            logger.debug("request.abandoned: %s %r", exchange.method, exchange.raw_path)
        except StoreError:
            logger.exception("store.failed")
            await self._give_up(exchange, 500, "the store failed")
        except Exception:
            # Supervision boundary: one request's failure must not show a traceback to the client.
            logger.exception("request.failed: %s %r", exchange.method, exchange.raw_path)
            await self._give_up(exchange, 500, "internal error")

    async def _give_up(self, exchange: Exchange, status: int, reason: str, headers: Headers = ()) -> None:
        if exchange.answered:
            return  # an answer that ends in the middle is how its reader learns of the failure
        with contextlib.suppress(DisconnectedError):
            await exchange.refuse(status, reason, headers)

    async def _route(self, exchange: Exchange) -> None:
        if exchange.method == "OPTIONS":
            await exchange.answer(204, PREFLIGHT)
            return
        if self._local_only and not exchange.is_local:
            await exchange.refuse(403, "without a token only programs and pages of this machine are served")
            return
        if not self._authorized(exchange):
            wanted = [("www-authenticate", "Bearer")]
            await exchange.refuse(401, "a valid bearer token is needed", wanted, discard_seconds=_BRIEFLY_SECONDS)
            return
        path = _requests.stream_path(exchange.raw_path)
        handle = self._methods.get(exchange.method)
        if handle is None:
            await exchange.refuse(405, f"{exchange.method[:20]} is not supported", [("allow", METHODS)])
            return
        try:
            await handle(exchange, path)
        except RefusedError as refused:
            await self._refuse(exchange, path, refused.status, refused.reason)
        except StoreFullError as error:
            self._full.refused(error)
            await self._refuse(exchange, path, 507, "no space left: nothing was stored")

    async def _refuse(self, exchange: Exchange, path: str, status: int, reason: str) -> None:
        """Refuse what was asked of a path.

        If there is a stream, with its own headers: a producer must know that it is not a proxy that refuses.
        """
        stream = None
        if status != _NOT_FOUND.status:
            with contextlib.suppress(StoreError):  # what is refused is refused, even if nothing can be read
                stream = await self._store.find(path)
        if stream is None or _rules.expired(stream, self._clock()):
            await self._give_up(exchange, status, reason, _rules.full_headers(status))
        else:
            answer = _rules.refusal(status, stream, reason)
            await self._give_up(exchange, status, reason, answer.headers)

    def _authorized(self, exchange: Exchange) -> bool:
        if self._token is None:
            return True
        scheme, _, given = exchange.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._token.encode())
        return right and scheme.lower() == "bearer"

    # --- Writing ------------------------------------------------------------------------------------------

    async def _create(self, exchange: Exchange, path: str) -> None:
        request = _requests.create_request(exchange.headers)
        body = await self._body(exchange, path, request.settings.content_type)
        work = partial(
            _commands.create,
            path=path,
            request=request,
            body=body,
            moment=self._moment(),
            max_streams=self._limits.max_streams,
        )
        answer = await self._store.transact(work)
        if answer.status == 201:
            self._full.stored()
        location = (("location", exchange.url),) if answer.status == 201 else ()
        await self._send(exchange, answer, location)

    async def _append(self, exchange: Exchange, path: str) -> None:
        request = _requests.append_request(exchange.headers)
        body = await self._body(exchange, path, request.content_type, must_exist=True)
        problem = _rules.malformed_append(request, body)
        if problem is not None:
            raise RefusedError(400, problem)
        work = partial(
            _commands.append,
            path=path,
            request=request,
            body=body,
            moment=self._moment(),
            retention=self._limits.retention,
        )
        answer = await self._store.transact(work)
        if body.sent and answer.status < 400:
            self._full.stored()
        await self._send(exchange, answer)

    async def _body(
        self, exchange: Exchange, path: str, content_type: str | None, *, must_exist: bool = False
    ) -> Body:
        """The request's body, unpacked and parsed. Raises `RefusedError` (400, 404, 408, 413, 415)."""
        limit = self._limits.max_body_bytes
        encoding = exchange.headers.get("content-encoding", "")
        raw = await exchange.body(limit)
        if len(raw) <= _encoding.LARGE_BYTES and not encoding:
            return _requests.body(content_type, raw)
        # Unpacking and parsing takes a second at worst: nothing to do for a stream that there is not, and one at
        # a time, so that everybody else has a turn in between.
        if must_exist and await self._store.find(path) is None:
            raise _NOT_FOUND
        async with self._parsing:
            if encoding:
                raw = await asyncio.to_thread(_encoding.decoded, raw, encoding, limit)
            body = _requests.body(content_type, raw)
            await asyncio.sleep(0)
        return body

    def _moment(self) -> Moment:
        return Moment(self._clock(), self._monotonic() - self._served_since)

    async def _delete(self, exchange: Exchange, path: str) -> None:
        work = partial(_commands.delete, path=path, now=self._clock())
        await self._send(exchange, await self._store.transact(work))

    async def _send(
        self, exchange: Exchange, answer: Answer, more_headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        headers = answer.headers + more_headers
        if answer.status >= 400:
            await exchange.refuse(answer.status, answer.reason, headers)
        else:
            await exchange.answer(answer.status, headers)

    # --- Reading ------------------------------------------------------------------------------------------

    async def _describe(self, exchange: Exchange, path: str) -> None:
        stream = await self._store.find(path)
        if stream is None or _rules.expired(stream, self._clock()):
            raise _NOT_FOUND
        await self._send(exchange, _rules.describe(stream))

    async def _read(self, exchange: Exchange, path: str) -> None:
        request = _requests.read_request(exchange.query)
        page = await self._page(path, request.start)
        if page.start > page.stream.tail:
            raise RefusedError(400, "the offset lies beyond the end of the stream")
        await self._renew(page.stream)
        if request.live == "long-poll":
            await self._long_poll(exchange, request, page)
        elif request.live == "sse":
            await self._send_events(exchange, request, page)
        else:
            await self._catch_up(exchange, request, page)

    async def _page(self, path: str, start: int | None, stream: Stream | None = None) -> Page:
        """The page at ``start``, of the very same stream if one is given. Raises `RefusedError` (404, 410)."""
        page = await self._store.read(path, start, self._limits.page_bytes)
        if page is None or _rules.expired(page.stream, self._clock()):
            raise _NOT_FOUND
        if stream is not None and page.stream.id != stream.id:
            raise _NOT_FOUND
        if page.gone:
            raise _reads.gone(page)
        return page

    async def _renew(self, stream: Stream) -> None:
        change = _rules.renewal(stream, self._clock())
        if change is None:
            return
        try:
            await self._store.transact(
                partial(_commands.renew, path=stream.path, stream_id=stream.id, change=change)
            )
        except StoreError as error:
            logger.warning("store.deadline_not_renewed: %s", error)  # a full disk must not prevent reading

    async def _catch_up(self, exchange: Exchange, request: ReadRequest, page: Page) -> None:
        headers = _reads.page_headers(page)
        if request.start is None:
            await exchange.answer(200, (*headers, ("cache-control", "no-store")), _reads.content(page))
            return
        await self._send_page(exchange, headers, page)

    async def _long_poll(self, exchange: Exchange, request: ReadRequest, page: Page) -> None:
        if not page.messages and not page.final:
            page = await self._wait_for_page(exchange, page)
        headers = _reads.page_headers(page)
        if not page.final:
            cursor = _reads.cursor(self._clock(), request.cursor, self._random)
            headers += ((_wire.STREAM_CURSOR, str(cursor)),)
        if page.messages:
            await self._send_page(exchange, headers, page)
        else:
            await exchange.answer(204, (*headers, ("cache-control", "no-store")))

    async def _send_page(self, exchange: Exchange, headers: Headers, page: Page) -> None:
        limit = self._limits.compress_bytes
        content = _reads.content(page)
        compressible = limit is not None and len(content) >= limit
        compress = compressible and _encoding.accepts_gzip(exchange.headers.get("accept-encoding"))
        tag = _reads.entity_tag(page, content, compressed=compress)
        control = _reads.cache_control(page, self._clock(), shared=self._token is None)
        headers = (*headers, ("etag", tag), ("cache-control", control))
        if compressible:
            headers += (("vary", "accept-encoding"),)
        if _reads.matches(exchange.headers.get("if-none-match"), tag):
            await exchange.answer(304, headers)
        elif compress:
            headers += (("content-encoding", _encoding.GZIP),)
            await exchange.answer(200, headers, await self._compressed(content))
        else:
            await exchange.answer(200, headers, content)

    async def _compressed(self, content: bytes) -> bytes:
        if len(content) > _encoding.LARGE_BYTES:
            return await asyncio.to_thread(_encoding.compressed, content)
        return _encoding.compressed(content)

    async def _wait_for_page(self, exchange: Exchange, page: Page) -> Page:
        """The page once it holds something, or is final, or the time of a long-poll is over."""
        stream = page.stream
        with self._store.watch(stream.id) as news:
            # What came between the first read and the watch would otherwise be waited for in vain.
            page = await self._page(stream.path, page.start, stream)
            if page.messages or page.final:
                return page
            async with exchange.set_on_disconnect(news):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.long_poll_timeout_seconds):
                        await news.wait()
            return await self._page(stream.path, page.start, stream)

    async def _send_events(self, exchange: Exchange, request: ReadRequest, page: Page) -> None:
        headers: tuple[tuple[str, str], ...] = (
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
        )
        if not _reads.sent_as_text(page.stream):
            headers += ((_wire.SSE_DATA_ENCODING, "base64"),)
        cursor = _reads.cursor(self._clock(), request.cursor, self._random)
        await exchange.start_streaming(headers)
        with contextlib.suppress(TimeoutError, RefusedError), self._store.watch(page.stream.id) as news:
            # A deleted stream just ends the events: the client connects again and is told.
            async with exchange.set_on_disconnect(news), asyncio.timeout(self._limits.sse_seconds):
                await self._send_pages(exchange, page, cursor, news)
        await exchange.send_piece(b"", last=True)

    async def _send_pages(self, exchange: Exchange, page: Page, cursor: int, news: asyncio.Event) -> None:
        stream = page.stream
        first = True
        while True:
            if first or page.messages or page.final:
                cursor = max(cursor, _reads.cursor(self._clock(), None, self._random))
                await exchange.send_piece(_reads.events(page, cursor))
            if page.final or self._stopping or exchange.disconnected:
                return
            if page.up_to_date and not first:
                await news.wait()
            first = False
            news.clear()
            page = await self._page(stream.path, page.end, stream)

    # --- Upkeep -------------------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        while True:
            more = False
            try:
                more = await self._store.transact(
                    partial(_commands.sweep, moment=self._moment(), retention=self._limits.retention)
                )
            except StoreError as error:
                logger.warning("store.sweep_failed: %s", error)
            except Exception:
                # Supervision boundary: nothing would ever expire again.
                logger.exception("store.sweep_failed")
            await asyncio.sleep(_PAUSE_SECONDS if more else _SWEEP_SECONDS)
