"""What the events of a stream mean (PROTOCOL section 5.8): data events, up to the control event behind them.

Only the control event says where the data before it ends. So data is given out together with it, as one group: a
connection that breaks inside a group loses nothing and repeats nothing.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from durable_streams._sse import MAX_EVENT_BYTES, Event, EventParser
from durable_streams.errors import ParseError, SSEEncodingError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Control:
    """Where the data before it ends, and what the server knows about the stream there."""

    next_offset: str
    cursor: str | None
    up_to_date: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class Group:
    """The payloads of some data events, and the control event that belongs to them."""

    payloads: tuple[bytes, ...]
    control: Control


class GroupReader:
    """Takes the bytes of one event stream and gives its groups.

    ``encoding`` is the answer's ``Stream-SSE-Data-Encoding``. Events of other types are passed over: a later
    version of the protocol may have more of them. Raises `SSEEncodingError` and `ParseError`.
    """

    def __init__(self, encoding: str | None = None, *, max_group_bytes: int = MAX_EVENT_BYTES) -> None:
        if encoding is not None and encoding.strip().lower() != "base64":
            raise SSEEncodingError(f"the events are encoded as {encoding!r}; only 'base64' is known")
        self._base64 = encoding is not None
        self._max_group_bytes = max_group_bytes
        self._parser = EventParser(max_event_bytes=max_group_bytes)
        self._payloads: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Group]:
        """Take the next bytes; give the groups that are complete with them. Iterate to the end."""
        for event in self._parser.feed(chunk):
            if event.kind == b"data":
                self._add(event)
            elif event.kind == b"control":
                group = Group(tuple(self._payloads), parse_control(event.data))
                self._payloads.clear()
                self._size = 0
                yield group

    def _add(self, event: Event) -> None:
        payload = decode_base64(event.data) if self._base64 else event.data
        self._size += len(payload)
        if self._size > self._max_group_bytes:
            raise SSEEncodingError(
                f"more than {self._max_group_bytes} bytes without a control event: "
                "read this stream with live='long-poll'"
            )
        if payload:
            self._payloads.append(payload)


def decode_base64(text: bytes) -> bytes:
    """Decode the payload of a data event, whose lines may be divided anywhere. Raises `SSEEncodingError`."""
    joined = text.translate(None, b"\r\n")
    if len(joined) % 4 or joined.endswith(b"==="):  # which even the strict mode lets pass behind complete groups
        raise SSEEncodingError(f"a data event is not base64 (no groups of 4 characters): {_excerpt(text)}")
    try:
        return binascii.a2b_base64(joined, strict_mode=True)
    except binascii.Error as error:
        raise SSEEncodingError(f"a data event is not base64 ({error}): {_excerpt(text)}") from error


def parse_control(text: bytes) -> Control:
    """Read a control event. Raises `ParseError`: without it, nobody knows where the data before it ends.

    A missing cursor is no error: servers leave it out when the stream is closed.
    """
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ParseError(f"a control event is not JSON ({error}): {_excerpt(text)}") from error
    next_offset = fields.get("streamNextOffset") if isinstance(fields, dict) else None
    if not isinstance(next_offset, str) or not next_offset:
        raise ParseError(f"a control event has no streamNextOffset: {_excerpt(text)}")
    cursor = fields.get("streamCursor")
    closed = fields.get("streamClosed") is True
    return Control(
        next_offset=next_offset,
        cursor=cursor if isinstance(cursor, str) else None,
        up_to_date=closed or fields.get("upToDate") is True,
        closed=closed,
    )


def _excerpt(text: bytes) -> str:
    shown = text[:60].decode("utf-8", "backslashreplace")
    return repr(shown + "..." if len(text) > 60 else shown)
