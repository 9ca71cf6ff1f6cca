"""How much may still be stored: the store's own limit, and the space that must stay free on the disk.

Only what adds data is refused: deleting, closing and trimming must work on a full disk, as they are the way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from durable_streams.server._errors import StoreFullError

RESERVED_BYTES: Final = 64 * 1024
"""Kept back of the store's limit, so that a full store can still write down what is deleted."""
_OVERHEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """``max_bytes`` bounds the store's file, ``min_free_bytes`` stay free on its disk. None is no limit."""

    max_bytes: int | None = None
    min_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """What there is, in bytes: the store's file, the part of it that is empty, and what is free on the disk."""

    file_bytes: int
    empty_bytes: int
    free_bytes: int

    def left(self, limits: SpaceLimits) -> int:
        """How many bytes may be added; negative when there are too many already."""
        left = [self.empty_bytes + self.free_bytes]
        if limits.max_bytes is not None:
            left.append(limits.max_bytes - RESERVED_BYTES - self.file_bytes + self.empty_bytes)
        if limits.min_free_bytes is not None:
            # What fits into the empty part of the file takes nothing from the disk.
            left.append(max(0, self.free_bytes - limits.min_free_bytes) + self.empty_bytes)
        return min(left)


class Room:
    """The room that one transaction has. ``left`` is in bytes; None is no limit."""

    def __init__(self, left: int | None) -> None:
        self._left = left

    def take(self, size: int) -> None:
        """Use up so many bytes. Raises `StoreFullError` when they are not there."""
        if self._left is None:
            return
        self._left -= size + _OVERHEAD_BYTES
        if self._left < 0:
            raise StoreFullError("the store has reached its limit, or the disk's free space has")
