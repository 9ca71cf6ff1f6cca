"""What a request asks for: paths, headers, query and bodies, read strictly.

Everything that is wrong with a request by itself, whatever the stream's state, is found here and raised as
`RefusedError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, get_args
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import orjson

from durable_streams import _wire
from durable_streams.server._store import EARLIEST, ProducerMark, StreamSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

LiveMode = Literal["long-poll", "sse"]

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
OFFSET_DIGITS: Final = 16

_JSON: Final = "application/json"
_JSON_SPACE: Final = b" \t\r\n"
_MAX_PATH_CHARACTERS: Final = 2048
_MAX_HEADER_CHARACTERS: Final = 1024
_RESERVED_SEGMENT: Final = "__ds"
_FORK_HEADERS: Final = ("stream-forked-from", "stream-fork-offset", "stream-fork-sub-offset")

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CONTENT_TYPE = re.compile(rf"{_WORD}/{_WORD}[ \t]*(;[\t\x20-\x7e]*)?")
_TTL = re.compile(r"0|[1-9][0-9]{0,11}")
_INTEGER = re.compile(r"[0-9]{1,16}")
_OFFSET = re.compile(rf"[0-9]{{{OFFSET_DIGITS}}}")
_CURSOR = re.compile(r"[0-9]{1,15}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class RefusedError(Exception):
    """The request is refused before the stream's state matters. ``reason`` is shown to the client."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as a stream would store it.

    ``data`` is None when there is nothing to store, ``sent`` says whether the request had a body at all, and
    ``problem`` why it cannot be appended; ``empty_array`` is the one problem that a PUT does not mind.
    """

    data: bytes | None
    sent: bool
    problem: str | None = None
    empty_array: bool = False


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """PUT (PROTOCOL section 5.1)."""

    settings: StreamSettings
    expires_at_seconds: float | None
    closed: bool


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """POST (PROTOCOL section 5.2), without its body."""

    content_type: str | None
    close: bool
    producer: ProducerMark | None
    stream_seq: str | None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """GET (PROTOCOL sections 5.6 to 5.8). ``start`` is a message number, `EARLIEST`, or None: the tail."""

    start: int | None
    live: LiveMode | None
    cursor: int | None


@lru_cache(maxsize=1024)
def stream_path(raw_path: bytes) -> str:
    """The canonical form of a URL's path: equivalent spellings of one URL are one stream.

    Raises `RefusedError` for paths that cannot name a stream (400, 414) and for reserved ones (501).
    """
    if len(raw_path) > _MAX_PATH_CHARACTERS:
        raise RefusedError(414, f"the path is longer than {_MAX_PATH_CHARACTERS} bytes")
    segments = [unquote_to_bytes(segment) for segment in raw_path.split(b"/")]
    for segment in segments:
        if segment in {b".", b".."}:
            raise RefusedError(400, "the path contains '.' or '..'")
        if _CONTROL.search(segment):
            raise RefusedError(400, "the path contains a control character")
    names = [quote(segment, safe="") for segment in segments]
    if _RESERVED_SEGMENT in names:
        raise RefusedError(501, "subscriptions are not implemented by this server")
    return "/".join(names)


def create_request(headers: Mapping[str, str]) -> CreateRequest:
    """What a PUT asks for. ``headers`` have lower-case names."""
    if any(name in headers for name in _FORK_HEADERS):
        raise RefusedError(501, "forks are not implemented by this server")
    ttl = headers.get(_wire.STREAM_TTL)
    expires_at = headers.get(_wire.STREAM_EXPIRES_AT)
    if ttl is not None and expires_at is not None:
        raise RefusedError(400, "Stream-TTL and Stream-Expires-At exclude each other")
    if ttl is not None and not _TTL.fullmatch(ttl):
        raise RefusedError(400, f"Stream-TTL is not a number of seconds: {_shown(ttl)}")
    settings = StreamSettings(
        content_type=_content_type(headers) or DEFAULT_CONTENT_TYPE,
        ttl_seconds=None if ttl is None else int(ttl),
        expires_at=expires_at,
    )
    instant = None if expires_at is None else instant_seconds(expires_at)
    return CreateRequest(settings, instant, closed=_flag(headers, _wire.STREAM_CLOSED))


def append_request(headers: Mapping[str, str]) -> AppendRequest:
    """What a POST asks for. ``headers`` have lower-case names."""
    stream_seq = headers.get(_wire.STREAM_SEQ)
    if stream_seq is not None and not 0 < len(stream_seq) <= _MAX_HEADER_CHARACTERS:
        raise RefusedError(400, f"Stream-Seq must have 1 to {_MAX_HEADER_CHARACTERS} characters")
    return AppendRequest(
        content_type=_content_type(headers),
        close=_flag(headers, _wire.STREAM_CLOSED),
        producer=_producer(headers),
        stream_seq=stream_seq,
    )


def read_request(query: bytes) -> ReadRequest:
    """What a GET asks for; unknown parameters are ignored."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise RefusedError(400, "the query has too many parameters") from None
    offsets = [value for name, value in pairs if name == "offset"]
    if len(offsets) > 1:
        raise RefusedError(400, "more than one offset")
    parameters = dict(pairs)
    live = parameters.get("live")
    if live is not None and live not in get_args(LiveMode):
        raise RefusedError(400, f"live must be 'long-poll' or 'sse', not {_shown(live)}")
    if live is not None and not offsets:
        raise RefusedError(400, "live reads need an offset")
    cursor = parameters.get("cursor", "")
    return ReadRequest(
        start=_start(offsets[0]) if offsets else EARLIEST,
        # mypy cannot see that the value was checked against the very same literals.
        live="sse" if live == "sse" else "long-poll" if live else None,
        cursor=int(cursor) if _CURSOR.fullmatch(cursor) else None,
    )


def offset(number: int) -> str:
    """The offset token of a message number: fixed width, so that tokens sort as the numbers do (section 8)."""
    return f"{number:0{OFFSET_DIGITS}d}"


def body(content_type: str | None, raw: bytes) -> Body:
    """A body as a stream of this content type stores it (PROTOCOL section 9.1)."""
    if not raw:
        return Body(None, sent=False)
    if media_type(content_type) != _JSON:
        return Body(raw, sent=True)
    try:
        # As an element of a page: what is nested as deeply as a parser takes could be stored, but not read.
        (value,) = orjson.loads(b"[" + raw + b"]")
    except ValueError as error:
        return Body(None, sent=True, problem=f"the body is not valid JSON: {error}")
    text = raw.strip(_JSON_SPACE)
    if not isinstance(value, list):
        return Body(text, sent=True)
    if not value:
        return Body(None, sent=True, problem="an empty JSON array appends nothing", empty_array=True)
    # One level is flattened by taking the brackets away: the elements keep their bytes.
    return Body(text[1:-1].strip(_JSON_SPACE), sent=True)


@lru_cache(maxsize=256)
def media_type(content_type: str | None) -> str:
    """The media type without parameters, in lower case; empty for None."""
    return (content_type or "").split(";", 1)[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether a stream of this content type is in JSON mode."""
    return media_type(content_type) == _JSON


def instant_seconds(text: str) -> float:
    """An RFC 3339 instant in seconds since 1970."""
    if _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError):
            pass
    raise RefusedError(400, f"Stream-Expires-At is not an RFC 3339 instant: {_shown(text)}")


def _content_type(headers: Mapping[str, str]) -> str | None:
    text = headers.get("content-type", "").strip()
    if not text:
        return None
    if len(text) > _MAX_HEADER_CHARACTERS or not _CONTENT_TYPE.fullmatch(text):
        raise RefusedError(400, f"Content-Type is not a media type: {_shown(text)}")
    return text


def _flag(headers: Mapping[str, str], name: str) -> bool:
    # Any other value is as good as none, and no error (PROTOCOL section 4.1).
    return headers.get(name, "").lower() == "true"


def _producer(headers: Mapping[str, str]) -> ProducerMark | None:
    names = (_wire.PRODUCER_ID, _wire.PRODUCER_EPOCH, _wire.PRODUCER_SEQ)
    values = [headers.get(name) for name in names]
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        raise RefusedError(400, "Producer-Id, Producer-Epoch and Producer-Seq belong together")
    producer_id = headers[_wire.PRODUCER_ID]
    if not 0 < len(producer_id) <= _MAX_HEADER_CHARACTERS:
        raise RefusedError(400, f"Producer-Id must have 1 to {_MAX_HEADER_CHARACTERS} characters")
    return ProducerMark(
        producer_id,
        epoch=_producer_integer(headers[_wire.PRODUCER_EPOCH], "Producer-Epoch"),
        seq=_producer_integer(headers[_wire.PRODUCER_SEQ], "Producer-Seq"),
    )


def _producer_integer(text: str, name: str) -> int:
    if not _INTEGER.fullmatch(text) or int(text) > _wire.MAX_PRODUCER_INTEGER:
        raise RefusedError(400, f"{name} is not an integer from 0 to 2^53-1: {_shown(text)}")
    return int(text)


def _start(token: str) -> int | None:
    if token == _wire.START_OFFSET:
        return EARLIEST
    if token == _wire.NOW_OFFSET:
        return None
    if not _OFFSET.fullmatch(token):
        raise RefusedError(400, f"not an offset of this server: {_shown(token)}")
    return int(token)


def _shown(text: str) -> str:
    return repr(text[:100])
