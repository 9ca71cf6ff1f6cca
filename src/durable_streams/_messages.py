"""From what a caller appends to the body of a POST: one append is one message, whatever it looks like.

On a JSON stream a message is any JSON value. A ``str`` or ``bytes`` is JSON text already. The body is always an
array, because the server flattens exactly one level (PROTOCOL section 9.1.2): so ``[1, 2]`` stays one message.
On every other stream a message is its bytes, and a body is its messages one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_streams._wire import encode_json, is_json, json_batch
from durable_streams.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def encode_message(data: Any, content_type: str | None) -> bytes:
    """Return the bytes of one message; raise `MessageError` for what the stream cannot take."""
    if is_json(content_type):
        return encode_json(data)
    raw = _raw(data)
    if raw is None:
        kind = type(data).__name__
        raise MessageError(f"a {content_type or 'byte'} stream takes bytes or str, not {kind}; encode it first")
    if not raw:
        raise MessageError("an empty message cannot be appended (PROTOCOL section 5.2)")
    return raw


def body_of(messages: Sequence[bytes], content_type: str | None) -> bytes:
    """Return the body that appends these messages."""
    return json_batch(messages) if is_json(content_type) else b"".join(messages)


def initial_body(content: Any, content_type: str | None) -> bytes | None:
    """Return the body of a creation: ``bytes`` and ``str`` as they are, other values as JSON."""
    if content is None:
        return None
    raw = _raw(content)
    if raw is not None:
        return raw
    if not is_json(content_type):
        kind = type(content).__name__
        raise MessageError(f"a {content_type or 'byte'} stream takes bytes or str, not {kind}; encode it first")
    return encode_json(content)


def _raw(data: Any) -> bytes | None:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    return None
