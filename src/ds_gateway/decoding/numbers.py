"""Decimal arithmetic on the digits that the device sent: 214 x 0.1 is 21.4, never 21.400000000000002.

A result is exact, or it is refused: nothing is rounded on the way, except where ``round`` says so.
"""

from __future__ import annotations

import re
import struct
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from typing import TYPE_CHECKING, Final

from ds_gateway.decoding.errors import UndecodableError

if TYPE_CHECKING:
    from ds_gateway.config.decoding import FieldSettings

_DIGITS: Final = 2000
"""Significant digits of an exact result: any double times any double, plus any double, has fewer."""

_LARGEST_DOUBLE: Final = Decimal("1.7976931348623157E+308")

_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


_LEAST_DOUBLE: Final = -_LARGEST_DOUBLE
_LARGEST_EXPONENT: Final = _LARGEST_DOUBLE.adjusted()

_SHORTEST: Final = {"e": (3, 5), "f": (6, 9)}
"""Significant digits, at least and at most, that tell one float of 16 and of 32 bits from all others."""


def is_in_range(number: Decimal) -> bool:
    """Whether it is within a double's range: JSON readers make infinity or null of others."""
    return _LEAST_DOUBLE <= number <= _LARGEST_DOUBLE


def shortest(number: float, width: str) -> Decimal:
    """The shortest decimal number that is this finite float of ``width`` e (16 bits) or f (32).

    21.4 as a float of 32 bits is the double 21.399999618530273, which has digits that nobody measured.
    """
    first, last = _SHORTEST[width]
    for digits in range(first, last):
        text = f"{number:.{digits}g}"
        try:
            if struct.unpack(f"<{width}", struct.pack(f"<{width}", float(text)))[0] == number:
                return Decimal(text)
        except OverflowError:  # rounded up, the largest ones are beyond the width
            continue
    return Decimal(f"{number:.{last}g}")


def exact(number: float) -> Decimal:
    """A number of the configuration as it was written: 0.1 is one tenth, not the double next to it."""
    return Decimal(repr(number))


def parse_plain_number(text: str) -> Decimal | None:
    """The number that a text is, as instruments print it (``+0012.30``), or None.

    Stricter than `Decimal`, which also takes NaN, underscores and the digits of every script.
    """
    if _PLAIN_NUMBER.fullmatch(text) is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what a Decimal can hold
        return None


class Arithmetic:
    """``raw * scale + offset``, exactly; then bounds, then places. Not thread-safe; one for each field."""

    def __init__(self, settings: FieldSettings) -> None:
        clamp = settings.clamp
        self._scale = Decimal(1) if settings.scale is None else exact(settings.scale)
        self._offset = None if settings.offset is None else exact(settings.offset)
        self._least = None if clamp is None or clamp.min is None else exact(clamp.min)
        self._greatest = None if clamp is None or clamp.max is None else exact(clamp.max)
        self._places = settings.round
        self._context = Context(
            prec=_DIGITS,
            Emin=MIN_EMIN,
            Emax=MAX_EMAX,
            traps=[InvalidOperation, DivisionByZero, Overflow, Inexact],
        )
        self._rounding = Context(prec=_DIGITS, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[InvalidOperation])
        self._is_scale_only = self._offset is None and clamp is None and self._places is None

    @classmethod
    def of(cls, settings: FieldSettings) -> Arithmetic | None:
        """The field's arithmetic, or None where its value passes as it is."""
        return cls(settings) if settings.has_arithmetic else None

    def apply(self, raw: Decimal) -> Decimal:
        """Return the result, which is finite and within a double's range; `UndecodableError` otherwise."""
        try:
            if self._offset is None:
                value = self._context.multiply(raw, self._scale)
            else:
                value = self._context.fma(raw, self._scale, self._offset)
            if not self._is_scale_only:
                value = self._bounded(value)
        except ArithmeticError as error:
            raise UndecodableError("a number with more digits than can be scaled exactly") from error
        if value.adjusted() >= _LARGEST_EXPONENT and not is_in_range(value):
            raise UndecodableError("a number outside the range of a double after scaling")
        return value

    def _bounded(self, value: Decimal) -> Decimal:
        if self._least is not None and value < self._least:
            value = self._least
        elif self._greatest is not None and value > self._greatest:
            value = self._greatest
        # 21 stays 21: places that the device did not send are not made up.
        if self._places is not None and _places(value) > self._places:
            value = value.quantize(Decimal(1).scaleb(-self._places), context=self._rounding)
        return value


def _places(value: Decimal) -> int:
    """How many decimal places a finite number has."""
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int), "it is finite"
    return -exponent
