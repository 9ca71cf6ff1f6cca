"""What a read consists of: pages, and the pieces that they arrive in.

A page is what the server gives at once: one response, or one group of events. Its end is a position in the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from durable_streams._events import GroupReader
from durable_streams._wire import (
    SSE_DATA_ENCODING,
    STREAM_CLOSED,
    STREAM_CURSOR,
    STREAM_NEXT_OFFSET,
    STREAM_UP_TO_DATE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams._wire import Reply


@dataclass(frozen=True, slots=True)
class Page:
    """One response of the server, or one group of its events, from ``start`` to ``next_offset``."""

    start: str
    next_offset: str
    cursor: str | None
    up_to_date: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a page.

    ``first`` also marks a page that begins again, because the connection broke inside of it. With ``whole`` a
    document ends (in JSON mode a page may consist of several), with ``last`` the page.
    """

    data: bytes
    page: Page
    first: bool
    whole: bool = False
    last: bool = False


class Body(Protocol):
    """Turns the bytes of one answer into pieces."""

    def pieces(self, chunk: bytes) -> Iterator[Piece]:
        """Give the pieces in the next chunk; an empty chunk is the answer's end. Iterate to the end."""
        ...  # pragma: no cover


class PageBody:
    """An answer that is one page."""

    def __init__(self, start: str, cursor: str | None, reply: Reply) -> None:
        next_offset = reply.headers[STREAM_NEXT_OFFSET]
        closed = reply.is_true(STREAM_CLOSED)
        self._page = Page(
            start=start,
            next_offset=next_offset,
            cursor=reply.headers.get(STREAM_CURSOR, cursor),
            # To follow a page that does not advance would be to ask for the same page for ever.
            up_to_date=closed or reply.is_true(STREAM_UP_TO_DATE) or next_offset == start,
            closed=closed,
        )
        self._first = True

    def pieces(self, chunk: bytes) -> Iterator[Piece]:
        """See `Body`."""
        first, self._first = self._first, False
        if chunk:
            yield Piece(chunk, self._page, first=first)
        else:
            yield Piece(b"", self._page, first=first, whole=True, last=True)


class EventBody:
    """An answer that is an event stream: a page for each group, given out when it is complete.

    Raises `SSEEncodingError` and `ParseError` for events that cannot be understood.
    """

    def __init__(self, start: str, cursor: str | None, reply: Reply) -> None:
        self._start = start
        self._cursor = cursor
        self._groups = GroupReader(reply.headers.get(SSE_DATA_ENCODING))
        self.fruitful = False
        """Whether it brought anything so far."""

    def pieces(self, chunk: bytes) -> Iterator[Piece]:
        """See `Body`. What is incomplete at the answer's end is dropped: it will be read again."""
        for group in self._groups.feed(chunk):
            self.fruitful = True
            control = group.control
            page = Page(
                start=self._start,
                next_offset=control.next_offset,
                cursor=control.cursor if control.cursor is not None else self._cursor,
                up_to_date=control.up_to_date,
                closed=control.closed,
            )
            self._start, self._cursor = page.next_offset, page.cursor
            *others, last = group.payloads or (b"",)
            first = True
            for payload in others:
                yield Piece(payload, page, first=first, whole=True)
                first = False
            yield Piece(last, page, first=first, whole=True, last=True)
