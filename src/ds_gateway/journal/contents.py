"""Whether two JSON texts say the same record: a server may write numbers and strings in its own way.

``21.0`` and ``21`` are the same reading, and so are ``1e5`` and ``100000``; servers that parse what they are given
return one for the other. Others may write to a stream, too: what the fast parser refuses is parsed slowly.
"""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any, Final

import orjson

UNKNOWN: Final = 0
"""Not the digest of any record."""
_INCOMPARABLE: Final = 1
"""The digest of what cannot be compared: nested too deeply. No record of a journal has it."""


def parse(text: bytes) -> Any:
    """Parse JSON. Raises ValueError for what is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Lone surrogates, numbers beyond a double, deep nesting: JSON all the same.
        try:
            return json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error


def parse_page(body: bytes) -> list[Any]:
    """Parse what a read returned: an array of messages. Raises ValueError when it is not one."""
    messages = parse(body)
    if not isinstance(messages, list):
        raise ValueError("not an array")  # noqa: TRY004 - the value is wrong, whatever its type
    return messages


def digest(message: Any) -> int:
    """What tells one record from another; above 1, at most 64 bits."""
    try:
        plain = _plain(message)
        try:
            packed = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            packed = json.dumps(plain, sort_keys=True).encode()
    except RecursionError:
        return _INCOMPARABLE
    return max(int.from_bytes(blake2b(packed, digest_size=8).digest()), 2)


def _plain(value: Any) -> Any:
    """The value with every number as a double, as most servers see it."""
    match value:
        case bool() | str() | None:
            return value
        case int() | float():
            try:
                return float(value) + 0.0  # no negative zero
            except OverflowError:
                return math.copysign(math.inf, value)
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case _:
            return [_plain(each) for each in value]
