"""Reading a stream with async: `astream` and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from durable_streams import _http
from durable_streams._http_async import AsyncCarrier
from durable_streams._items import End, Items
from durable_streams._response import ResponseState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    import httpx

    from durable_streams._types import HeadersLike, LiveMode, Offset, ParamsLike, ReadErrorHandler, StreamEvent

T = TypeVar("T")


class AsyncItemIterator(Generic[T]):
    """Iterates over the items of a response. No generator: leaving the loop leaves nothing to be finalised."""

    def __init__(self, items: Items[T], carrier: AsyncCarrier) -> None:
        self._items = items
        self._carrier = carrier

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self._carrier.run(self._items.next())
        if isinstance(item, End):
            raise StopAsyncIteration
        return item


class AsyncStreamResponse(ResponseState):
    """An open read. Use it in an ``async with`` block; iterate once; directly it yields bytes."""

    def __init__(
        self,
        url: str,
        carrier: AsyncCarrier,
        *,
        offset: Offset = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
    ) -> None:
        super().__init__(url, _http.default_policy(), offset=offset, live=live, cursor=cursor)
        self._carrier = carrier

    async def open(self) -> Self:
        """Wait for the first answer. Raises what the server refuses."""
        await self._carrier.run(self._reader.open())
        return self

    async def close(self) -> None:
        """Let go of the connection, and of the client if it belongs to this response."""
        self._released = True
        await self._carrier.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.iter_bytes()

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes, in chunks of any size."""
        return AsyncItemIterator(self._bytes(), self._carrier)

    def iter_text(self) -> AsyncIterator[str]:
        """Iterate over UTF-8 text, in chunks of any size."""
        return AsyncItemIterator(self._text(), self._carrier)

    @overload
    def iter_json(self, decode: None = None) -> AsyncIterator[Any]: ...
    @overload
    def iter_json(self, decode: Callable[[Any], T]) -> AsyncIterator[T]: ...
    def iter_json(self, decode: Callable[[Any], Any] | None = None) -> AsyncIterator[Any]:
        """Iterate over JSON messages, each passed through ``decode`` if it is given."""
        return AsyncItemIterator(self._json(decode), self._carrier)

    def iter_json_batches(self) -> AsyncIterator[list[Any]]:
        """Iterate over JSON messages as the server's responses group them."""
        return AsyncItemIterator(self._json_batches(), self._carrier)

    def iter_events(self, mode: Literal["bytes", "text", "json"] = "bytes") -> AsyncIterator[StreamEvent]:
        """Iterate over the server's responses, each with its data and where it ends."""
        return AsyncItemIterator(self._events(mode), self._carrier)

    async def read_bytes(self) -> bytes:
        """Read until up to date, also with ``live=True``."""
        return b"".join(await self._carrier.run(self._bytes(until_up_to_date=True).all()))

    async def read_text(self) -> str:
        """Read until up to date, also with ``live=True``."""
        return "".join(await self._carrier.run(self._text(until_up_to_date=True).all()))

    async def read_json(self, decode: Callable[[Any], Any] | None = None) -> list[Any]:
        """Read all messages until up to date, also with ``live=True``."""
        return await self._carrier.run(self._json(decode, until_up_to_date=True).all())

    async def read_json_batches(self) -> list[list[Any]]:
        """Read until up to date, also with ``live=True``, as the server's responses group the messages."""
        return await self._carrier.run(self._json_batches(until_up_to_date=True).all())


class StreamOpening:
    """A read that is about to be opened: await it, or enter it with ``async with``."""

    def __init__(self, response: AsyncStreamResponse) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, AsyncStreamResponse]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStreamResponse:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        await self._response.close()

    async def _open(self) -> AsyncStreamResponse:
        try:
            return await self._response.open()
        except BaseException:
            await self._response.close()
            raise


def astream(
    url: str,
    *,
    offset: Offset = "-1",
    live: LiveMode = True,
    cursor: str | None = None,
    headers: HeadersLike | None = None,
    params: ParamsLike | None = None,
    on_error: ReadErrorHandler | None = None,
    client: httpx.AsyncClient | None = None,
    timeout: float | None = None,
) -> StreamOpening:
    """Read a stream from an offset; with ``live`` go on as it grows. As `stream`, for ``async with``."""
    carrier = AsyncCarrier(client, _http.Extras(headers, params), timeout=timeout, on_error=on_error)
    return StreamOpening(AsyncStreamResponse(url, carrier, offset=offset, live=live, cursor=cursor))
