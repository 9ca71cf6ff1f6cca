"""The way into the journal: one bounded queue for each source, emptied by the writer thread only.

A source offers items from its own thread and never waits. What the writer took is decided by the source's
gate, in commit order; what is committed is handed back to the source, in the writer thread, in the same order.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ds_gateway.records import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ds_gateway.records import Item


class Gate(Protocol):
    """What a source decides inside the writer's transaction. Called from the writer thread only.

    A gate does no I/O. Its durable state is a handful of rows (short ASCII names, byte values) that the
    journal writes in the same transaction as the records they belong to.
    """

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Forget everything in memory and start from these rows. Called at open and after a failed commit."""
        ...  # pragma: no cover

    def admit(self, items: Sequence[Item], commit: int) -> Sequence[Item]:
        """Return those items whose payload is new, in order. ``commit`` numbers the coming transaction.

        Commit numbers start at 1, rise by at least one with every transaction, and survive restarts.
        """
        ...  # pragma: no cover

    def losses(self) -> Sequence[Loss]:
        """What those items prove to be missing; asked once after each `admit`, entered in its transaction."""
        ...  # pragma: no cover

    def changes(self) -> Mapping[str, bytes | None]:
        """Rows to write (or to delete: None) in this transaction; asked once after each `admit`."""
        ...  # pragma: no cover


class Intake:
    """A bounded queue of items from one source to the journal's writer."""

    def __init__(
        self,
        source: str,
        *,
        max_items: int,
        max_bytes: int,
        wake: Callable[[], None],
        gate: Gate | None = None,
        on_committed: Callable[[Sequence[Item], int], None] | None = None,
        uses_reserve: bool = False,
    ) -> None:
        self.source = source
        self.uses_reserve = uses_reserve
        """Whether its items have room in a reserve, and are taken when there is none for others."""
        self.gate = gate
        self.on_committed = on_committed
        """Called in the writer thread after the commit with everything taken (admitted or not) and its number.

        It must neither block nor raise.
        """
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._wake = wake
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._taken = 0

    def offer(self, items: Sequence[Item]) -> bool:
        """Queue all of the items, or none: False when they do not fit. Any thread; never waits for a commit.

        An item bigger than the whole queue is taken when the queue is empty: it could never fit otherwise.
        """
        size = sum(item.size_bytes for item in items)
        with self._lock:
            if self._items and (
                len(self._items) + len(items) > self._max_items or self._bytes + size > self._max_bytes
            ):
                return False
            self._items.extend(items)
            self._bytes += size
        self._wake()
        return True

    def take(self, max_items: int, max_bytes: int, *, only_losses: bool = False) -> list[Item]:
        """Remove and return the oldest items, at least one if there is any. Writer thread only.

        ``only_losses``: only as long as they are losses, which need no room.
        """
        taken: list[Item] = []
        size = 0
        with self._lock:
            while self._items and len(taken) < max_items:
                next_size = self._items[0].size_bytes
                if taken and (size + next_size > max_bytes or self._items[0].is_barrier):
                    break
                if only_losses and not isinstance(self._items[0].payload, Loss):
                    break
                taken.append(self._items.popleft())
                size += next_size
            self._bytes -= size
            self._taken += len(taken)
        return taken

    def give_back(self, items: Sequence[Item]) -> None:
        """Put items of a failed commit back in front, in their order. Writer thread only."""
        with self._lock:
            self._taken -= len(items)
            self._items.extendleft(reversed(items))
            self._bytes += sum(item.size_bytes for item in items)

    def settle(self, items: Sequence[Item]) -> None:
        """The commit with these items is done. Writer thread only."""
        with self._lock:
            self._taken -= len(items)

    @property
    def uncommitted(self) -> int:
        """Items that are queued, or taken for a commit that is not done."""
        with self._lock:
            return len(self._items) + self._taken

    def __len__(self) -> int:
        with self._lock:
            return len(self._items)

    @property
    def waiting_bytes(self) -> int:
        """Bytes queued and not yet taken by the writer."""
        with self._lock:
            return self._bytes
