"""A handle on one stream, with async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import anyio

from durable_streams import _checks, _http
from durable_streams._async_response import AsyncStreamResponse, StreamOpening
from durable_streams._batching import interrupted
from durable_streams._handle import StreamHandle
from durable_streams._http_async import AsyncCarrier
from durable_streams._messages import encoder
from durable_streams._tasks import spawn

if TYPE_CHECKING:
    from datetime import datetime

    import httpx

    from durable_streams._batching import Waiting
    from durable_streams._tasks import BackgroundTask
    from durable_streams._types import (
        AppendResult,
        CloseResult,
        HeadersLike,
        HeadResult,
        LiveMode,
        Offset,
        ParamsLike,
        ReadErrorHandler,
    )


class AsyncDurableStream(StreamHandle):
    """One stream at one URL. Making a handle sends nothing.

    ``headers`` and ``params`` go with every request; callables among their values, also ``async`` ones, are asked
    once for each. ``timeout`` is in seconds and holds for each step of each request: connecting, each write, each
    read; None leaves it to the client, and a client of our own has 30 s. ``batching``: see `append`.

    Without ``client`` the handle has one of its own, which `close` closes; an injected one is used for everything
    and never closed. With asyncio and with trio.

    Raises ValueError or TypeError for what cannot be right (an empty URL, a header with a line break ...).
    """

    def __init__(
        self,
        url: str,
        *,
        content_type: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.AsyncClient | None = None,
        timeout: float | httpx.Timeout | None = None,
        batching: bool = True,
    ) -> None:
        _checks.timeout(timeout)
        _http.check_target(url, client, asynchronous=True)
        super().__init__(url, content_type, _http.default_policy(), batching=batching)
        self._carrier = AsyncCarrier(client, _http.Extras(headers, params), timeout=timeout)
        self._sender: BackgroundTask | None = None
        self._batch: list[Waiting] = []
        """What is under way."""

    @classmethod
    async def create(
        cls,
        url: str,
        *,
        content_type: str | None = None,
        ttl_seconds: int | None = None,
        expires_at: str | datetime | None = None,
        body: Any = None,
        closed: bool = False,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.AsyncClient | None = None,
        timeout: float | httpx.Timeout | None = None,  # noqa: ASYNC109 - a timeout of each request
        batching: bool = True,
    ) -> Self:
        """Create the stream, or make sure it exists with this configuration; return a handle.

        The arguments are those of the handle and of `create_stream`.
        """
        handle = cls(
            url,
            content_type=content_type,
            headers=headers,
            params=params,
            client=client,
            timeout=timeout,
            batching=batching,
        )
        try:
            await handle.create_stream(ttl_seconds=ttl_seconds, expires_at=expires_at, body=body, closed=closed)
        except BaseException:
            await handle.aclose()
            raise
        return handle

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.AsyncClient | None = None,
        timeout: float | httpx.Timeout | None = None,  # noqa: ASYNC109 - a timeout of each request
        batching: bool = True,
    ) -> Self:
        """Return a handle on a stream that exists; raises `StreamNotFoundError` otherwise."""
        handle = cls(url, headers=headers, params=params, client=client, timeout=timeout, batching=batching)
        try:
            await handle.head()
        except BaseException:
            await handle.aclose()
            raise
        return handle

    @classmethod
    async def head_static(
        cls,
        url: str,
        *,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.AsyncClient | None = None,
        timeout: float | httpx.Timeout | None = None,  # noqa: ASYNC109 - a timeout of each request
    ) -> HeadResult:
        """Ask a stream about itself, without a handle."""
        async with cls(url, headers=headers, params=params, client=client, timeout=timeout) as handle:
            return await handle.head()

    @classmethod
    async def delete_static(
        cls,
        url: str,
        *,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.AsyncClient | None = None,
        timeout: float | httpx.Timeout | None = None,  # noqa: ASYNC109 - a timeout of each request
    ) -> None:
        """Delete a stream, without a handle."""
        async with cls(url, headers=headers, params=params, client=client, timeout=timeout) as handle:
            await handle.delete()

    def carrier(
        self,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        *,
        on_error: ReadErrorHandler | None = None,
    ) -> AsyncCarrier:
        """What sends requests with this handle's client; for the rest of this package."""
        return self._carrier.borrow(self._carrier.extras.merged(headers, params), on_error=on_error)

    async def create_stream(
        self,
        *,
        content_type: str | None = None,
        ttl_seconds: int | None = None,
        expires_at: str | datetime | None = None,
        body: Any = None,
        closed: bool = False,
    ) -> HeadResult:
        """Create the stream, or make sure it exists with this configuration (PROTOCOL section 5.1).

        The stream expires ``ttl_seconds`` after its last use, or at ``expires_at``; not both. ``body`` is the
        content of a new stream (of one that exists, nothing is changed): ``bytes`` or ``str``; on a JSON stream
        JSON text or any JSON value, of which a list is several messages. ``closed`` makes that all it will ever
        hold. Raises `StreamExistsError` if it exists with another configuration. Safe to repeat, and repeated
        when an answer is lost.
        """
        flow = self._create_flow(
            content_type=content_type, ttl_seconds=ttl_seconds, expires_at=expires_at, body=body, closed=closed
        )
        return await self._carrier.run(flow)

    async def head(self) -> HeadResult:
        """Ask the stream about itself; raises `StreamNotFoundError` if there is none."""
        return await self._carrier.run(self._head_flow())

    async def append(self, data: Any, *, seq: str | None = None) -> AppendResult:
        """Append one message; return when the server has confirmed it.

        On a JSON stream ``data`` is any JSON value, a list being one message, too; ``str`` and ``bytes`` are JSON
        text already, which is checked and never encoded again. Elsewhere ``data`` is ``bytes`` or ``str``. Appends
        from several tasks go out in the order of the calls, one POST after the other. With ``batching`` all that
        wait go into the next POST and share its result; otherwise, and with ``seq``, each has its own.

        What is certain: after a return the message is stored once; after an error it is not stored, unless the
        error is ``in_doubt``, which then says what is known. Within that, a refused connection, 429, and 503 with
        ``Retry-After`` are tried again. So are 500 and 503, once the stream was asked and still ends where this
        handle last saw it end (by `create`, `connect`, `head` or an append). If it has grown, or was never seen,
        they raise, as does every lost answer, 502 and 504. This relies on a server that has finished with what it
        answers 500 or 503, and on HEAD not coming from a cache or a lagging copy.

        ``seq`` is the caller's own order (``Stream-Seq``), greater each time, compared byte by byte. The server
        refuses what it has already, so everything may be tried again: a `SeqConflictError` in doubt is then most
        likely the attempt whose answer was lost. `IdempotentProducer` leaves no doubt at all.

        Raises `MessageError` for what the stream cannot take, `StreamNotFoundError`, `StreamClosedError`,
        `ContentTypeMismatchError`, `SeqConflictError`, `FetchError` and others. If the append is cancelled before
        it is under way, it is not sent; afterwards it goes on. No other append is touched.
        """
        settled = anyio.Event()
        entry = self._new_append(data, seq, settled.set)
        self._queue.join(entry)
        if self._sender is None:
            self._sender = spawn(self._send_all, name=f"appends to {self._url}", on_end=self._sender_ended)
        try:
            await settled.wait()
        finally:
            self._queue.leave(entry)
        return entry.outcome()

    def stream(
        self,
        *,
        offset: Offset | None = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> StreamOpening:
        """Read the stream, with this handle's client; see `astream`."""
        carrier = self.carrier(headers, params, on_error=on_error)
        response = AsyncStreamResponse(
            self._url, carrier, offset=offset, live=live, cursor=cursor, content_type=self._content_type
        )
        return StreamOpening(response)

    async def close_stream(self, data: Any = None) -> CloseResult:
        """Close the stream for good, with a last message if one is given. Closing twice is fine without one.

        ``data`` is as in `append`. It is stored at most once, however often the request has to be repeated: a
        closed stream takes no more. But if an answer was lost, `StreamClosedError` may be ``in_doubt``: then the
        stream was closed by that attempt, with its message, or by somebody else without.
        """
        return await self._carrier.run(self._close_flow(data))

    async def delete(self) -> None:
        """Delete the stream. Repeated when an answer is lost; it is enough that the stream is gone then."""
        await self._carrier.run(self._delete_flow())

    async def close(self) -> None:
        """Close this handle, not the stream. Appends under way are finished first."""
        sender = self._sender
        try:
            if sender is not None:
                await sender.wait()
        finally:
            if sender is not None:
                sender.cancel()  # without effect, except when this wait was cancelled
            with anyio.CancelScope(shield=True):
                await self._carrier.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- One POST at a time, sent by a task of its own: so cancelling one append touches no other ---

    async def _send_all(self) -> None:
        while self._queue:
            self._queue.settle(self._batch, await self._send(self._batch))
            self._batch.clear()

    async def _send(self, batch: list[Waiting]) -> AppendResult | Exception:
        try:
            if self._queue.undecided:
                self._queue.encode(encoder(await self._carrier.run(self._content_type_flow())))
            self._queue.take(batch)
            return await self._carrier.run(self._append_flow(batch))
        # Supervision boundary: whatever goes wrong here (the caller's own callables run, too), those who wait
        # must be told, and those behind them served.
        except Exception as error:  # noqa: BLE001
            if not batch:
                self._queue.take_all(batch)  # nobody knows how to encode them
            return error

    def _sender_ended(self) -> None:
        self._sender = None
        # What is left here was left by a task that was cancelled, because its loop or its handle ends.
        self._queue.settle(self._batch, interrupted(sent=True))
        self._batch.clear()
        self._queue.take_all(self._batch)
        self._queue.settle(self._batch, interrupted(sent=False))
        self._batch.clear()
