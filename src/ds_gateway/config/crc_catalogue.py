"""CRCs by their names in the catalogue of parametrised CRC algorithms (https://reveng.sourceforge.io/crc-catalogue).

The library writes ``CRC16-MODBUS`` for the catalogue's ``CRC-16/MODBUS``; all ways to write a name are taken.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anycrc

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Crc:
    """One CRC."""

    compute: Callable[[bytes], int]
    size: int
    """Bytes that it takes in a frame."""
    is_reflected: bool
    """Whether it begins with the lowest bit, as those do that are sent with the lowest byte first."""


def catalogue_name(text: str) -> str:
    """The catalogue's own name for a name or alias in it; ValueError with the nearest names."""
    found = _KNOWN.get(_plain(text))
    if found is None:
        nearest = difflib.get_close_matches(_plain(text), _KNOWN, n=3, cutoff=0.5)
        names = list(dict.fromkeys(_written(_KNOWN[name]) for name in nearest))
        hint = f"did you mean {' or '.join(names)}?" if names else "as CRC-16/MODBUS or CRC-32/ISO-HDLC"
        raise ValueError(f"must be a name of the CRC catalogue; {hint}")
    return _written(found)


def crc_model(name: str) -> Crc:
    """The CRC of this name; ValueError as `catalogue_name`."""
    model = anycrc.models[_KNOWN[_plain(catalogue_name(name))]]
    return Crc(anycrc.CRC(*model).calc, (model.width + 7) // 8, model.refout)


def catalogue() -> list[str]:
    """All names, aliases left out."""
    return [_written(name) for name in anycrc.models]


def _plain(text: str) -> str:
    """``CRC-16/MODBUS``, ``crc16_modbus`` and ``CRC16-MODBUS`` are one name."""
    return re.sub(r"[^A-Z0-9]", "", text.upper())


def _written(name: str) -> str:
    return re.sub(r"\ACRC(\d+)-", r"CRC-\1/", name)


_KNOWN: Final = {_plain(alias): name for alias, name in anycrc.aliases.items()} | {
    _plain(name): name for name in anycrc.models
}
