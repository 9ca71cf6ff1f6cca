"""From what a caller appends to the body of a POST: one append is one message, whatever it looks like.

On a JSON stream a message is any JSON value. A ``str`` or ``bytes`` is JSON text already. The body is always an
array, because the server flattens exactly one level (PROTOCOL section 9.1.2): so ``[1, 2]`` stays one message.
On every other stream a message is its bytes, and a body is its messages one after the other.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from durable_streams._wire import encode_json, is_json, json_batch
from durable_streams.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def encode_message(data: Any, content_type: str | None) -> bytes:
    """Return the bytes of one message; raise `MessageError` for what the stream cannot take."""
    return encode_json(data) if is_json(content_type) else _encode_bytes(data, content_type)


def encoder(content_type: str | None) -> Callable[[Any], bytes]:
    """Return `encode_message` of streams with this content type."""
    return encode_json if is_json(content_type) else partial(_encode_bytes, content_type=content_type)


def _encode_bytes(data: Any, content_type: str | None) -> bytes:
    raw = _raw(data)
    if raw is None:
        kind = type(data).__name__
        raise MessageError(
            f"a stream of {content_type or 'bytes'} takes bytes or str, not {kind}: encode it first, or make it "
            f"a stream of application/json"
        )
    if not raw:
        raise MessageError("an empty message cannot be appended (PROTOCOL section 5.2)")
    return raw


def body_of(messages: Sequence[bytes], content_type: str | None) -> bytes:
    """Return the body that appends these messages."""
    return json_batch(messages) if is_json(content_type) else b"".join(messages)


def initial_body(content: Any, content_type: str | None) -> bytes | None:
    """Return the body of a creation: as one message, except that a JSON array is several; None if it is empty."""
    if content is None or (isinstance(content, str | bytes | bytearray | memoryview) and not content):
        return None
    return encode_message(content, content_type)


def _raw(data: Any) -> bytes | None:
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise MessageError(f"a text that UTF-8 cannot express: {error}") from error
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    return None
