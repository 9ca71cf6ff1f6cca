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


class Unencoded(bytes):
    """A message for a stream whose content type is not known yet: a copy that the caller cannot change.

    Text and bytes as they are; of any other value its JSON, and what it was.
    """

    value_type: str | None = None

    def encode(self, content_type: str) -> bytes:
        """Return the message; raise `MessageError` for what such a stream cannot take."""
        if self.value_type is None:
            return encode_message(bytes(self), content_type)
        if is_json(content_type):
            return bytes(self)
        raise _not_bytes(self.value_type, content_type)


def unencoded(data: Any) -> Unencoded:
    """Return a message that is encoded later; raise `MessageError` for what no stream can take."""
    raw = _raw(data)
    if raw is not None:
        return Unencoded(raw)
    message = Unencoded(encode_json(data))
    message.value_type = type(data).__name__
    return message


def _encode_bytes(data: Any, content_type: str | None) -> bytes:
    raw = _raw(data)
    if raw is None:
        raise _not_bytes(type(data).__name__, content_type)
    if not raw:
        raise MessageError("an empty message cannot be appended (PROTOCOL section 5.2)")
    return raw


def _not_bytes(kind: str, content_type: str | None) -> MessageError:
    return MessageError(
        f"a stream of {content_type or 'bytes'} takes bytes or str, not {kind}: encode it first, or make it "
        f"a stream of application/json"
    )


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
