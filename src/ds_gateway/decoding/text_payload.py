"""Text, numbers as text, and bytes as they are: one field named ``value``.

Bytes that are not UTF-8 are kept whole, in base64, with ``"encoding": "base64"`` beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import parse_plain_number
from ds_gateway.decoding.values import Base64Text, Numeric, numeric, shown

if TYPE_CHECKING:
    from decimal import Decimal

    from ds_gateway.config.payloads import NumberSettings, TextSettings
    from ds_gateway.decoding.limits import Parser


def text_parser(settings: TextSettings) -> Parser:
    """Never refuses: any bytes have a form as text."""

    def parse(payload: bytes) -> dict[str, Any]:
        try:
            return {"value": payload.decode(settings.encoding).strip()}
        except UnicodeDecodeError:
            return parse_raw(payload)

    return parse


def parse_raw(payload: bytes) -> dict[str, Any]:
    """The bytes in base64."""
    return {"value": Base64Text.of(payload), "encoding": "base64"}


def number_parser(settings: NumberSettings) -> Parser:
    """Nothing but a number, with space around it."""

    def parse(payload: bytes) -> dict[str, Any]:
        text = payload.decode("latin-1").strip()
        value = numeric(text, settings.decimal)
        if not isinstance(value, Numeric):
            raise UndecodableError(f"{shown(text)} is not a number")
        return {"value": value}

    return parse


def read_text_number(value: object) -> Decimal | None:
    """The number that a text is."""
    if isinstance(value, Numeric):
        return value.number
    return parse_plain_number(value) if isinstance(value, str) and not isinstance(value, Base64Text) else None
