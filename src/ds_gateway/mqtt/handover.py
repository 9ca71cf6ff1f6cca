"""Items on their way into the journal, and what the broker still waits for: pure bookkeeping, bounded.

The intake says no when it is full. Then items wait here, in order, until it takes them; what may wait is bounded
by the broker's window as long as the broker keeps to it, and by `full` when it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.mqtt.tokens import Delivery
from ds_gateway.records import Item, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

OVERRUN: Final = 4
"""mosquitto 2.0 overruns the window it was given; beyond this many windows nothing more is read."""


class Offers(Protocol):
    """What is needed of `ds_gateway.journal.intake.Intake`."""

    def offer(self, items: Sequence[Item]) -> bool:
        """Queue all of the items or none."""
        ...  # pragma: no cover

    def __len__(self) -> int:
        """Items queued."""
        ...  # pragma: no cover


class Handover:
    """Network thread only."""

    def __init__(
        self,
        intake: Offers,
        *,
        window: int,
        max_unacked_bytes: int,
        source: str = "",
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_dropped`` is called when something read is dropped here: it comes again, or is lost."""
        self._intake = intake
        self._on_dropped = on_dropped
        self._source = source
        self._max_unacked = window * OVERRUN
        self._max_unacked_bytes = max_unacked_bytes
        self._waiting: list[Item] = []
        self._refused = False
        self._unacked_bytes = 0
        self.unacked = 0
        """QoS 1 messages of this connection that have no PUBACK yet."""
        self.lost_qos0 = 0
        """QoS 0 messages for which there was no room, since the start."""
        self._loss: Loss | None = None
        """What of it the journal does not know yet. It waits behind everything else."""

    @property
    def full(self) -> bool:
        """Whether no more may be read from the broker until something is committed."""
        return self.unacked > self._max_unacked or self._unacked_bytes > self._max_unacked_bytes

    @property
    def waiting(self) -> bool:
        """Whether the intake refused items that wait here now."""
        return bool(self._waiting) or self._loss is not None

    def add(self, items: Sequence[Item]) -> None:
        """Take what was received in one pass, and offer it together with what waits."""
        for item in items:
            if isinstance(item.token, Delivery) and item.token.qos:
                self.unacked += 1
                self._unacked_bytes += item.size_bytes
        self._waiting.extend(items)
        self.offer()

    def offer(self) -> bool:
        """Offer what waits. False without room: then QoS 0 messages among it are lost, and go to the ledger."""
        offered = self._waiting if self._loss is None else [*self._waiting, Item(self._loss)]
        if not offered:
            return True
        if self._intake.offer(offered):
            self._waiting, self._loss = [], None
            return True
        self._refused = True
        kept: list[Item] = []
        for item in self._waiting:
            if isinstance(item.token, Delivery) and not item.token.qos:
                if item.payload is not None:
                    self._lose(item.token.time_ns)
            else:
                kept.append(item)
        self._waiting = kept
        return False

    def committed(self, items: Iterable[Item], generation: int) -> list[int]:
        """Return the packet ids to acknowledge on connection ``generation``, in the order received."""
        mids = []
        for item in items:
            token = item.token
            if isinstance(token, Delivery) and token.qos and token.generation == generation:
                mids.append(token.mid)
                self.unacked -= 1
                self._unacked_bytes -= item.size_bytes
        return mids

    def disconnected(self) -> None:
        """Forget what the broker will deliver again. Tokens of sessions stay: they are told only once."""
        kept = [item for item in self._waiting if not isinstance(item.token, Delivery)]
        if len(kept) < len(self._waiting):
            self._on_dropped()
        self._waiting = kept
        self.unacked = self._unacked_bytes = 0

    def _lose(self, time_ns: int) -> None:
        self._on_dropped()
        self.lost_qos0 += 1
        before = self._loss
        self._loss = Loss(
            "qos0",
            certain=True,
            count=1 if before is None else (before.count or 0) + 1,
            first_ns=time_ns if before is None else before.first_ns,
            last_ns=time_ns,
            source=self._source,
            detail="QoS 0 messages came while the journal took nothing, and a broker does not keep those",
        )

    def has_room(self) -> bool:
        """Whether a new connection would get anywhere: after a refusal the intake has to empty itself first."""
        if self._refused and len(self._intake) == 0:
            self._refused = False
        return self.offer() and not self._refused
