"""The protocol's rules for reading: pages, their headers, entity tags, cursors and server-sent events.

Nothing here does I/O or keeps state.
"""

from __future__ import annotations

import base64
import re
import zlib
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from durable_streams import _wire
from durable_streams.server._requests import RefusedError, is_json, media_type, offset

if TYPE_CHECKING:
    from durable_streams.server._rules import Headers
    from durable_streams.server._store import Page, Stream

_CURSOR_EPOCH_SECONDS: Final = 1_728_432_000  # 2024-10-09T00:00:00Z
_CURSOR_INTERVAL_SECONDS: Final = 20
_MAX_JITTER_SECONDS: Final = 3600
_MAX_AGE_SECONDS: Final = 60
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BASE64_BYTES_PER_LINE: Final = 48 * 1024
"""A multiple of 3, so that each line is valid base64 by itself."""


class RandomSource(Protocol):
    """What is needed of `random.Random`."""

    def randint(self, a: int, b: int) -> int:
        """An integer from a to b, both included."""
        ...  # pragma: no cover


def content(page: Page) -> bytes:
    """The page as the body of an answer (PROTOCOL section 9.1.5)."""
    if is_json(page.stream.settings.content_type):
        return b"[" + b",".join(page.messages) + b"]"
    return b"".join(page.messages)


def gone(page: Page) -> RefusedError:
    """The refusal of a page that is no longer kept (PROTOCOL section 5.6)."""
    oldest = offset(page.stream.head)
    return RefusedError(410, f"the data before offset {oldest} are no longer kept: read from there, or from -1")


def page_headers(page: Page) -> Headers:
    """The headers of every answer that carries a page (PROTOCOL section 5.6)."""
    headers: Headers = (
        ("content-type", page.stream.settings.content_type),
        (_wire.STREAM_NEXT_OFFSET, offset(page.end)),
    )
    if page.up_to_date:
        headers += ((_wire.STREAM_UP_TO_DATE, "true"),)
    if page.final:
        headers += ((_wire.STREAM_CLOSED, "true"),)
    return headers


def entity_tag(page: Page, plain: bytes, *, compressed: bool = False) -> str:
    """The ETag of a page with this content (PROTOCOL section 10.1).

    It changes when the stream is closed behind it. Other bytes need another tag (RFC 9110, 8.8.3), compressed
    ones too. The checksum is for a server that was restored from a backup: there other messages may come to have
    the same numbers.
    """
    closed, coding = ":c" if page.final else "", ":gzip" if compressed else ""
    return f'"{page.stream.uid}:{page.start}:{page.end}:{zlib.crc32(plain):x}{closed}{coding}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether an ``If-None-Match`` header names the tag (RFC 9110, 13.1.2: weak comparison)."""
    if if_none_match is None:
        return False
    names = {name.strip().removeprefix("W/") for name in if_none_match.split(",")}
    return tag in names or "*" in names


def cache_control(page: Page, now: float, *, shared: bool) -> str:
    """How long a page may be cached (PROTOCOL section 10.1).

    An empty page is the one answer that more data would change at once: it must be asked for again.
    """
    if not page.messages:
        return "no-cache"
    scope = "public" if shared else "private"
    deadline = page.stream.deadline
    if deadline is not None and deadline - now < _MAX_AGE_SECONDS:
        return f"{scope}, max-age={max(0, int(deadline - now))}"
    return f"{scope}, max-age={_MAX_AGE_SECONDS}, stale-while-revalidate=300"


def cursor(now: float, given: int | None, random: RandomSource) -> int:
    """The cursor of a live answer: the current interval, but always greater than the client's."""
    # A machine may boot in 1970.
    interval = max(0, int(now - _CURSOR_EPOCH_SECONDS) // _CURSOR_INTERVAL_SECONDS)
    if given is None or given < interval:
        return interval
    jitter_seconds = random.randint(1, _MAX_JITTER_SECONDS)
    return given + max(1, jitter_seconds // _CURSOR_INTERVAL_SECONDS)


# --- Server-sent events (PROTOCOL section 5.8) ------------------------------------------------------------


def sent_as_text(stream: Stream) -> bool:
    """Whether events carry the stream's bytes as they are; otherwise as base64."""
    kind = media_type(stream.settings.content_type)
    return kind.startswith("text/") or is_json(kind)


def events(page: Page, cursor_value: int) -> bytes:
    """A data event with the page, if it holds anything, and the control event that belongs to it."""
    return (_data_event(page) if page.messages else b"") + _control_event(page, cursor_value)


def _data_event(page: Page) -> bytes:
    data = content(page)
    if sent_as_text(page.stream):
        # Every line end that a parser knows must start a new data line: nothing in a message can then end
        # the event or begin another one.
        lines = _LINE_END.split(data)
    else:
        lines = [
            base64.b64encode(data[start : start + _BASE64_BYTES_PER_LINE])
            for start in range(0, len(data), _BASE64_BYTES_PER_LINE)
        ]
    return b"event: data\n" + b"".join(_data_line(line) for line in lines) + b"\n"


def _data_line(line: bytes) -> bytes:
    # A parser takes one leading space away: a line that begins with one needs another.
    return (b"data: " if line.startswith(b" ") else b"data:") + line + b"\n"


def _control_event(page: Page, cursor_value: int) -> bytes:
    fields: dict[str, str | bool] = {"streamNextOffset": offset(page.end)}
    if not page.final:
        fields["streamCursor"] = str(cursor_value)
    if page.up_to_date:
        fields["upToDate"] = True
    if page.final:
        fields["streamClosed"] = True
    return b"event: control\ndata:" + orjson.dumps(fields) + b"\n\n"
