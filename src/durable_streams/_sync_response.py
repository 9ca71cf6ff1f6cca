"""Reading a stream, without async: `stream` and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from durable_streams import _checks, _http
from durable_streams._http_sync import SyncCarrier
from durable_streams._items import END, Items
from durable_streams._response import ResponseState, check_start

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from durable_streams._types import HeadersLike, LiveMode, Offset, ParamsLike, ReadErrorHandler, StreamEvent

T = TypeVar("T")


class ItemIterator(Generic[T]):
    """Iterates over the items of a response.

    After an error it may be asked for the next item again; what could not be read stays an error.
    """

    def __init__(self, items: Items[T], carrier: SyncCarrier) -> None:
        self._items = items
        self._carrier = carrier

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
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
            if not self._carrier.run(self._items.fill()):
                raise StopIteration

    def close(self) -> None:
        """Let nothing more come out; ``res.offset`` stays where it is. The response is not closed by this."""
        self._items.stop()


class StreamResponse(ResponseState):
    """An open read. Use it in a ``with`` block; iterate once; iterating over it directly yields bytes."""

    def __init__(
        self,
        url: str,
        carrier: SyncCarrier,
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

    def open(self) -> Self:
        """Wait for the first answer. Raises what the server refuses."""
        self._carrier.run(self._open())
        return self

    def close(self) -> None:
        """Let go of the connection, and of the client if it belongs to this response.

        Called from another thread than the one that reads, it does not wake that one: its read raises
        `StreamConsumedError` when the server next sends something or ends its answer, or after 90 s of silence.
        """
        self._release()
        self._carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> ItemIterator[bytes]:
        return self.iter_bytes()

    def iter_bytes(self) -> ItemIterator[bytes]:
        """Iterate over the bytes, in chunks of any size; also those that events carry as base64."""
        return ItemIterator(self._bytes(), self._carrier)

    def iter_text(self, encoding: str = "utf-8") -> ItemIterator[str]:
        """Iterate over text, in chunks of any size, never broken inside a character.

        Raises `ParseError` for what is not text in this encoding.
        """
        return ItemIterator(self._text(encoding), self._carrier)

    @overload
    def iter_json(self, decode: None = None) -> ItemIterator[Any]: ...
    @overload
    def iter_json(self, decode: Callable[[Any], T]) -> ItemIterator[T]: ...
    def iter_json(self, decode: Callable[[Any], Any] | None = None) -> ItemIterator[Any]:
        """Iterate over JSON messages, each passed through ``decode`` if it is given.

        Messages of a big response are handed out while it arrives: memory stays flat. Raises `ParseError`, which
        names where, for what is not JSON. What ``decode`` raises costs the one message.
        """
        return ItemIterator(self._json(decode), self._carrier)

    def iter_json_batches(self) -> ItemIterator[list[Any]]:
        """Iterate over JSON messages as the server's responses, or its events, group them."""
        return ItemIterator(self._json_batches(), self._carrier)

    @overload
    def iter_events(self, mode: Literal["bytes"] = "bytes") -> ItemIterator[StreamEvent[bytes]]: ...
    @overload
    def iter_events(self, mode: Literal["text"]) -> ItemIterator[StreamEvent[str]]: ...
    @overload
    def iter_events(self, mode: Literal["json"]) -> ItemIterator[StreamEvent[list[Any]]]: ...
    def iter_events(self, mode: Literal["bytes", "text", "json"] = "bytes") -> ItemIterator[StreamEvent[Any]]:
        """Iterate over the server's responses, or groups of events, each with its data and where it ends.

        Those without data are among them: one may be the first that is up to date. A live read goes on behind it.
        """
        return ItemIterator(self._events(mode), self._carrier)

    def read_bytes(self) -> bytes:
        """Read until up to date, also with ``live=True``."""
        return b"".join(self._carrier.run(self._bytes(until_up_to_date=True).all()))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read until up to date, also with ``live=True``."""
        return "".join(self._carrier.run(self._text(encoding, until_up_to_date=True).all()))

    @overload
    def read_json(self, decode: None = None) -> list[Any]: ...
    @overload
    def read_json(self, decode: Callable[[Any], T]) -> list[T]: ...
    def read_json(self, decode: Callable[[Any], Any] | None = None) -> list[Any]:
        """Read all messages until up to date, also with ``live=True``, each passed through ``decode``."""
        return self._carrier.run(self._json(decode, until_up_to_date=True).all())

    def read_json_batches(self) -> list[list[Any]]:
        """Read until up to date, also with ``live=True``, as the server's responses group the messages."""
        return self._carrier.run(self._json_batches(until_up_to_date=True).all())


def stream(
    url: str,
    *,
    offset: Offset | None = "-1",
    live: LiveMode = True,
    cursor: str | None = None,
    headers: HeadersLike | None = None,
    params: ParamsLike | None = None,
    on_error: ReadErrorHandler | None = None,
    client: httpx.Client | None = None,
    timeout: float | httpx.Timeout | None = None,
) -> StreamResponse:
    """Read a stream from an offset; with ``live`` go on as it grows.

    Returns when the server has answered. ``live=True`` catches up and then follows the stream by events where the
    server serves them, else by long-poll; ``"sse"`` asks for events from the first request on. In text streams,
    events turn the line ends CR and CRLF into LF: where every byte counts, use ``"long-poll"``.

    ``timeout`` is in seconds and holds for connecting, sending, and the silence within an answer (default: that of
    ``client``, or 30 s). Waiting for new data never times out: live requests have a read timeout of their own,
    after which they are made again. ``on_error`` is asked before the read gives up.

    Raises `StreamNotFoundError`, `RetentionGoneError`, `FetchError` after the last retry, `SSENotSupportedError`
    with ``live="sse"``, and other children of `DurableStreamError`.
    """
    _checks.timeout(timeout)
    _http.check_target(url, client, asynchronous=False)
    check_start(offset, live)
    carrier = SyncCarrier(client, _http.Extras(headers, params), timeout=timeout, on_error=on_error)
    try:
        return StreamResponse(url, carrier, offset=offset, live=live, cursor=cursor).open()
    except BaseException:
        carrier.close()
        raise
