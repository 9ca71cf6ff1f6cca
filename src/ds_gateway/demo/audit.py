"""What was sent against what the streams contain. Pure.

Every device numbers its readings 1, 2, 3 and so on, and tells at the end how many it sent. The numbers travel in
the readings, so the audit needs nothing from the gateway that it audits.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SCALE_LINE: Final = re.compile(r"S S +-?\d+\.\d+ kg #(?P<number>\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class DeviceAudit:
    """One device's readings."""

    device: str
    sent: int
    in_stream: int
    """All of its readings in the streams, repeated ones too."""
    lost: tuple[int, ...]
    """Numbers that were sent and are in no stream."""
    duplicated: tuple[int, ...]
    """Numbers of readings that are there again, once for each time too many."""
    out_of_order: tuple[int, ...]
    """Numbers that stand behind a higher one."""
    never_sent: tuple[int, ...]
    """Numbers in the streams that the device says it has not sent."""

    @property
    def is_exact(self) -> bool:
        """Whether every reading is there, once, in its place, and nothing else."""
        return not (self.lost or self.duplicated or self.out_of_order or self.never_sent)


@dataclass(frozen=True, slots=True)
class Found:
    """What the streams contain."""

    numbers: Mapping[str, Sequence[int]]
    """The numbers of each device's readings, in the stream's order."""
    strange: tuple[str, ...] = ()
    """Readings without a number, which no device of the demo sends."""


def read_records(records: Iterable[Any]) -> Found:
    """Sort records of all streams by device. Control records (``kind``) are the gateway's own and not counted."""
    numbers: dict[str, list[int]] = {}
    strange: list[str] = []
    for record in records:
        if isinstance(record, dict) and "kind" in record:
            continue
        number = _number(record)
        if number is None:
            strange.append(repr(record)[:200])
        else:
            numbers.setdefault(record["device"], []).append(number)
    return Found(numbers, tuple(strange))


def _number(record: Any) -> int | None:
    match record:
        case {"device": str(), "data": {"seq": int(number)}}:
            return number
        case {"device": str(), "data": {"value": str(line)}}:
            found = _SCALE_LINE.fullmatch(line)
            return None if found is None else int(found["number"])
        case _:
            return None


def audit(sent: Mapping[str, int], found: Mapping[str, Sequence[int]]) -> tuple[DeviceAudit, ...]:
    """Compare: ``sent`` is each device's count. A device that is found and never sent anything has sent 0."""
    return tuple(
        _audit_device(device, sent.get(device, 0), found.get(device, ())) for device in sorted({*sent, *found})
    )


def _audit_device(device: str, sent: int, found: Sequence[int]) -> DeviceAudit:
    counts = Counter(found)
    out_of_order: list[int] = []
    highest = 0
    for number in dict.fromkeys(found):  # a repeated reading is a duplicate; only its first place counts
        if number < highest:
            out_of_order.append(number)
        highest = max(highest, number)
    return DeviceAudit(
        device=device,
        sent=sent,
        in_stream=len(found),
        lost=tuple(number for number in range(1, sent + 1) if number not in counts),
        duplicated=tuple(sorted((counts - Counter(set(found))).elements())),
        out_of_order=tuple(out_of_order),
        never_sent=tuple(sorted(number for number in counts if not 1 <= number <= sent)),
    )
