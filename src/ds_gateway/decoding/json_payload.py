"""JSON payloads, validated strictly: UTF-8, no NaN, no infinity, nothing after the value.

Without ``fields`` an object passes as the bytes that the device sent, so that its numbers keep their digits
and its members their order. Anything else than an object is ``{"value": x}``.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import orjson

from ds_gateway.decoding.errors import UndecodableError

MAX_DEPTH: Final = 128
"""Deepest nesting. A record adds levels of its own, and parsers refuse or crash at depths of their own."""

_PARSER_DEPTH: Final = 1024
_JSON_SPACE: Final = b" \t\r\n"
_OBJECT: Final = ord("{")

_exact_numbers = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)


def decode_json(payload: bytes) -> bytes:
    """Validate; an object comes back as it is, without the space around it."""
    text = _validated(payload)
    return text if text[0] == _OBJECT else b'{"value":%b}' % text


def parse_json(payload: bytes) -> dict[str, Any]:
    """The members, each number as a `Decimal` of the digits that were sent."""
    values = _parsed(_validated(payload))
    return values if isinstance(values, dict) else {"value": values}


def read_json_number(value: object) -> Decimal | None:
    """The number that a value is; a text is none."""
    return value if isinstance(value, Decimal) else None


def _validated(payload: bytes) -> bytes:
    text = payload.strip(_JSON_SPACE)
    if not text:
        raise UndecodableError("the payload is empty, which is not JSON")
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UndecodableError(f"not JSON: {error}") from error
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH and _is_too_deep(text):
        raise UndecodableError(f"JSON nested more than {MAX_DEPTH} levels deep")
    return text


def _is_too_deep(valid: bytes) -> bool:
    """Let the parser's own limit measure: inside that many arrays the text is still valid, or too deep."""
    around = _PARSER_DEPTH - MAX_DEPTH
    try:
        orjson.loads(b"[" * around + valid + b"]" * around)
    except orjson.JSONDecodeError:
        return True
    return False


def _parsed(valid: bytes) -> Any:
    """Parse validated JSON with each number as a `Decimal` of the digits that were sent."""
    try:
        return _exact_numbers.decode(valid.decode())
    except ArithmeticError as error:  # 1e-99999999999999999999 is valid JSON and too much for a Decimal
        raise UndecodableError("a number with an exponent beyond any use") from error
