"""Binary payloads: values at fixed places, and bits of them."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import shortest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.payloads import StructMemberSettings, StructSettings
    from ds_gateway.decoding.limits import Parser

_Read: TypeAlias = "Callable[[bytes], Any]"

_FLOATS: Final = {"f16": "e", "f32": "f", "f64": "d"}


def struct_parser(settings: StructSettings) -> Parser:
    """The members by name. The payload has exactly the length that they need, unless the settings say more."""
    length = settings.length or settings.end
    places = settings.places()
    reads = [
        (name, places[name], places[name] + member.size, _reader(name, member, member.order or settings.order))
        for name, member in settings.members.items()
    ]

    def parse(payload: bytes) -> dict[str, Any]:
        if len(payload) != length and (len(payload) < length or not settings.longer):
            least = "at least " if settings.longer else ""
            raise UndecodableError(f"the payload has {len(payload)} bytes, and {least}{length} are expected")
        return {name: read(payload[start:end]) for name, start, end, read in reads}

    return parse


def _reader(name: str, member: StructMemberSettings, order: str) -> _Read:
    """Makes a value of the member's bytes."""
    if member.type == "hex":
        return bytes.hex
    if member.type == "text":
        return lambda data: _text(name, data)
    is_little = order.startswith("little")
    read = _float(name, member.type, is_little) if member.type in _FLOATS else _integer(member, is_little)
    if not order.endswith("_swapped") or member.size < 4:
        return read
    return lambda data: read(b"".join(data[at : at + 2] for at in range(len(data) - 2, -1, -2)))


def _integer(member: StructMemberSettings, is_little: bool) -> _Read:  # noqa: FBT001 - of two orders one
    order: Any = "little" if is_little else "big"
    if member.bit is not None:
        mask = 1 << member.bit
        return lambda data: bool(int.from_bytes(data, order) & mask)
    if member.bits is not None:
        lowest, highest = member.bits
        mask = (1 << (highest - lowest + 1)) - 1
        return lambda data: int.from_bytes(data, order) >> lowest & mask
    is_signed = member.type[0] == "i"
    return lambda data: int.from_bytes(data, order, signed=is_signed)


def _float(name: str, type_: str, is_little: bool) -> _Read:  # noqa: FBT001 - of two orders one
    width = _FLOATS[type_]
    unpack = struct.Struct(f"{'<' if is_little else '>'}{width}").unpack

    def read(data: bytes) -> Any:
        (number,) = unpack(data)
        if not math.isfinite(number):
            raise UndecodableError(f"{name} is {number}, which is not a finite number")
        return number if width == "d" else shortest(number, width)

    return read


def _text(name: str, data: bytes) -> str:
    try:
        return data.rstrip(b"\0 ").decode()
    except UnicodeDecodeError as error:
        raise UndecodableError(f"{name} is not UTF-8 text") from error
