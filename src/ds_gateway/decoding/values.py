"""Values between a payload and a record: what orjson cannot hold, and how all of them are rendered."""

from __future__ import annotations

from base64 import b64encode
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import is_in_range, parse_plain_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN_CHARACTERS: Final = 40
_SHOWN_NAMES: Final = 10
_NOT_FINITE: Final = frozenset({"nan", "inf", "infinity"})


class Numeric:
    """A number out of a text, and the text: a time may need its zeros."""

    __slots__ = ("number", "text")

    def __init__(self, text: str, number: Decimal) -> None:
        self.text = text
        self.number = number


class Base64Text(str):
    """Bytes in base64. It may look like a number ("1234"), but it never is one."""

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes) -> Base64Text:
        """The bytes in base64."""
        return cls(b64encode(data).decode())


def numeric(text: str, decimal: str) -> str | Numeric:
    """A number where the text is one; ``decimal`` is its decimal point. `UndecodableError`: NaN, infinity."""
    number = parse_plain_number(_with_point(text, decimal))
    if number is None:
        if text.lstrip("+-").lower() in _NOT_FINITE:
            raise UndecodableError(f"{text} is not a finite number")
        return text
    if not is_in_range(number):
        raise UndecodableError(f"{shortened(text)} is outside the range of a double")
    return Numeric(text, number)


def _with_point(text: str, decimal: str) -> str:
    return text if decimal == "." else text.replace(".", "?").replace(",", ".")


def utf8_or_latin1(payload: bytes, encoding: str) -> str:
    """The text of a payload; `UndecodableError` if it is none."""
    if encoding == "latin-1":
        return payload.decode("latin-1")
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise UndecodableError(
            f"not UTF-8: the byte 0x{payload[error.start]:02x} at {error.start}; if the device writes Latin-1, "
            "set encoding: latin-1"
        ) from error


def render_value(value: object) -> bytes:
    """Render as JSON; a `Decimal` keeps its digits."""
    if isinstance(value, Decimal):
        return str(value).encode()
    return orjson.dumps(value, default=_fragment)


def render_object(values: Mapping[str, Any]) -> bytes:
    """Render all of them as a JSON object."""
    return orjson.dumps(values, default=_fragment)


def _fragment(value: Any) -> orjson.Fragment:
    return orjson.Fragment(str(value.number if isinstance(value, Numeric) else value))


def shown(value: object) -> str:
    """A value for a message."""
    return shortened(render_value(value).decode())


def shortened(text: str) -> str:
    """The beginning of a text for a message."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def some(names: Iterable[str]) -> str:
    """The first few names for a message."""
    first: list[str] = []
    for name in names:
        if len(first) == _SHOWN_NAMES:
            first.append("...")
            break
        first.append(shortened(name))
    return ", ".join(first) or "no fields"


def read_number(value: object) -> Decimal | None:
    """The number that a decoded value is; a text or a flag is none."""
    match value:
        case Decimal():
            return value
        case bool():
            return None
        case int():
            return Decimal(value)
        case float():
            return Decimal(repr(value))
        case _:
            return None
