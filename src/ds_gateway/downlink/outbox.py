"""From the event loop into the journal: receipts with the rows that belong to them, in order."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.downlink.gate import DownlinkGate, RowChanges
from ds_gateway.downlink.receipts import record
from ds_gateway.records import Item
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from ds_gateway.downlink.reception import Write
    from ds_gateway.journal.intake import Gate, Intake
    from ds_gateway.records import Envelope
    from ds_gateway.timekeeping import WallClock

SOURCE: Final = "@downlink"
"""Whose rows they are in the journal. No broker and no port can be called so."""
_QUEUE_ITEMS: Final = 100_000
_QUEUE_BYTES: Final = 64 * 1024 * 1024


class ReceiptJournal(Protocol):
    """What is needed of the journal."""

    def intake(
        self,
        source: str,
        *,
        max_items: int,
        max_bytes: int,
        gate: Gate | None,
        on_committed: Callable[[Sequence[Item], int], None] | None,
        uses_reserve: bool,
    ) -> Intake:
        """Return the way in."""
        ...  # pragma: no cover

    def accepted(self, stream: str) -> int:
        """The last position that is committed."""
        ...  # pragma: no cover

    def anchor(self, stream: str) -> tuple[int, str] | None:
        """The epoch under which a stream is claimed, and an offset before which all was there under this claim."""
        ...  # pragma: no cover

    def confirmed(self, stream: str) -> int:
        """All positions up to this one are in the stream."""
        ...  # pragma: no cover

    @property
    def receipt_room(self) -> int:
        """Bytes that are free for receipts."""
        ...  # pragma: no cover


class Outbox:
    """Used on the event loop."""

    def __init__(
        self,
        journal: ReceiptJournal,
        loop: asyncio.AbstractEventLoop,
        *,
        stream: str,
        gateway: str,
        envelope: Envelope = "plain",
        now_ns: Callable[[], int] = time.time_ns,
        wall_clock: WallClock = UNWATCHED,
    ) -> None:
        self.restored: asyncio.Future[Mapping[str, bytes]] = loop.create_future()
        """The rows that the journal had at the start."""
        self.uncommitted_bytes = 0
        self._journal = journal
        self._loop = loop
        self._stream = stream
        self._gateway = gateway
        self._envelope = envelope
        self._now_ns = now_ns
        self._wall_clock = wall_clock
        self._tickets = 0
        self._waiting: deque[tuple[int, int, asyncio.Future[int]]] = deque()
        self._unoffered: deque[Item] = deque()
        self.intake = journal.intake(
            SOURCE,
            max_items=_QUEUE_ITEMS,
            max_bytes=_QUEUE_BYTES,
            gate=DownlinkGate(lambda rows: self._on_loop(self._restore, rows)),
            on_committed=self._on_committed,
            uses_reserve=True,
        )

    def write(self, write: Write) -> asyncio.Future[int]:
        """Let a receipt and its rows be committed, behind all that were written before.

        The future has a position of the receipts stream at, or behind, the receipt's own, once it is committed.
        """
        payload = None
        if write.receipt is not None:
            payload = record(
                write.receipt,
                stream=self._stream,
                gateway=self._gateway,
                time_ns=self._now_ns(),
                stamp=self._wall_clock.stamp(),
                envelope=self._envelope,
            )
        self._tickets += 1
        item = Item(payload, RowChanges(self._tickets, write.rows))
        done: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append((self._tickets, item.size_bytes, done))
        self.uncommitted_bytes += item.size_bytes
        self._unoffered.append(item)
        self._offer()
        return done

    @property
    def uncommitted(self) -> int:
        """Writes that are not committed yet."""
        return len(self._waiting)

    def _offer(self) -> None:
        while self._unoffered and self.intake.offer([self._unoffered[0]]):
            self._unoffered.popleft()

    # -- in the writer's thread

    def _on_committed(self, items: Sequence[Item], _commit: int) -> None:
        token = items[-1].token
        assert isinstance(token, RowChanges), "an item of the downlink"
        self._on_loop(self._settle, token.ticket, self._journal.accepted(self._stream))

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *arguments)

    # -- on the loop

    def _restore(self, rows: Mapping[str, bytes]) -> None:
        if not self.restored.done():
            self.restored.set_result(rows)

    def _settle(self, ticket: int, position: int) -> None:
        while self._waiting and self._waiting[0][0] <= ticket:
            _, size, done = self._waiting.popleft()
            self.uncommitted_bytes -= size
            if not done.done():
                done.set_result(position)
        self._offer()
