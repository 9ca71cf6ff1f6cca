"""What both fronts' responses have in common: everything that needs no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from durable_streams._decoding import BytesDecoder, JsonDecoder, TextDecoder, event_decoder, json_batch_decoder
from durable_streams._items import Checkpoint, Items
from durable_streams._reader import Reader, resolve_mode
from durable_streams._wire import START_OFFSET
from durable_streams.errors import StreamConsumedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from durable_streams._decoding import Decoder
    from durable_streams._effects import Flow
    from durable_streams._exchange import RetryPolicy
    from durable_streams._types import LiveMode, Offset, StreamEvent

T = TypeVar("T")


def check_start(offset: Offset | None, live: LiveMode) -> None:
    """Raise ValueError or TypeError for where no read can begin."""
    resolve_mode(live)
    if offset is not None and not isinstance(offset, str):
        raise TypeError(f"an offset is a str that the server gave, '-1' or 'now', not {offset!r}")
    if offset == "":
        raise ValueError("the offset is empty: use '-1' for the beginning, 'now' for what is still to come")


class ResponseState:
    """Properties of a read, and the right to read it once."""

    def __init__(
        self,
        url: str,
        policy: RetryPolicy,
        *,
        offset: Offset | None,
        live: LiveMode,
        cursor: str | None,
        content_type: str | None,
    ) -> None:
        check_start(offset, live)
        start = START_OFFSET if offset is None else offset
        self._reader = Reader(url, policy, offset=start, live=live, cursor=cursor, content_type=content_type)
        self._checkpoint = Checkpoint(start, cursor)
        self._start_offset = start
        self._live: LiveMode = live
        self._consumed = False
        self._released = False

    @property
    def url(self) -> str:
        """The stream's URL, as it was given."""
        return self._reader.url

    @property
    def content_type(self) -> str | None:
        """The stream's content type, as far as the read knows it.

        None with ``live="sse"``, unless a handle knew it before: the head of an event stream does not tell.
        """
        return self._reader.content_type

    @property
    def live(self) -> LiveMode:
        """The live mode, as it was given."""
        return self._live

    @property
    def offset(self) -> Offset:
        """A safe checkpoint: reading from here skips nothing that was not handed out.

        It moves behind a response of the server together with that response's last item. Save it after the
        item was dealt with; reading on from it repeats at most the items of one response. It is an offset that
        the server gave, or the one that was given to begin at, but never "now". ``read_...`` moves it when it
        returns.
        """
        return self._checkpoint.offset

    @property
    def start_offset(self) -> Offset:
        """The offset that the read began at, as it was given."""
        return self._start_offset

    @property
    def cursor(self) -> str | None:
        """The server's cursor, to be given back with ``offset`` (PROTOCOL section 10.1)."""
        return self._checkpoint.cursor

    @property
    def up_to_date(self) -> bool:
        """Whether everything the stream had at the last response has been handed out."""
        return self._checkpoint.up_to_date

    @property
    def stream_closed(self) -> bool:
        """Whether the stream is closed and everything has been handed out: nothing more will ever come."""
        return self._checkpoint.closed

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the last response, with lower-case names."""
        return self._reader.headers

    @property
    def status(self) -> int:
        """HTTP status of the last response."""
        return self._reader.status

    @property
    def ok(self) -> bool:
        """Whether the last response was a success; errors raise, so this is True once the read has begun."""
        return 200 <= self._reader.status < 300

    @property
    def closed(self) -> bool:
        """Whether this response was closed (not the stream: see `stream_closed`)."""
        return self._released

    def _open(self) -> Flow[None]:
        yield from self._reader.open()
        self._checkpoint.offset = self._reader.start

    def _release(self) -> None:
        self._released = self._reader.released = True

    def _items(
        self,
        decoder: Decoder[T],
        *,
        until_up_to_date: bool = False,
        convert: Callable[[Any], Any] | None = None,
    ) -> Items[Any]:
        if self._consumed:
            raise StreamConsumedError(
                "a response is read once; open the stream again, from res.offset", url=self._reader.url
            )
        if self._released:
            raise StreamConsumedError("this response is closed", url=self._reader.url)
        self._consumed = True
        return Items(self._reader, decoder, self._checkpoint, until_up_to_date=until_up_to_date, convert=convert)

    def _bytes(self, *, until_up_to_date: bool = False) -> Items[bytes]:
        return self._items(BytesDecoder(), until_up_to_date=until_up_to_date)

    def _text(self, encoding: str, *, until_up_to_date: bool = False) -> Items[str]:
        return self._items(TextDecoder(encoding), until_up_to_date=until_up_to_date)

    def _json(self, decode: Callable[[Any], Any] | None, *, until_up_to_date: bool = False) -> Items[Any]:
        return self._items(JsonDecoder(), until_up_to_date=until_up_to_date, convert=decode)

    def _json_batches(self, *, until_up_to_date: bool = False) -> Items[list[Any]]:
        return self._items(json_batch_decoder(), until_up_to_date=until_up_to_date)

    def _events(self, mode: str) -> Items[StreamEvent[Any]]:
        return self._items(event_decoder(mode))
