"""CBOR (RFC 8949), taken as if it were JSON.

What JSON does not have: byte strings become base64 text, undefined becomes null, whole numbers as keys become
text. Numbers keep their digits, however long; a decimal fraction and a bignum are numbers, of every other tag
the content passes without the tag (a time as text or number). Refused are NaN, infinity, other simple values,
other keys, keys that are there twice, references inside the payload (they multiply), and bytes behind the value.

Payloads are limited to `MAX_CBOR_BYTES`: keys that are not text can be chosen so that a map takes quadratic time.
"""

from __future__ import annotations

import io
import math
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn

import cbor2

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import is_in_range, shortest
from ds_gateway.decoding.values import Base64Text, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CBOR_BYTES: Final = 64 * 1024
MAX_CBOR_DEPTH: Final = 64
_MAX_BIGNUM_BYTES: Final = 128
"""As many as a double's range has."""
_MAX_EXPONENT: Final = 400

_BUILT_IN: Final = (0, 1, 30, 35, 36, 37, 52, 54, 100, 258, 260, 261, 1004, 43000, 55799)
"""Tags that the library would make objects of."""
_REFERENCES: Final = (25, 28, 29, 256)


class _RefusedError(ValueError):
    pass


# The library calls these with the decoded content, and with whether the tag is in a key.
def _content(content: Any, _in_key: bool) -> Any:  # noqa: FBT001
    return content


def _refuse_reference(_content: Any, _in_key: bool) -> NoReturn:  # noqa: FBT001
    raise _RefusedError("it has references inside, which are not followed")


def _bignum(content: Any, in_key: bool) -> int:  # noqa: FBT001
    if in_key or not isinstance(content, bytes) or len(content) > _MAX_BIGNUM_BYTES:
        raise _RefusedError("a bignum is beyond any use")
    return int.from_bytes(content, "big")


def _negative(content: Any, in_key: bool) -> int:  # noqa: FBT001
    return -1 - _bignum(content, in_key)


def _fraction(content: Any, _in_key: bool) -> Decimal:  # noqa: FBT001
    match content:
        case [int(exponent), int(mantissa)] if abs(exponent) <= _MAX_EXPONENT:
            return Decimal(f"{mantissa}E{exponent}")
        case _:
            raise _RefusedError("a decimal fraction is beyond any use")


def _refuse_bigfloat(_content: Any, _in_key: bool) -> NoReturn:  # noqa: FBT001
    raise _RefusedError("it has a bigfloat, which has no form as JSON")


_TAGS: Final = {
    **dict.fromkeys(_BUILT_IN, _content),
    **dict.fromkeys(_REFERENCES, _refuse_reference),
    2: _bignum,
    3: _negative,
    4: _fraction,
    5: _refuse_bigfloat,
}


def parse_cbor(payload: bytes) -> dict[str, Any]:
    """The members of a map, anything else as ``value``."""
    if len(payload) > MAX_CBOR_BYTES:
        raise UndecodableError(f"CBOR of {len(payload)} bytes; at most {MAX_CBOR_BYTES} are taken")
    stream = io.BytesIO(payload)
    try:
        decoded = cbor2.CBORDecoder(
            stream,
            tag_hook=lambda tag, _in_key: tag.value,
            semantic_decoders=_TAGS,
            max_depth=MAX_CBOR_DEPTH,
            allow_duplicate_keys=False,
        ).decode()
    except cbor2.CBORError as error:
        raise UndecodableError(f"not CBOR: {_reason(error)}") from error
    # The library translates what its callers raise, but not everything that Python does in its name.
    except (_RefusedError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        raise UndecodableError(f"not CBOR that can be taken: {shortened(str(error))}") from error
    if stream.tell() != len(payload):
        raise UndecodableError(f"not CBOR: {len(payload) - stream.tell()} bytes are behind the value")
    value = _plain(decoded)
    return value if isinstance(value, dict) else {"value": value}


def _reason(error: cbor2.CBORError) -> str:
    cause = error.__cause__
    return str(cause) if isinstance(cause, _RefusedError) else str(error)


def _plain(value: Any) -> Any:
    """The value as JSON has it. The depth is limited by the parser."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return _integer(value)
        case float():
            return _float(value)
        case bytes():
            return Base64Text.of(value)
        case Decimal():
            if not is_in_range(value):
                raise UndecodableError("a number outside the range of a double")
            return value
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict() | cbor2.frozendict():
            return _members(value)
        case _ if value is cbor2.undefined:
            return None
        case _:
            raise UndecodableError(f"{shortened(repr(value))} has no form as JSON")


def _members(values: Mapping[Any, Any]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise UndecodableError(f"a key is {type(key).__name__}: only text and whole numbers are taken")
        name = str(key)
        if name in members:
            raise UndecodableError(f"the key {shortened(name)} is there as text and as a number")
        members[name] = _plain(value)
    return members


def _integer(value: int) -> int | Decimal:
    if -(2**63) <= value < 2**64:
        return value
    number = Decimal(value)
    if not is_in_range(number):
        raise UndecodableError("a number outside the range of a double")
    return number


def _float(value: float) -> float | Decimal:
    """A number that 32 bits hold has their digits: 21.4 and not 21.399999618530273."""
    if not math.isfinite(value):
        raise UndecodableError(f"a number is {value}, which is not finite")
    try:
        is_short = struct.unpack("<f", struct.pack("<f", value))[0] == value
    except OverflowError:
        return value
    return shortest(value, "f") if is_short else value
