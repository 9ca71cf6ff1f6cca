"""What goes over the wire, without a wire: header names, requests, replies and JSON batches.

Nothing here does I/O. The two fronts (`_sync`, `_async`) turn a `Request` into an HTTP exchange and give
back a `Reply`, or a `Failure` when there was no complete answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

import orjson

from durable_streams.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Header names, PROTOCOL section 13.2. Lower case, as `Reply.headers` has them.
STREAM_NEXT_OFFSET: Final = "stream-next-offset"
STREAM_CLOSED: Final = "stream-closed"
STREAM_UP_TO_DATE: Final = "stream-up-to-date"
STREAM_CURSOR: Final = "stream-cursor"
STREAM_SEQ: Final = "stream-seq"
STREAM_TTL: Final = "stream-ttl"
STREAM_EXPIRES_AT: Final = "stream-expires-at"
STREAM_FULL: Final = "stream-full"
"""Our server's own, on each of its 507: with it even a refused PUT proves whose answer it is."""
PRODUCER_ID: Final = "producer-id"
PRODUCER_EPOCH: Final = "producer-epoch"
PRODUCER_SEQ: Final = "producer-seq"
PRODUCER_EXPECTED_SEQ: Final = "producer-expected-seq"
PRODUCER_RECEIVED_SEQ: Final = "producer-received-seq"
SSE_DATA_ENCODING: Final = "stream-sse-data-encoding"

JSON_CONTENT_TYPE: Final = "application/json"
START_OFFSET: Final = "-1"
NOW_OFFSET: Final = "now"
MAX_PRODUCER_INTEGER: Final = 2**53 - 1
"""The largest epoch and sequence number (PROTOCOL section 5.2.1)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to a stream. ``headers`` have lower-case names; ``params`` keep their order."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    timeout_seconds: float | None = None
    """Read timeout of this request; None leaves it to the client."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. ``headers`` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def is_true(self, name: str) -> bool:
        """Whether a flag header is set: exactly ``true``, in any case (PROTOCOL section 4.1)."""
        return self.headers.get(name, "").lower() == "true"

    def integer(self, name: str) -> int | None:
        """A header as a non-negative decimal integer, or None when it is absent or anything else."""
        text = self.headers.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None

    @property
    def from_stream_server(self) -> bool:
        """Whether the answer carries a header that only a stream server sends.

        Everything else (a captive portal, a proxy's error page, a redirect) proves nothing about the stream.
        """
        return any(
            name.startswith(("stream-", "producer-")) and name != SSE_DATA_ENCODING for name in self.headers
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """No complete answer. ``sent`` is False only when not one byte of the request can have left."""

    reason: str
    sent: bool = True
    cause: Exception | None = field(default=None, compare=False)
    """The HTTP library's exception, kept as ``__cause__`` of what is raised in the end."""


Answer = Reply | Failure


def media_type(content_type: str | None) -> str:
    """The media type without parameters, in lower case; empty for None."""
    return (content_type or "").split(";", 1)[0].strip().lower()


def is_json(content_type: str | None) -> bool:
    """Whether a stream of this content type is in JSON mode (PROTOCOL section 9.1)."""
    return media_type(content_type) == JSON_CONTENT_TYPE


def json_batch(elements: Iterable[bytes]) -> bytes:
    """Join already encoded JSON values into one array; the server flattens exactly one level (9.1.2)."""
    return b"[" + b",".join(elements) + b"]"


_BYTES: Final = (bytes, bytearray, memoryview)  # a union would be made anew at each call
_JSON_VALUES_ONLY: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def encode_json(value: object) -> bytes:
    """Encode one message; a ``str`` or ``bytes`` is taken as JSON text already and only validated.

    Raises `MessageError` for what JSON cannot express (NaN and infinity included).
    """
    try:
        if isinstance(value, str):
            orjson.loads(value)
            return value.encode().strip()
        if isinstance(value, _BYTES):
            raw = bytes(value)
            orjson.loads(raw)
            return raw.strip()
        # A copy of its own size: what `dumps` returns lies in a buffer of 1 KiB, and a producer keeps many.
        raw = b"%b" % orjson.dumps(value, option=_JSON_VALUES_ONLY)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, UnicodeEncodeError) as error:
        raise MessageError(f"not a JSON message: {error}") from error
    # orjson writes NaN as null, silently. Most messages have no null at all, and need no second look.
    if b"null" in raw and _has_nonfinite(value):
        raise MessageError("not a JSON message: NaN and infinity are not JSON")
    return raw


def _has_nonfinite(value: object) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            if item - item != 0.0:  # the arithmetic of NaN and infinity only
                return True
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, Enum):
            pending.append(item.value)
    return False
