"""Looks for one batch in what a read-back returns, by the ids of its records."""

from __future__ import annotations

from typing import Any, Final

from ds_gateway.journal.contents import digest, parse_page
from ds_gateway.spans import Spans
from durable_streams import Presence

MAX_DIGITS: Final = 19
"""No position has more: ids come from a stream that others may write to."""


def ids_of(message: Any, prefixes: tuple[str, ...]) -> tuple[str, int] | None:
    """The prefix and the position of a record's id; None for everything else that a stream may have in it."""
    record_id = message.get("id") if isinstance(message, dict) else None
    if not isinstance(record_id, str):
        return None
    for prefix in prefixes:
        if record_id.startswith(prefix):
            digits = record_id[len(prefix) :]
            if digits.isascii() and digits.isdigit() and len(digits) < MAX_DIGITS:
                return prefix, int(digits)
    return None


class IdFinder:
    """Counts which records of a batch are in the pages fed to it.

    ``prefix`` is what all ids of this stream's journal begin with; ``high_water`` the last position it ever
    sealed. A record behind the batch, up to there, was sealed once and is open again: a repair takes it for sent.
    Memory is bounded by the batch, not by what is read.
    """

    def __init__(
        self, prefix: str, batch: bytes, high_water: int, moved: Spans | None = None, *, is_import: bool = False
    ) -> None:
        """``moved``: positions that others send for us. ``is_import``: others count on behind ``high_water``."""
        self._prefixes = (prefix,)
        self._moved = Spans() if moved is None else moved
        self._is_import = is_import
        self._wanted = {each["id"]: digest(each) for each in parse_page(batch)}
        self._high_water = high_water
        self._last = max((int(each.rpartition(".")[2]) for each in self._wanted), default=0)
        self._found: set[str] = set()
        self._later = False
        self._foreign = False

    def feed(self, page: bytes) -> None:
        """Take one response's body, a JSON array. Raises ValueError when it is not one."""
        for message in parse_page(page):
            record_id = message.get("id") if isinstance(message, dict) else None
            if isinstance(record_id, str) and record_id in self._wanted:
                # Another record under this id is a copy's: both count from the same position on.
                self._foreign = self._foreign or digest(message) != self._wanted[record_id]
                self._found.add(record_id)
            elif (found := ids_of(message, self._prefixes)) is not None and found[1] > self._last:
                if found[1] in self._moved or (self._is_import and found[1] > self._high_water):
                    continue
                self._later = True
                self._foreign = self._foreign or found[1] > self._high_water

    def verdict(self) -> Presence:
        """What was found."""
        if self._foreign:
            return Presence.FOREIGN
        if self._later:
            return Presence.PARTIAL
        if not self._found:
            return Presence.ABSENT
        return Presence.PRESENT if len(self._found) == len(self._wanted) else Presence.PARTIAL
