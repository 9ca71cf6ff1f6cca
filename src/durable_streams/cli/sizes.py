"""Sizes as people write them: bytes, or ``20GiB``. The same as in the gateway's configuration."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([kKMGT]i?)?[bB]?", re.ASCII)
_UNIT_POWERS: Final = {"k": 1, "m": 2, "g": 3, "t": 4}
_MAX_BYTES: Final = 2**62
"""Larger sizes are mistakes, and SQLite's integers end at 2**63."""


def size_from(least_bytes: int) -> Callable[[str], int]:
    """Return what reads an option that is a size of so many bytes at least."""

    def size(text: str) -> int:
        found = size_of(str(text))  # the default comes as a number
        if found < least_bytes:
            raise typer.BadParameter(f"{text} is too small: it is {least_bytes} bytes at least")
        if found > _MAX_BYTES:
            raise typer.BadParameter(f"{text} is too large: it is 4 EiB at most")
        return found

    return size


def size_of(text: str) -> int:
    """Return a size in bytes. Raises `typer.BadParameter` for what is none."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size: write bytes, or a number with kB, MB, GB, KiB, MiB, GiB")
    unit = (match[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(Decimal(match[1]) * base ** (_UNIT_POWERS[unit[0]] if unit else 0))
