"""How much may still be stored: the store's own limit, and the space that must stay free on the disk.

Only what adds data is refused: deleting, closing and trimming must work on a full disk, as they are the way out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_streams.server._errors import StoreFullError
from durable_streams.server._limits import check_at_least

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

RESERVED_BYTES: Final = 64 * 1024
"""Kept back of the store's limit, so that a full store can still write down what is deleted."""
MIN_QUOTA_BYTES: Final = 1024 * 1024
"""Below it a store has hardly room for its own tables."""
_OVERHEAD_BYTES: Final = 4096
_TOLD_EVERY_SECONDS: Final = 600.0
_OVER_AFTER_SECONDS: Final = 60.0
"""Small appends may find room in between while large ones are refused: that is no end of it."""


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """``max_bytes`` bounds the store's file, ``min_free_bytes`` stay free on its disk. None is no limit.

    Raises `ValueError` for a ``max_bytes`` below 1 MiB, and for a negative ``min_free_bytes``.
    """

    max_bytes: int | None = None
    min_free_bytes: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, {"max_bytes": MIN_QUOTA_BYTES, "min_free_bytes": 0})


@dataclass(frozen=True, slots=True)
class Space:
    """What there is, in bytes: the store's file, the part of it that is empty, and what is free on the disk."""

    file_bytes: int
    empty_bytes: int
    free_bytes: int

    def left(self, limits: SpaceLimits) -> int:
        """How many bytes may be added; negative when there are too many already."""
        return min(self._left_by_limit(limits).values())

    def why_full(self, limits: SpaceLimits, directory: Path) -> str:
        """Which limit is the nearest, what there is of it, and the way out."""
        left = self._left_by_limit(limits)
        nearest = min(left, key=left.__getitem__)
        if nearest == "max_bytes":
            used = self.file_bytes - self.empty_bytes
            return (
                f"{directory} has {used:,} of its {limits.max_bytes:,} bytes (max_bytes): delete streams, keep "
                "less of each (retain_bytes), or raise that limit"
            )
        must = f", and {limits.min_free_bytes:,} must stay free (min_free_bytes)" if limits.min_free_bytes else ""
        return (
            f"the disk of {directory} has {self.free_bytes:,} bytes free{must}: free space on it, delete streams, "
            "or keep less of each (retain_bytes)"
        )

    def _left_by_limit(self, limits: SpaceLimits) -> dict[str, int]:
        left = {"disk": self.empty_bytes + self.free_bytes}
        if limits.max_bytes is not None:
            left["max_bytes"] = limits.max_bytes - RESERVED_BYTES - self.file_bytes + self.empty_bytes
        if limits.min_free_bytes is not None:
            # What fits into the empty part of the file takes nothing from the disk.
            left["min_free_bytes"] = max(0, self.free_bytes - limits.min_free_bytes) + self.empty_bytes
        return left


class Room:
    """The room that one transaction has. ``left`` is in bytes; None is no limit. ``why`` says what limits it."""

    def __init__(self, left: int | None, why: Callable[[], str] = str) -> None:
        self._left = left
        self._why = why

    def take(self, size: int) -> None:
        """Use up so many bytes. Raises `StoreFullError` when they are not there."""
        if self._left is None:
            return
        self._left -= size + _OVERHEAD_BYTES
        if self._left < 0:
            raise StoreFullError(f"no room for {size:,} more bytes: {self._why()}")


class FullNotice:
    """Tells the log that a store is full, once, and every ten minutes while it stays so; and that it is over."""

    def __init__(self, log: logging.Logger, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._monotonic = monotonic
        self._told_at = -math.inf
        self._refused_at = -math.inf
        self._full = False

    def refused(self, error: StoreFullError) -> None:
        """Something was refused for want of room."""
        self._refused_at = self._monotonic()
        if not self._full or self._refused_at - self._told_at >= _TOLD_EVERY_SECONDS:
            self._log.warning("store.full: %s", error)
            self._told_at = self._refused_at
        self._full = True

    def stored(self) -> None:
        """Something was added."""
        if self._full and self._monotonic() - self._refused_at >= _OVER_AFTER_SECONDS:
            self._full = False
            # As loud as the warning that it takes back: whoever saw that one must see this one.
            self._log.warning("store.has_room: data are stored again")
