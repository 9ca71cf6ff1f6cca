"""From the bytes of pages to what the caller iterates over. Decoders do no I/O and know no HTTP.

A page may begin a second time, when the connection broke inside it. Positions never change their bytes, so a
decoder hands out only what it has not handed out before.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson

from durable_streams._types import StreamEvent
from durable_streams.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Page:
    """One response of the server, from ``start`` to ``next_offset``."""

    start: str
    next_offset: str
    cursor: str | None
    up_to_date: bool
    closed: bool


class Decoder(Protocol[T_co]):
    """Turns bytes into items, page by page."""

    @property
    def complete(self) -> bool:
        """Whether everything fed so far has become items: only then is a page's end a safe checkpoint."""
        ...  # pragma: no cover

    def begin_page(self) -> None:
        """Expect the first byte of a page, a new one or the last one again."""
        ...  # pragma: no cover

    def feed(self, data: bytes) -> Sequence[T_co]:
        """Take the next bytes of the page; return the items that are ready."""
        ...  # pragma: no cover

    def end_page(self, page: Page) -> Sequence[T_co]:
        """Return the items that became ready with the page's end."""
        ...  # pragma: no cover

    def finish(self) -> Sequence[T_co]:
        """Return what is left when there is nothing more to read."""
        ...  # pragma: no cover


class _Unseen:
    """Passes on each byte of the stream once, however often its page begins again."""

    def __init__(self) -> None:
        self._position = 0  # in the response that is being read
        self._seen = 0  # bytes behind the page's start that were passed on

    def begin_page(self) -> None:
        self._position = 0

    def take(self, data: bytes) -> bytes:
        fresh = data[max(0, self._seen - self._position) :]
        self._position += len(data)
        self._seen = max(self._seen, self._position)
        return fresh

    def end_page(self) -> None:
        # The second response may have been the shorter one: the rest of what was seen lies in the next page.
        self._seen -= self._position
        self._position = 0


class BytesDecoder:
    """The bytes as they arrive, in chunks of any size."""

    complete = True

    def __init__(self) -> None:
        self._unseen = _Unseen()

    def begin_page(self) -> None:
        """See `Decoder`."""
        self._unseen.begin_page()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Decoder`."""
        fresh = self._unseen.take(data)
        return (fresh,) if fresh else ()

    def end_page(self, page: Page) -> Sequence[bytes]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        self._unseen.end_page()
        return ()

    def finish(self) -> Sequence[bytes]:
        """See `Decoder`."""
        return ()


class TextDecoder:
    """UTF-8 text in chunks of any size, never broken inside a character."""

    def __init__(self) -> None:
        self._unseen = _Unseen()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    @property
    def complete(self) -> bool:
        """See `Decoder`."""
        return not self._utf8.getstate()[0]

    def begin_page(self) -> None:
        """See `Decoder`."""
        self._unseen.begin_page()

    def feed(self, data: bytes) -> Sequence[str]:
        """See `Decoder`."""
        return self._decode(self._unseen.take(data), final=False)

    def end_page(self, page: Page) -> Sequence[str]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        self._unseen.end_page()
        return ()

    def finish(self) -> Sequence[str]:
        """See `Decoder`."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, *, final: bool) -> Sequence[str]:
        try:
            text = self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            raise ParseError(f"the stream is not UTF-8 text: {error}") from error
        return (text,) if text else ()


class _WholePage:
    """Collects a page. A page that begins again is collected again: nothing of it was handed out."""

    complete = True

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def begin_page(self) -> None:
        """See `Decoder`."""
        self._parts.clear()

    def _collect(self, data: bytes) -> None:
        self._parts.append(data)

    def _page(self) -> bytes:
        body = b"".join(self._parts)
        self._parts.clear()
        return body


class JsonBatchDecoder(_WholePage):
    """The messages of each page as a list; pages without messages are passed over."""

    def feed(self, data: bytes) -> Sequence[list[Any]]:
        """See `Decoder`."""
        self._collect(data)
        return ()

    def end_page(self, page: Page) -> Sequence[list[Any]]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        messages = parse_page(self._page())
        return (messages,) if messages else ()

    def finish(self) -> Sequence[list[Any]]:
        """See `Decoder`."""
        return ()


class JsonDecoder(_WholePage):
    """The messages one by one, each passed through ``decode`` if there is one."""

    def __init__(self, decode: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self._decode = decode

    def feed(self, data: bytes) -> Sequence[Any]:
        """See `Decoder`."""
        self._collect(data)
        return ()

    def end_page(self, page: Page) -> Sequence[Any]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        messages = parse_page(self._page())
        return messages if self._decode is None else [self._decode(message) for message in messages]

    def finish(self) -> Sequence[Any]:
        """See `Decoder`."""
        return ()


class EventDecoder:
    """One `StreamEvent` a page: also for a page without data, because it may be the one that is up to date."""

    def __init__(self, inner: Decoder[Any], join: Callable[[list[Any]], Any]) -> None:
        self._inner = inner
        self._join = join
        self._items: list[Any] = []

    @property
    def complete(self) -> bool:
        """See `Decoder`."""
        return self._inner.complete

    def begin_page(self) -> None:
        """See `Decoder`."""
        self._inner.begin_page()

    def feed(self, data: bytes) -> Sequence[StreamEvent]:
        """See `Decoder`."""
        self._items.extend(self._inner.feed(data))
        return ()

    def end_page(self, page: Page) -> Sequence[StreamEvent]:
        """See `Decoder`."""
        self._items.extend(self._inner.end_page(page))
        data = self._join(self._items)
        self._items.clear()
        return (StreamEvent(data, page.next_offset, page.up_to_date, page.cursor),)

    def finish(self) -> Sequence[StreamEvent]:
        """See `Decoder`."""
        return ()


def event_decoder(mode: str) -> Decoder[StreamEvent]:
    """Return the decoder of events whose data is ``bytes``, ``text`` or ``json``."""
    match mode:
        case "bytes":
            return EventDecoder(BytesDecoder(), b"".join)
        case "text":
            return EventDecoder(TextDecoder(), "".join)
        case "json":
            return EventDecoder(JsonBatchDecoder(), lambda batches: [item for batch in batches for item in batch])
        case _:
            raise ValueError(f"mode is 'bytes', 'text' or 'json', not {mode!r}")


def parse_page(body: bytes) -> list[Any]:
    """Return the messages of a page in JSON mode (PROTOCOL section 9.1.5)."""
    if not body:
        return []
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ParseError(f"the page is not JSON: {error}") from error
    return value if isinstance(value, list) else [value]
