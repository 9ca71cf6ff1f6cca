"""Driving a dedupe gate as the journal's writer does: admit, write the rows, and start again from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.mqtt.dedupe import DedupeGate
from ds_gateway.mqtt.tokens import Delivery
from ds_gateway.records import Item, Loss, Record

if TYPE_CHECKING:
    from ds_gateway.mqtt.numbering import Policy


def delivery(
    name: str,
    mid: int,
    *,
    dup: bool = False,
    qos: int = 1,
    retain: bool = False,
    topic: str = "t",
    same: str | None = None,
    acked: int = 0,
    generation: int = 1,
    key: str | None = None,
) -> Item:
    """A message called ``name``; its digest is of ``same`` where that is given, so that two can be identical."""
    digest = (same or name).encode()[:8].ljust(8)
    token = Delivery(
        mid,
        dup,
        qos,
        retain,
        topic.encode()[:8].ljust(8),
        digest,
        acked,
        generation,
        key=None if key is None else key.encode() and key.encode().ljust(16),
    )
    return Item(Record("stream", topic, name.encode()), token)


class GateDriver:
    """A gate with its rows and its commit numbers."""

    def __init__(self, policy: Policy = "unknown", *, learn_after: int = 10) -> None:
        self.rows: dict[str, bytes] = {}
        self.commit = 0
        self.losses: list[Loss] = []
        self._policy: Policy = policy
        self._learn_after = learn_after
        self.gate = self._new()

    def admit(self, *items: Item) -> list[str]:
        """Commit a group; return the names of what was admitted."""
        self.commit += 1
        admitted = self.gate.admit(items, self.commit)
        self.losses += self.gate.losses()
        for name, row in self.gate.changes().items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row
        return names(admitted)

    def tell(self, token: object) -> None:
        """Commit a token alone."""
        assert self.admit(Item(None, token)) == []

    def fail(self, *items: Item) -> None:
        """A group whose commit fails."""
        self.gate.admit(items, self.commit + 1)
        self.gate.losses()
        self.gate.changes()
        self.gate.restore(dict(self.rows))

    def restart(self) -> None:
        """A new process with the same journal."""
        self.gate = self._new()
        self.gate.restore(dict(self.rows))

    def _new(self) -> DedupeGate:
        return DedupeGate(packet_ids=self._policy, learn_after=self._learn_after)


def names(items: object) -> list[str]:
    """The names of messages made by `delivery`."""
    assert isinstance(items, list)
    return [item.payload.tail.decode() for item in items]
