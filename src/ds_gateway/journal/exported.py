"""What a stream's row says of records that were exported, or imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Export:
    """A run of open segments that belongs to an export: never sent from here any more (`moving`)."""

    id: str
    first_segment: int
    last_segment: int
    holes: list[list[int]]
    """First and last of the segment numbers in it that have no row."""
    first_position: int
    last_position: int
    records: int
    size: int
    """Bytes of the rows that are still here."""
    may_be_whole: bool = False
    """Whether a file may have all of it, and so may be imported somewhere: asked for before its last line."""
    written: bool = False
    """Whether the export is whole in a file: its rows are being deleted."""


_SINCE_FORMAT_5: Final[Mapping[str, Any]] = {
    "install": "",
    "imported": "",
    "importing": False,
    "begins": 1,
    "exporting": None,
    "exported": [],
    "exported_records": 0,
}
"""Left out of a row where they say nothing, so that older programs can read it."""


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """A stream's row without what says nothing."""
    return {
        key: value for key, value in row.items() if key not in _SINCE_FORMAT_5 or value != _SINCE_FORMAT_5[key]
    }


def spans_of(exported: list[list[Any]]) -> Spans:
    """The positions that were given away."""
    return Spans([(first, last) for first, last, _ in exported], bounded=False)


def own_before(exported: list[list[Any]], position: int) -> int:
    """This position, or the last one before it that was not given away."""
    for first, last, _ in reversed(exported):
        if first <= position <= last:
            position = first - 1
    return position
