"""Which deliveries are new (exactly-once.md, section 5): pure, in the journal's writer thread, in commit order.

R0  A CONNACK without a session: every packet id is forgotten, durably.
R1  Dropped: DUP=1, id and digest in the ring, and the PUBACK of that entry provably not sent.
R2  Dropped, where the broker numbers sequentially: DUP=1, id and digest in the ring, the id not ahead of the
    newest one (an id ahead is a message whose first copy was lost on the way).
--  A retained message that equals the one delivered last on its topic is dropped too (`retained`).

Never dropped: on DUP alone, or on id and digest without DUP. What is dropped is recorded again in the ring,
because its PUBACK is now due on another connection.

Durable: one row for each commit in the ring, and the rows "meta", "filters" and "retained". A row named for
deletion may be one that was never written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.mqtt.acklog import AckLog
from ds_gateway.mqtt.numbering import Numbering, Policy
from ds_gateway.mqtt.retained import Retained
from ds_gateway.mqtt.ring import Ring
from ds_gateway.mqtt.tokens import Delivery, Opening, SessionStart, Subscribed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ds_gateway.records import Item

_META: Final = struct.Struct(">BI?IQ")
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class GateView:
    """What the gate knows after a commit. ``subscribed`` None: no filters are known to be in the session."""

    session: int = 0
    subscribed: Subscribed | None = None
    verdict: str = "unknown"
    sessions_lost: int = 0
    ids_missing: int = 0
    duplicates: int = 0
    """Dropped in the last commit."""


class DedupeGate:
    """The gate (`ds_gateway.journal.intake.Gate`) of one broker."""

    def __init__(self, *, packet_ids: Policy, learn_after: int) -> None:
        self._policy: Policy = packet_ids
        self._learn_after = learn_after
        self.restore({})

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Forget everything in memory and start from these rows.

        Raises `JournalDamagedError` if they are not what a gate wrote.
        """
        self._ring = Ring()
        self._numbering = Numbering(self._policy, self._learn_after)
        self._session = 0
        self._sessions_lost = 0
        self._duplicates = 0
        self._subscribed: Subscribed | None = None
        self._acks = AckLog()
        self._retained = Retained()
        self._meta_written = b""
        self._filters_written = b""
        try:
            self._restore_rows(rows)
        except (struct.error, ValueError) as error:
            raise JournalDamagedError(f"a row of the MQTT gate is not readable: {error}") from error

    def admit(self, items: Sequence[Item], commit: int) -> Sequence[Item]:
        """Return the items whose payload is new. ``commit`` numbers the coming transaction."""
        self._duplicates = 0
        admitted: list[Item] = []
        for item in items:
            token = item.token
            if isinstance(token, Delivery):
                if self._is_new(token, commit):
                    admitted.append(item)
                else:
                    self._duplicates += 1
            elif item.payload is not None:
                admitted.append(item)
            else:
                self._note(token, commit)
        return admitted

    def changes(self) -> Mapping[str, bytes | None]:
        """Rows to write or to delete with what was admitted."""
        numbering = self._numbering
        changes: dict[str, bytes | None] = dict(
            self._ring.changes(session=self._session, newest_mid=numbering.head or 0, run=numbering.run)
        )
        meta = self._meta()
        if meta != self._meta_written:
            changes["meta"] = self._meta_written = meta
        filters = _filters_to_bytes(self._subscribed)
        if filters != self._filters_written:
            changes["filters"] = filters or None
            self._filters_written = filters
        if self._retained.changed:
            changes["retained"] = self._retained.to_bytes() or None
            self._retained.changed = False
        return changes

    def view(self) -> GateView:
        """What is known now. Writer thread only."""
        return GateView(
            session=self._session,
            subscribed=self._subscribed,
            verdict=self._numbering.verdict,
            sessions_lost=self._sessions_lost,
            ids_missing=self._numbering.missing,
            duplicates=self._duplicates,
        )

    def _is_new(self, delivery: Delivery, commit: int) -> bool:
        if delivery.qos and self._is_repeated_by_id(delivery, commit):
            return False
        if delivery.retain:
            return not self._retained.repeated(delivery.topic, delivery.digest)
        self._retained.live(delivery.topic)
        return True

    def _is_repeated_by_id(self, delivery: Delivery, commit: int) -> bool:
        mid = delivery.mid
        repeated = False
        if delivery.dup:
            entry = self._ring.find(mid)
            if entry is not None and entry.digest == delivery.digest:
                numbering = self._numbering
                repeated = self._acks.unacked(entry.commit, delivery.acked) or (
                    numbering.sequential and numbering.older(mid)
                )
        self._numbering.see(mid, dup=delivery.dup)
        self._ring.record(mid, delivery.digest, commit)
        return repeated

    def _note(self, token: object, commit: int) -> None:
        match token:
            case Opening():
                self._acks.begin(commit, token.acked_through(self._session, commit))
            case SessionStart(present=True, acked=acked):
                self._acks.begin(commit, acked)
            case SessionStart(present=False, acked=acked):
                self._forget()
                self._acks.begin(commit, acked)
            case Subscribed():
                self._subscribed = token
            case _:
                raise TypeError(f"not a token of an MQTT source: {token!r}")

    def _forget(self) -> None:
        self._sessions_lost += 1 if self._session else 0
        self._session += 1
        self._ring.clear()
        self._numbering.forget()
        self._subscribed = None

    def _meta(self) -> bytes:
        numbering = self._numbering
        head = _META.pack(_FORMAT, self._session, numbering.learnt, self._sessions_lost, numbering.missing)
        return head + self._acks.packed

    def _restore_rows(self, rows: Mapping[str, bytes]) -> None:
        numbering = self._numbering
        if meta := rows.get("meta"):
            version, self._session, numbering.learnt, self._sessions_lost, numbering.missing = _META.unpack_from(
                meta
            )
            if version != _FORMAT:
                raise ValueError(f"format {version} of the row meta is not known")
            self._acks = AckLog.from_bytes(meta[_META.size :])
            self._meta_written = meta
        newest = self._ring.restore(rows, self._session)
        if newest is not None:
            numbering.head, numbering.run = newest.newest_mid or None, newest.run
        self._filters_written = rows.get("filters", b"")
        self._subscribed = _filters_from_bytes(self._filters_written)
        self._retained = Retained.from_bytes(rows.get("retained", b""))


def _filters_to_bytes(subscribed: Subscribed | None) -> bytes:
    if subscribed is None:
        return b""
    return "\n".join([str(subscribed.qos), *subscribed.filters]).encode()


def _filters_from_bytes(data: bytes) -> Subscribed | None:
    if not data:
        return None
    qos, *filters = data.decode().split("\n")
    return Subscribed(filters=tuple(filters), qos=int(qos), generation=0)
