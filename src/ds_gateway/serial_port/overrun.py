"""What nobody took in time: logged, and entered into the loss ledger when there is room.

Readings that the journal's queue had no room for, which is certain; and bytes that the line's chip or driver
dropped, which may have been part of a reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.logs import event, logger
from ds_gateway.records import Item, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = logger("serial_port")

_LOG_SECONDS: Final = 10.0
_LOSS_SECONDS: Final = 10.0
"""How often the ledger is told at most, but for the last time: a queue may be full, and not full, many times."""


class ItemSink(Protocol):
    """What is needed of `ds_gateway.journal.intake.Intake`."""

    def offer(self, items: Sequence[Item]) -> bool:
        """Queue all of the items, or none; never waits."""
        ...  # pragma: no cover


class Overrun:
    """What one source lost. Not thread-safe. ``monotonic`` is the clock of what is told when, in seconds.

    ``is_certain``: these are readings of the queue; else bytes of the line.
    """

    def __init__(
        self, source: str, intake: ItemSink, monotonic: Callable[[], float], *, is_certain: bool = True
    ) -> None:
        self.lost = 0
        """Readings or bytes, since the start."""
        self._is_certain = is_certain
        self._source = source
        self._intake = intake
        self._monotonic = monotonic
        self._untold: tuple[int, int, int] | None = None
        """What the ledger does not know of yet; when the first and the last came."""
        self._next_log = self._next_loss = monotonic()

    def add(self, count: int, time_ns: int) -> None:
        """So many more were lost at that time (UTC, nanoseconds since 1970)."""
        self.lost += count
        untold, first_ns, _ = self._untold or (0, time_ns, 0)
        self._untold = untold + count, first_ns, time_ns
        now = self._monotonic()
        if now >= self._next_log:
            self._next_log = now + _LOG_SECONDS
            name = "serial.queue.overflow" if self._is_certain else "serial.line.overrun"
            event(_log, "error", name, source=self._source, lost_so_far=self.lost)

    def tell(self, *, at_once: bool = False) -> None:
        """Enter what was lost into the ledger, once, when there is room for that."""
        now = self._monotonic()
        if self._untold is None or (now < self._next_loss and not at_once):
            return
        count, first_ns, last_ns = self._untold
        loss = Loss(
            "serial_overrun",
            certain=self._is_certain,
            count=count,
            first_ns=first_ns,
            last_ns=last_ns,
            source=self._source,
            detail="readings that the journal's queue had no room for"
            if self._is_certain
            else "bytes that the serial driver dropped, as it counted: a reading may be missing",
        )
        if self._intake.offer([Item(loss)]):
            self._untold = None
            self._next_loss = now + _LOSS_SECONDS
        elif at_once:
            event(_log, "error", "serial.overrun.untold", source=self._source, count=count)
