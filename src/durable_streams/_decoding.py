"""From the bytes of pages to what the caller iterates over. Decoders do no I/O and know no HTTP.

A page may begin a second time, when the connection broke inside it. Positions never change their content, so a
decoder hands out only what it has not handed out before.

A decoder that hands out parts of a page holds the last part back until the next one or the page's end: so the last
item of a page is known as such, and the checkpoint can move behind the page together with it.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from durable_streams._json_pages import SEGMENT_BYTES, JsonDocument
from durable_streams._types import StreamEvent
from durable_streams.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_streams._pages import Page

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[T_co]):
    """Turns bytes into items, page by page."""

    @property
    def complete(self) -> bool:
        """Whether everything fed so far has become items: only then is a page's end a safe checkpoint."""
        ...  # pragma: no cover

    @property
    def page_complete(self) -> bool:
        """Whether nothing more can come in this page but its formal end, which is not waited for then."""
        ...  # pragma: no cover

    def begin_page(self, start: str) -> None:
        """Expect the first byte of a page, a new one or the last one again. ``start`` is its offset."""
        ...  # pragma: no cover

    def feed(self, data: bytes) -> Sequence[T_co]:
        """Take the next bytes of the page; return the items that are ready."""
        ...  # pragma: no cover

    def end_document(self) -> Sequence[T_co]:
        """Return the items that became ready with the end of a document; a page may consist of several."""
        ...  # pragma: no cover

    def end_page(self, page: Page) -> Sequence[T_co]:
        """Return the items that became ready with the page's end."""
        ...  # pragma: no cover

    def finish(self) -> Sequence[T_co]:
        """Return what is left when there is nothing more to read."""
        ...  # pragma: no cover


class _Unseen:
    """Counts what pages consist of, to tell how much of it was handed out before."""

    def __init__(self) -> None:
        self._position = 0  # in the page that is being read
        self._seen = 0  # how much behind the page's start was handed out

    def begin_page(self) -> None:
        self._position = 0

    def pass_on(self, count: int) -> int:
        """Go on by so many; return how many of them were handed out before."""
        known = min(count, max(0, self._seen - self._position))
        self._position += count
        self._seen = max(self._seen, self._position)
        return known

    def end_page(self) -> None:
        # The second response may have been the shorter one: the rest of what was seen lies in the next page.
        self._seen -= self._position
        self._position = 0


class BytesDecoder:
    """The bytes as they arrive, in chunks of any size."""

    complete = True
    page_complete = False

    def __init__(self) -> None:
        self._unseen = _Unseen()
        self._held = b""

    def begin_page(self, start: str) -> None:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        self._unseen.begin_page()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Decoder`."""
        fresh = data[self._unseen.pass_on(len(data)) :]
        return self._release(fresh) if fresh else ()

    def end_document(self) -> Sequence[bytes]:
        """See `Decoder`."""
        return ()

    def end_page(self, page: Page) -> Sequence[bytes]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        self._unseen.end_page()
        return self._release(b"")

    def finish(self) -> Sequence[bytes]:
        """See `Decoder`."""
        return self._release(b"")

    def _release(self, following: bytes) -> Sequence[bytes]:
        held, self._held = self._held, following
        return (held,) if held else ()


class TextDecoder:
    """Text in chunks of any size, never broken inside a character. ``encoding`` is a name of Python's.

    Raises LookupError for an encoding that Python does not know.
    """

    page_complete = False

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._unseen = _Unseen()
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._start = ""
        self._held = ""

    @property
    def complete(self) -> bool:
        """See `Decoder`."""
        return not self._decoder.getstate()[0]

    def begin_page(self, start: str) -> None:
        """See `Decoder`."""
        self._start = start
        self._unseen.begin_page()

    def feed(self, data: bytes) -> Sequence[str]:
        """See `Decoder`."""
        fresh = data[self._unseen.pass_on(len(data)) :]
        text = self._decode(fresh, final=False)
        return self._release(text) if text else ()

    def end_document(self) -> Sequence[str]:
        """See `Decoder`."""
        return ()

    def end_page(self, page: Page) -> Sequence[str]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        self._unseen.end_page()
        return self._release("")

    def finish(self) -> Sequence[str]:
        """See `Decoder`."""
        rest = self._decode(b"", final=True)
        return (*self._release(""), *((rest,) if rest else ()))

    def _decode(self, data: bytes, *, final: bool) -> str:
        try:
            return self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise _not_text(self._start, self._encoding, error) from error

    def _release(self, following: str) -> Sequence[str]:
        held, self._held = self._held, following
        return (held,) if held else ()


class JsonDecoder:
    """The messages one by one. Of a big page they are handed out before its end has arrived."""

    complete = True

    def __init__(self, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segment_bytes = segment_bytes
        self._unseen = _Unseen()
        self._start = ""
        self._document: JsonDocument  # of the page that was begun

    @property
    def page_complete(self) -> bool:
        """See `Decoder`."""
        return self._document.complete

    def begin_page(self, start: str) -> None:
        """See `Decoder`."""
        self._start = start
        self._unseen.begin_page()
        self._document = JsonDocument(segment_bytes=self._segment_bytes)

    def feed(self, data: bytes) -> Sequence[Any]:
        """See `Decoder`. At least one message is kept back: it stands behind the comma of the last cut."""
        return self._fresh(self._document.feed, data)

    def end_document(self) -> Sequence[Any]:
        """See `Decoder`."""
        messages = self._fresh(self._document.finish)
        self._document = JsonDocument(segment_bytes=self._segment_bytes)
        return messages

    def end_page(self, page: Page) -> Sequence[Any]:  # noqa: ARG002 - the protocol's signature
        """See `Decoder`."""
        self._unseen.end_page()
        return ()

    def finish(self) -> Sequence[Any]:
        """See `Decoder`."""
        return ()

    def _fresh(self, step: Callable[..., Sequence[Any]], *arguments: bytes) -> Sequence[Any]:
        try:
            messages = step(*arguments)
        except ParseError as error:
            raise type(error)(f"the page at offset {self._start!r} is {error}") from error.__cause__
        known = self._unseen.pass_on(len(messages))
        return messages[known:] if known else messages


class PageDecoder:
    """Joins what other decoders make of a page, to one item for each page.

    Nothing is handed out before the page's end. So a page that begins again is decoded anew, and what came of it
    before is dropped: the second time it may be shorter, and its item must not reach beyond its end.
    """

    complete = True
    page_complete = False

    def __init__(
        self, inner: Callable[[], Decoder[Any]], make: Callable[[list[Any], Page], Sequence[Any]]
    ) -> None:
        self._new_inner = inner
        self._make = make
        self._inner: Decoder[Any]  # of the page that was begun
        self._items: list[Any] = []

    def begin_page(self, start: str) -> None:
        """See `Decoder`."""
        self._inner = self._new_inner()
        self._inner.begin_page(start)
        self._items = []

    def feed(self, data: bytes) -> Sequence[Any]:
        """See `Decoder`."""
        self._items.extend(self._inner.feed(data))
        return ()

    def end_document(self) -> Sequence[Any]:
        """See `Decoder`."""
        self._items.extend(self._inner.end_document())
        return ()

    def end_page(self, page: Page) -> Sequence[Any]:
        """See `Decoder`."""
        self._items.extend(self._inner.end_page(page))
        items, self._items = self._items, []
        return self._make(items, page)

    def finish(self) -> Sequence[Any]:
        """See `Decoder`."""
        return ()


class TextEventDecoder:
    """One event for each page, with its text.

    A page that ends inside a character has none of its own: nobody can begin to read there. It is joined with the
    next one.
    """

    page_complete = False

    def __init__(self) -> None:
        self._start = ""
        self._texts: list[str] = []  # of the pages before this one that have had no event
        self._rest = b""  # the half character at their end
        self._chunks: list[bytes] = []

    @property
    def complete(self) -> bool:
        """See `Decoder`."""
        return not self._rest

    def begin_page(self, start: str) -> None:
        """See `Decoder`. As nothing of the page was handed out, it is taken anew when it begins again."""
        self._start = start
        self._chunks = [self._rest]

    def feed(self, data: bytes) -> Sequence[StreamEvent[str]]:
        """See `Decoder`."""
        self._chunks.append(data)
        return ()

    def end_document(self) -> Sequence[StreamEvent[str]]:
        """See `Decoder`."""
        return ()

    def end_page(self, page: Page) -> Sequence[StreamEvent[str]]:
        """See `Decoder`."""
        data = b"".join(self._chunks)
        text, length = self._decode(data, final=False)
        self._texts.append(text)
        self._rest = data[length:]
        if self._rest:
            return ()
        texts, self._texts = self._texts, []
        return (_event("".join(texts), page),)

    def finish(self) -> Sequence[StreamEvent[str]]:
        """See `Decoder`."""
        self._decode(self._rest, final=True)
        return ()

    def _decode(self, data: bytes, *, final: bool) -> tuple[str, int]:
        try:
            return codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            raise _not_text(self._start, "utf-8", error) from error


def json_batch_decoder() -> Decoder[list[Any]]:
    """Return the decoder of a page's messages as a list; pages without messages are passed over."""
    return PageDecoder(JsonDecoder, lambda messages, _: (messages,) if messages else ())


def event_decoder(mode: str) -> Decoder[StreamEvent[Any]]:
    """Return the decoder of events whose data is ``bytes``, ``text`` or ``json``.

    There is one for each page, but for text pages that end inside a character: also for a page without data,
    because it may be the one that is up to date. It ends exactly where its ``next_offset`` is.
    """
    match mode:
        case "bytes":
            return PageDecoder(BytesDecoder, lambda parts, page: (_event(b"".join(parts), page),))
        case "text":
            return TextEventDecoder()
        case "json":
            return PageDecoder(JsonDecoder, lambda messages, page: (_event(messages, page),))
        case _:
            raise ValueError(f"mode is 'bytes', 'text' or 'json', not {mode!r}")


def _event(data: T, page: Page) -> StreamEvent[T]:
    return StreamEvent(data, page.next_offset, page.up_to_date, page.cursor)


def _not_text(start: str, encoding: str, error: UnicodeDecodeError) -> ParseError:
    return ParseError(f"the page at offset {start!r} is not {encoding} text: {error}")
