"""Reading a stream, without async: `stream` and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from durable_streams import _http
from durable_streams._http_sync import SyncCarrier
from durable_streams._items import End, Items
from durable_streams._response import ResponseState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from durable_streams._types import HeadersLike, LiveMode, Offset, ParamsLike, ReadErrorHandler, StreamEvent

T = TypeVar("T")


class ItemIterator(Generic[T]):
    """Iterates over the items of a response."""

    def __init__(self, items: Items[T], carrier: SyncCarrier) -> None:
        self._items = items
        self._carrier = carrier

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        item = self._carrier.run(self._items.next())
        if isinstance(item, End):
            raise StopIteration
        return item


class StreamResponse(ResponseState):
    """An open read. Use it in a ``with`` block; iterate once; iterating over it directly yields bytes."""

    def __init__(
        self,
        url: str,
        carrier: SyncCarrier,
        *,
        offset: Offset = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
    ) -> None:
        super().__init__(url, _http.default_policy(), offset=offset, live=live, cursor=cursor)
        self._carrier = carrier

    def open(self) -> Self:
        """Wait for the first answer. Raises what the server refuses."""
        self._carrier.run(self._reader.open())
        return self

    def close(self) -> None:
        """Let go of the connection, and of the client if it belongs to this response."""
        self._released = True
        self._carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        return self.iter_bytes()

    def iter_bytes(self) -> Iterator[bytes]:
        """Iterate over the bytes, in chunks of any size."""
        return ItemIterator(self._bytes(), self._carrier)

    def iter_text(self) -> Iterator[str]:
        """Iterate over UTF-8 text, in chunks of any size."""
        return ItemIterator(self._text(), self._carrier)

    @overload
    def iter_json(self, decode: None = None) -> Iterator[Any]: ...
    @overload
    def iter_json(self, decode: Callable[[Any], T]) -> Iterator[T]: ...
    def iter_json(self, decode: Callable[[Any], Any] | None = None) -> Iterator[Any]:
        """Iterate over JSON messages, each passed through ``decode`` if it is given."""
        return ItemIterator(self._json(decode), self._carrier)

    def iter_json_batches(self) -> Iterator[list[Any]]:
        """Iterate over JSON messages as the server's responses group them."""
        return ItemIterator(self._json_batches(), self._carrier)

    def iter_events(self, mode: Literal["bytes", "text", "json"] = "bytes") -> Iterator[StreamEvent]:
        """Iterate over the server's responses, each with its data and where it ends."""
        return ItemIterator(self._events(mode), self._carrier)

    def read_bytes(self) -> bytes:
        """Read until up to date, also with ``live=True``."""
        return b"".join(self._carrier.run(self._bytes(until_up_to_date=True).all()))

    def read_text(self) -> str:
        """Read until up to date, also with ``live=True``."""
        return "".join(self._carrier.run(self._text(until_up_to_date=True).all()))

    def read_json(self, decode: Callable[[Any], Any] | None = None) -> list[Any]:
        """Read all messages until up to date, also with ``live=True``."""
        return self._carrier.run(self._json(decode, until_up_to_date=True).all())

    def read_json_batches(self) -> list[list[Any]]:
        """Read until up to date, also with ``live=True``, as the server's responses group the messages."""
        return self._carrier.run(self._json_batches(until_up_to_date=True).all())


def stream(
    url: str,
    *,
    offset: Offset = "-1",
    live: LiveMode = True,
    cursor: str | None = None,
    headers: HeadersLike | None = None,
    params: ParamsLike | None = None,
    on_error: ReadErrorHandler | None = None,
    client: httpx.Client | None = None,
    timeout: float | None = None,
) -> StreamResponse:
    """Read a stream from an offset; with ``live`` go on as it grows.

    Returns when the server has answered. ``timeout`` is in seconds (default: the client's); waiting for new
    data never times out. Raises `StreamNotFoundError`, `RetentionGoneError`, `FetchError` and the other
    children of `DurableStreamError`.
    """
    carrier = SyncCarrier(client, _http.Extras(headers, params), timeout=timeout, on_error=on_error)
    try:
        return StreamResponse(url, carrier, offset=offset, live=live, cursor=cursor).open()
    except BaseException:
        carrier.close()
        raise
