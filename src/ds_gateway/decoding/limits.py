"""How large a payload and its fields may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ds_gateway.decoding.errors import UndecodableError

Decoder: TypeAlias = Callable[[bytes], bytes]
"""Payload in, bytes of a JSON object out; nothing at all for what is no reading, as a header line."""

Parser: TypeAlias = Callable[[bytes], dict[str, Any] | None]
"""Payload in, values by name out; None for what is no reading, as a header line."""

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""Longest payload that is looked at."""

MAX_DATA_BYTES: Final = 1024 * 1024 - 8 * 1024
"""Longest object of fields: with its envelope the record stays under the 1 MiB where many proxies say 413."""


def check_payload(payload: bytes) -> None:
    """Refuse a payload that is too long."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise UndecodableError(f"the payload has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken")


def check_data(data: bytes) -> bytes:
    """Refuse fields that would make too long a record; give them back otherwise."""
    if len(data) > MAX_DATA_BYTES:
        raise UndecodableError(
            f"the fields have {len(data)} bytes as JSON; at most {MAX_DATA_BYTES} fit in a record"
        )
    return data


def bounded(decode: Decoder) -> Decoder:
    """The same decoder with both limits."""

    def decode_bounded(payload: bytes) -> bytes:
        if len(payload) > MAX_PAYLOAD_BYTES:
            check_payload(payload)
        data = decode(payload)
        return data if len(data) <= MAX_DATA_BYTES else check_data(data)

    return decode_bounded
