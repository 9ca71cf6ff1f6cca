"""Sizes and durations as people write them: ``2GiB``, ``60s``, or plain numbers. And plain numbers."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainValidator

MAX_BYTES: Final = 2**62
"""Larger sizes are mistakes, and SQLite's integers end at 2**63."""

_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([kKMGT]i?)?[bB]?", re.ASCII)
_SIZE_UNITS: Final = {
    None: 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_DURATION = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*(ms|s|min|m|h|d)?", re.ASCII)
_DURATION_UNITS: Final = {"ms": "0.001", None: "1", "s": "1", "m": "60", "min": "60", "h": "3600", "d": "86400"}


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a number of bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB")
    unit = match[2].lower() if match[2] else None
    return int(Decimal(match[1]) * _SIZE_UNITS[unit])


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a number of seconds, or a number with ms, s, m, h or d")
    return float(Decimal(match[1]) * Decimal(_DURATION_UNITS[match[2]]))


def _whole_duration(value: Any) -> Any:
    seconds = _duration(value)
    if isinstance(seconds, float):
        if not seconds.is_integer():
            raise ValueError("must be a whole number of seconds")
        return int(seconds)
    return seconds


def _number(value: Any) -> int | float:
    # pydantic's own union would report one mistake twice, and a bool is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


Bytes = Annotated[int, BeforeValidator(_size), Field(ge=0, le=MAX_BYTES)]
Seconds = Annotated[float, BeforeValidator(_duration), Field(ge=0, le=10 * 365 * 86400.0)]
WholeSeconds = Annotated[int, BeforeValidator(_whole_duration)]
Number = Annotated[int | float, PlainValidator(_number)]
"""A factor or a summand; whole numbers stay whole, the arithmetic with them is decimal."""
