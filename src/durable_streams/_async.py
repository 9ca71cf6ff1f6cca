"""A handle on one stream, with async."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from durable_streams import _http, _operations
from durable_streams._async_response import AsyncStreamResponse, StreamOpening
from durable_streams._batching import AppendQueue, Waiting, as_error
from durable_streams._http_async import AsyncCarrier
from durable_streams._messages import encode_message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import httpx

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


class AsyncDurableStream:
    """One stream at one URL. Making a handle sends nothing.

    ``timeout`` is in seconds for each request (default: the client's). Without ``client`` the handle has one of
    its own, which `aclose` closes; an injected one is used for everything and never closed.
    """

    def __init__(
        self,
        url: str,
        *,
        content_type: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.AsyncClient | None = None,
        timeout: float | None = None,
    ) -> None:
        self._url = url
        self._content_type = content_type
        self._policy = _http.default_policy()
        self._carrier = AsyncCarrier(client, _http.Extras(headers, params), timeout=timeout)
        self._learning = asyncio.Lock()
        self._queue = AppendQueue()
        self._arrivals: dict[Waiting, asyncio.Future[None]] = {}
        self._sender: asyncio.Task[None] | None = None

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
        timeout: float | None = None,  # noqa: ASYNC109 - a timeout of each request
    ) -> Self:
        """Create the stream, or make sure it exists with this configuration; return a handle.

        ``body`` is the initial content. Raises `StreamExistsError` if it exists with another configuration.
        """
        handle = cls(
            url, content_type=content_type, headers=headers, params=params, client=client, timeout=timeout
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
        timeout: float | None = None,  # noqa: ASYNC109 - a timeout of each request
    ) -> Self:
        """Return a handle on a stream that exists; raises `StreamNotFoundError` otherwise."""
        handle = cls(url, headers=headers, params=params, client=client, timeout=timeout)
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
        timeout: float | None = None,  # noqa: ASYNC109 - a timeout of each request
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
        timeout: float | None = None,  # noqa: ASYNC109 - a timeout of each request
    ) -> None:
        """Delete a stream, without a handle."""
        async with cls(url, headers=headers, params=params, client=client, timeout=timeout) as handle:
            await handle.delete()

    @property
    def url(self) -> str:
        """The stream's URL."""
        return self._url

    @property
    def content_type(self) -> str | None:
        """The stream's content type, as far as this handle knows it."""
        return self._content_type

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
        """Create the stream, or make sure it exists with this configuration."""
        flow = _operations.create(
            self._url,
            self._policy,
            content_type=content_type or self._content_type,
            ttl_seconds=ttl_seconds,
            expires_at=expires_at,
            body=body,
            closed=closed,
        )
        return self._learn(await self._carrier.run(flow))

    async def head(self) -> HeadResult:
        """Ask the stream about itself."""
        return self._learn(await self._carrier.run(_operations.head(self._url, self._policy)))

    async def append(self, data: Any, *, seq: str | None = None) -> AppendResult:
        """Append one message; return when the server has confirmed it.

        On a JSON stream ``data`` is any JSON value, and ``str`` or ``bytes`` is JSON text; elsewhere it is
        ``bytes`` or ``str``. Appends from several tasks at the same time go together. ``seq`` is the caller's
        own order (``Stream-Seq``), and makes the append safe to repeat after a lost answer; without it a lost
        answer raises `FetchError`. Raises `MessageError`, `StreamClosedError`, `SeqConflictError` and others.

        A cancelled append that is not under way yet is not sent.
        """
        content_type = await self._known_content_type()
        entry = self._queue.join(encode_message(data, content_type), seq)
        self._arrivals[entry] = arrival = asyncio.get_running_loop().create_future()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name=f"appends to {self._url}")
        try:
            await arrival
        finally:
            self._queue.leave(entry)
            self._arrivals.pop(entry, None)
        if entry.error is not None:
            raise entry.error
        assert entry.result is not None, "settled without an error"
        return entry.result

    def stream(
        self,
        *,
        offset: Offset = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> StreamOpening:
        """Read the stream, with this handle's client; see `astream`."""
        carrier = self.carrier(headers, params, on_error=on_error)
        response = AsyncStreamResponse(self._url, carrier, offset=offset, live=live, cursor=cursor)
        return StreamOpening(response)

    async def close_stream(self, data: Any = None) -> CloseResult:
        """Close the stream for good, with a last message if one is given. Closing twice is fine without one."""
        content_type = await self._known_content_type() if data is not None else self._content_type
        message = None if data is None else encode_message(data, content_type)
        return await self._carrier.run(
            _operations.close(self._url, self._policy, message, content_type=content_type)
        )

    async def delete(self) -> None:
        """Delete the stream."""
        await self._carrier.run(_operations.delete(self._url, self._policy))

    async def close(self) -> None:
        """Close this handle, not the stream. Appends under way are finished first."""
        if self._sender is not None:
            await asyncio.wait([self._sender])
        await self._carrier.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _learn(self, result: HeadResult) -> HeadResult:
        self._content_type = result.content_type or self._content_type
        return result

    async def _known_content_type(self) -> str | None:
        if self._content_type is None:
            async with self._learning:
                if self._content_type is None:
                    await self.head()
        return self._content_type

    # -- One POST at a time, sent by a task of its own: so cancelling one append touches no other ---

    async def _send_all(self) -> None:
        try:
            while batch := self._queue.take():
                await self._send(batch)
        except asyncio.CancelledError as error:
            # Only the loop's own end cancels this task; nobody may be left waiting for it.
            while batch := self._queue.take():
                self._settle_all(batch, as_error(error))
            raise
        finally:
            self._sender = None

    async def _send(self, batch: Sequence[Waiting]) -> None:
        messages = [entry.message for entry in batch]
        flow = _operations.append(
            self._url, self._policy, messages, content_type=self._content_type, seq=batch[0].seq
        )
        try:
            outcome = await self._carrier.run(flow)
        # Supervision boundary: whatever goes wrong here, those who wait must be told.
        except BaseException as error:
            self._settle_all(batch, as_error(error))
            if not isinstance(error, Exception):
                raise
        else:
            self._settle_all(batch, outcome)

    def _settle_all(self, batch: Sequence[Waiting], outcome: AppendResult | Exception) -> None:
        if isinstance(outcome, Exception):
            self._queue.fail(batch, outcome)
        else:
            self._queue.succeed(batch, outcome)
        for entry in batch:
            arrival = self._arrivals.get(entry)
            if entry.settled and arrival is not None and not arrival.done():
                arrival.set_result(None)
