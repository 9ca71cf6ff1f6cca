"""Text payloads: one field named ``value``, UTF-8 without the space around it.

Bytes that are not UTF-8 are kept whole, in base64, with ``"encoding": "base64"`` beside them. A field with
scale or offset makes a number of a text that is one.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import orjson

from ds_gateway.decoding.numbers import parse_plain_number
from ds_gateway.decoding.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from ds_gateway.config.decoding import FieldSettings
    from ds_gateway.decoding.limits import Decoder


def decode_text(payload: bytes) -> bytes:
    """Never refuses: any bytes have a form as text."""
    text = _utf8(payload)
    if text is None:
        return b'{"value":"%b","encoding":"base64"}' % b64encode(payload)
    return b'{"value":%b}' % orjson.dumps(text)


def text_selector(fields: Mapping[str, FieldSettings]) -> Decoder:
    """A decoder for the listed fields; a text has only ``value`` (and ``encoding``) to give."""
    selection = Selection(fields, _number)
    # Base64 may look like a number ("1234"), but it is never one.
    unread = Selection(fields, lambda _value: None)
    tag = b"" if "encoding" in fields else b',"encoding":"base64"'

    def decode(payload: bytes) -> bytes:
        text = _utf8(payload)
        if text is not None:
            return selection.render({"value": text})
        data = unread.render({"value": b64encode(payload).decode(), "encoding": "base64"})
        # Base64 without its tag would be taken for the text itself, so the tag passes unlisted.
        return b"%b%b}" % (data[:-1], tag)

    return decode


def _utf8(payload: bytes) -> str | None:
    try:
        return payload.decode().strip()
    except UnicodeDecodeError:
        return None


def _number(value: object) -> Decimal | None:
    return parse_plain_number(value) if isinstance(value, str) else None
