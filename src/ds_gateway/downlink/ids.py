"""The ids of commands that ended, for a day: a command that comes again is answered, and not done again. Pure.

A row ``i<digest>`` for each. What is forgotten before the day is over, because there are too many, raises a floor:
what was issued before it may have been done, and is refused.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from ds_gateway.commands import Status
from ds_gateway.downlink.ageing import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS
from ds_gateway.records import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_IDS: Final = 100_000
FLOOR: Final = "floor"
PREFIX: Final = "i"
_EVICTED_AT_ONCE: Final = 16
_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_AHEAD_NS: Final = int(MAX_AHEAD_SECONDS * NANOSECONDS)
_KEEP_NS: Final = int(MAX_AGE_SECONDS * NANOSECONDS) + 2 * _AHEAD_NS
"""A bit longer than commands may be old, because a sender's clock may be ahead of ours."""
_ROW: Final = struct.Struct("<BQQ")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an id."""

    status: Status
    number: int
    time_ns: int


class DoneIds:
    """All that are known."""

    def __init__(self, *, max_ids: int = MAX_IDS) -> None:
        self._max_ids = max_ids
        self._rows: dict[bytes, bytes] = {}
        """By digest; the oldest first. Packed as on disk: there may be many."""
        self.floor_ns = 0
        """Ids of what was issued before are not all known."""

    @classmethod
    def restored(cls, rows: Mapping[str, bytes], *, max_ids: int = MAX_IDS) -> DoneIds:
        """From the rows of the gate; others are passed over."""
        ids = cls(max_ids=max_ids)
        if FLOOR in rows:
            ids.floor_ns = int(rows[FLOOR])
        found = {bytes.fromhex(name[1:]): row for name, row in rows.items() if name[0] == PREFIX}
        ids._rows = dict(sorted(found.items(), key=lambda each: _unpack(each[1]).time_ns))
        return ids

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, command_id: str) -> Done | None:
        """What became of it; None if it is not known."""
        row = self._rows.get(_digest(command_id))
        return None if row is None else _unpack(row)

    def add(self, command_id: str, done: Done) -> dict[str, bytes | None]:
        """Note one; return the rows to write and to delete."""
        digest = _digest(command_id)
        row = _ROW.pack(_STATUSES.index(done.status), done.number, max(done.time_ns, 0))
        self._rows.pop(digest, None)
        self._rows[digest] = row
        changes: dict[str, bytes | None] = {_name(digest): row}
        for _ in range(_EVICTED_AT_ONCE):
            oldest = next(iter(self._rows))
            is_too_many = len(self._rows) > self._max_ids
            time_ns = _unpack(self._rows[oldest]).time_ns
            if not is_too_many and time_ns >= done.time_ns - _KEEP_NS:
                break
            del self._rows[oldest]
            changes[_name(oldest)] = None
            if time_ns + _AHEAD_NS > self.floor_ns and is_too_many:
                self.floor_ns = time_ns + _AHEAD_NS
                changes[FLOOR] = b"%d" % self.floor_ns
        return changes


def _digest(command_id: str) -> bytes:
    return hashlib.blake2b(command_id.encode(), digest_size=16).digest()


def _name(digest: bytes) -> str:
    return PREFIX + digest.hex()


def _unpack(row: bytes) -> Done:
    status, number, time_ns = _ROW.unpack(row)
    return Done(_STATUSES[status], number, time_ns)
