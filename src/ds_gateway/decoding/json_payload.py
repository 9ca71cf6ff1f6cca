"""JSON payloads, validated strictly: UTF-8, no NaN, no infinity, nothing after the value.

Without ``fields`` an object passes as the bytes that the device sent, so that its numbers keep their digits
and its members their order. Anything else than an object is ``{"value": x}``.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.decoding.errors import UndecodableError

if TYPE_CHECKING:
    from ds_gateway.decoding.limits import Decoder
    from ds_gateway.decoding.selection import Selection

MAX_DEPTH: Final = 128
"""Deepest nesting. A record adds levels of its own, and parsers refuse or crash at depths of their own."""

_PARSER_DEPTH: Final = 1024
_JSON_SPACE: Final = b" \t\r\n"
_OBJECT: Final = ord("{")

_exact_numbers = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)


def decode_json(payload: bytes) -> bytes:
    """Validate; an object comes back as it is, without the space around it."""
    text, _ = _validated(payload)
    return text if text[0] == _OBJECT else b'{"value":%b}' % text


def parse_json(payload: bytes) -> dict[str, Any]:
    """The members, each number as a `Decimal` of the digits that were sent."""
    return _members(_parsed(_validated(payload)[0]))


def parse_json_roughly(payload: bytes) -> dict[str, Any]:
    """The members, numbers as ints and floats: several times as fast."""
    return _members(_validated(payload)[1])


def json_selector(selection: Selection) -> Decoder:
    """A decoder that lets only the selected fields pass, with the digits that were sent.

    To read all numbers with their digits takes ten times as long as to validate the payload, so only those that
    are selected are read again, where the name of one shows where it is.
    """
    passes = [field.arithmetic is None and field.map is None for field in selection.fields]
    tokens = [_token_after(field.way.last) for field in selection.fields]

    def decode(payload: bytes) -> bytes:
        text, parsed = _validated(payload)
        values = _members(parsed)
        picked = selection.pick(values)
        for index, value in enumerate(picked):
            if isinstance(value, float):
                match = tokens[index].search(text)
                # What has the same name somewhere else is another number, or else it does not matter which.
                if match is not None and float(match[1]) == value:
                    token = match[1]
                    picked[index] = orjson.Fragment(token) if passes[index] else Decimal(token.decode())
                    continue
            elif not isinstance(value, dict | list):
                continue
            return selection.render(_members(_parsed(text)))
        return selection.render_picked(picked, values)

    return decode


def _token_after(name: str) -> re.Pattern[bytes]:
    return re.compile(re.escape(orjson.dumps(name)) + rb"[ \t\r\n]*:[ \t\r\n]*(-?[0-9]+(?:\.[0-9]+)?)(?![0-9.eE])")


def read_json_number(value: object) -> Decimal | None:
    """The number that a value is; a text is none."""
    if isinstance(value, Decimal):
        return value
    return Decimal(value) if type(value) is int else None


def _members(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def _validated(payload: bytes) -> tuple[bytes, Any]:
    text = payload.strip(_JSON_SPACE)
    if not text:
        raise UndecodableError("the payload is empty, which is not JSON")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UndecodableError(f"not JSON: {_why(payload, error)}") from error
    if len(text) > 2 * MAX_DEPTH and text.count(b"{") + text.count(b"[") > MAX_DEPTH and _is_too_deep(text):
        raise UndecodableError(f"JSON nested more than {MAX_DEPTH} levels deep")
    return text, value


def _why(payload: bytes, error: orjson.JSONDecodeError) -> str:
    """Of bytes that are no text the parser says nothing that helps, nor where they are."""
    try:
        payload.decode()
    except UnicodeDecodeError as wrong:
        return (
            f"not UTF-8: the byte 0x{payload[wrong.start]:02x} at {wrong.start}; if the device sends binary "
            "values, set decode: cbor, struct or raw"
        )
    return str(error)


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
