"""Looks for one batch in what a read-back returns, by the ids of its records."""

from __future__ import annotations

from typing import Any, Final

import orjson

from durable_streams import Presence

MAX_DIGITS: Final = 19
"""No position has more: ids come from a stream that others may write to."""


class IdFinder:
    """Counts which positions of a batch are in the pages fed to it.

    ``prefix`` is what all ids of this stream's journal begin with; ``high_water`` the last position it sealed.
    Memory is bounded by the batch, not by what is read.
    """

    def __init__(self, prefix: str, batch: bytes, high_water: int) -> None:
        self._prefix = prefix
        self._wanted = {position for each in orjson.loads(batch) if (position := self._position(each)) is not None}
        self._high_water = high_water
        self._found: set[int] = set()
        self._foreign = False

    def feed(self, page: bytes) -> None:
        """Take one response's body, a JSON array. Raises ValueError when it is not one."""
        messages = orjson.loads(page)
        if not isinstance(messages, list):
            raise ValueError("not an array")  # noqa: TRY004 - the value is wrong, whatever its type
        for message in messages:
            position = self._position(message)
            if position is None:
                continue
            if position in self._wanted:
                self._found.add(position)
            elif position > self._high_water:
                self._foreign = True

    def _position(self, message: Any) -> int | None:
        record_id = message.get("id") if isinstance(message, dict) else None
        if not isinstance(record_id, str) or not record_id.startswith(self._prefix):
            return None
        digits = record_id[len(self._prefix) :]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < MAX_DIGITS else None

    def verdict(self) -> Presence:
        """What was found."""
        if self._foreign:
            return Presence.FOREIGN
        if not self._found:
            return Presence.ABSENT
        return Presence.PRESENT if len(self._found) == len(self._wanted) else Presence.PARTIAL
