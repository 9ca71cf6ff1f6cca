"""The downlink's rows inside the journal's transactions.

The gate decides nothing: each item carries the rows that belong to it, as the event loop decided them. What was
committed comes back at the start, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ds_gateway.records import Item, Loss


@dataclass(frozen=True, slots=True)
class RowChanges:
    """The token of an item."""

    ticket: int
    """Rises by one with each item."""
    rows: Mapping[str, bytes | None]


class DownlinkGate:
    """The gate (`ds_gateway.journal.intake.Gate`) of the downlink."""

    def __init__(self, on_restored: Callable[[Mapping[str, bytes]], None]) -> None:
        self._on_restored: Callable[[Mapping[str, bytes]], None] | None = on_restored
        self._changes: dict[str, bytes | None] = {}

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Hand the rows out, the first time. After a failed commit its items come again, with their rows."""
        self._changes = {}
        if self._on_restored is not None:
            self._on_restored(dict(rows))
            self._on_restored = None

    def admit(self, items: Sequence[Item], commit: int) -> Sequence[Item]:  # noqa: ARG002 - the protocol's
        """Take every item, with its rows."""
        for item in items:
            assert isinstance(item.token, RowChanges), "an item of the downlink"
            self._changes.update(item.token.rows)
        return items

    def losses(self) -> Sequence[Loss]:
        """None: what is in the command stream stays there."""
        return ()

    def changes(self) -> Mapping[str, bytes | None]:
        """The rows of the items."""
        changes, self._changes = self._changes, {}
        return changes
