"""Decimal arithmetic on the digits that the device sent: 214 x 0.1 is 21.4, never 21.400000000000002.

A result is exact, or it is refused: nothing is rounded on the way.
"""

from __future__ import annotations

import re
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


class Linear:
    """``raw * scale + offset``, exactly. Not thread-safe; one for each field of a pipeline."""

    def __init__(self, scale: float | None, offset: float | None) -> None:
        self._scale = Decimal(1) if scale is None else exact(scale)
        self._offset = None if offset is None else exact(offset)
        self._context = Context(
            prec=_DIGITS,
            Emin=MIN_EMIN,
            Emax=MAX_EMAX,
            traps=[InvalidOperation, DivisionByZero, Overflow, Inexact],
        )

    @classmethod
    def of(cls, settings: FieldSettings) -> Linear | None:
        """The field's arithmetic, or None where its value passes as it is."""
        if settings.scale is None and settings.offset is None:
            return None
        return cls(settings.scale, settings.offset)

    def apply(self, raw: Decimal) -> Decimal:
        """Return the result, which is finite and within a double's range; `UndecodableError` otherwise."""
        try:
            if self._offset is None:
                value = self._context.multiply(raw, self._scale)
            else:
                value = self._context.fma(raw, self._scale, self._offset)
        except ArithmeticError as error:
            raise UndecodableError("a number with more digits than can be scaled exactly") from error
        if not -_LARGEST_DOUBLE <= value <= _LARGEST_DOUBLE:
            raise UndecodableError("a number outside the range of a double after scaling")
        return value
