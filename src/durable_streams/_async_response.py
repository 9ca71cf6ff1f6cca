"""Reading a stream with async: `astream` and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from durable_streams import _checks, _http
from durable_streams._http_async import AsyncCarrier
from durable_streams._items import END, Items
from durable_streams._response import ResponseState, check_start

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import httpx

    from durable_streams._types import HeadersLike, LiveMode, Offset, ParamsLike, ReadErrorHandler, StreamEvent

T = TypeVar("T")


class AsyncItemIterator(Generic[T]):
    """Iterates over the items of a response. No generator: leaving the loop leaves nothing to be finalised.

    After an error, or a cancelled wait, it may be asked for the next item again; what could not be read stays an
    error.
    """

    def __init__(self, items: Items[T], carrier: AsyncCarrier) -> None:
        self._items = items
        self._carrier = carrier

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                for item in self._items.ready:
                    return item
                last = self._items.take_last()
                if last is not END:
                    return last
            except Exception:  # of the caller's `decode`: it costs the one item
                raise
            except BaseException:
                self._items.tear()
                raise
            if not await self._carrier.run(self._items.fill()):
                raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let nothing more come out; ``res.offset`` stays where it is. The response is not closed by this."""
        self._items.stop()


class AsyncStreamResponse(ResponseState):
    """An open read. Use it in an ``async with`` block; iterate once; directly it yields bytes."""

    def __init__(
        self,
        url: str,
        carrier: AsyncCarrier,
        *,
        offset: Offset | None = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
        content_type: str | None = None,
    ) -> None:
        super().__init__(
            url, _http.default_policy(), offset=offset, live=live, cursor=cursor, content_type=content_type
        )
        self._carrier = carrier

    async def open(self) -> Self:
        """Wait for the first answer. Raises what the server refuses."""
        await self._carrier.run(self._open())
        return self

    async def close(self) -> None:
        """Let go of the connection, and of the client if it belongs to this response."""
        self._release()
        await self._carrier.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncItemIterator[bytes]:
        return self.iter_bytes()

    def iter_bytes(self) -> AsyncItemIterator[bytes]:
        """Iterate over the bytes, in chunks of any size; also those that events carry as base64."""
        return AsyncItemIterator(self._bytes(), self._carrier)

    def iter_text(self, encoding: str = "utf-8") -> AsyncItemIterator[str]:
        """Iterate over text, in chunks of any size, never broken inside a character.

        Raises `ParseError` for what is not text in this encoding.
        """
        return AsyncItemIterator(self._text(encoding), self._carrier)

    @overload
    def iter_json(self, decode: None = None) -> AsyncItemIterator[Any]: ...
    @overload
    def iter_json(self, decode: Callable[[Any], T]) -> AsyncItemIterator[T]: ...
    def iter_json(self, decode: Callable[[Any], Any] | None = None) -> AsyncItemIterator[Any]:
        """Iterate over JSON messages, each passed through ``decode`` if it is given.

        Messages of a big response are handed out while it arrives: memory stays flat. Raises `ParseError`, which
        names where, for what is not JSON. What ``decode`` raises costs the one message.
        """
        return AsyncItemIterator(self._json(decode), self._carrier)

    def iter_json_batches(self) -> AsyncItemIterator[list[Any]]:
        """Iterate over JSON messages as the server's responses, or its events, group them."""
        return AsyncItemIterator(self._json_batches(), self._carrier)

    @overload
    def iter_events(self, mode: Literal["bytes"] = "bytes") -> AsyncItemIterator[StreamEvent[bytes]]: ...
    @overload
    def iter_events(self, mode: Literal["text"]) -> AsyncItemIterator[StreamEvent[str]]: ...
    @overload
    def iter_events(self, mode: Literal["json"]) -> AsyncItemIterator[StreamEvent[list[Any]]]: ...
    def iter_events(self, mode: Literal["bytes", "text", "json"] = "bytes") -> AsyncItemIterator[StreamEvent[Any]]:
        """Iterate over the server's responses, or groups of events, each with its data and where it ends.

        Those without data are among them: one may be the first that is up to date. A live read goes on behind it.
        """
        return AsyncItemIterator(self._events(mode), self._carrier)

    async def read_bytes(self) -> bytes:
        """Read until up to date, also with ``live=True``."""
        return b"".join(await self._carrier.run(self._bytes(until_up_to_date=True).all()))

    async def read_text(self, encoding: str = "utf-8") -> str:
        """Read until up to date, also with ``live=True``."""
        return "".join(await self._carrier.run(self._text(encoding, until_up_to_date=True).all()))

    @overload
    async def read_json(self, decode: None = None) -> list[Any]: ...
    @overload
    async def read_json(self, decode: Callable[[Any], T]) -> list[T]: ...
    async def read_json(self, decode: Callable[[Any], Any] | None = None) -> list[Any]:
        """Read all messages until up to date, also with ``live=True``, each passed through ``decode``."""
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
    offset: Offset | None = "-1",
    live: LiveMode = True,
    cursor: str | None = None,
    headers: HeadersLike | None = None,
    params: ParamsLike | None = None,
    on_error: ReadErrorHandler | None = None,
    client: httpx.AsyncClient | None = None,
    timeout: float | httpx.Timeout | None = None,
) -> StreamOpening:
    """Read a stream from an offset; with ``live`` go on as it grows. As `stream`, on asyncio and on trio.

    Await it, or enter it with ``async with``, which closes it. Callables among ``headers`` and ``params``, and
    ``on_error``, may be coroutine functions.
    """
    _checks.timeout(timeout)
    _http.check_target(url, client, asynchronous=True)
    check_start(offset, live)
    carrier = AsyncCarrier(client, _http.Extras(headers, params), timeout=timeout, on_error=on_error)
    return StreamOpening(AsyncStreamResponse(url, carrier, offset=offset, live=live, cursor=cursor))
