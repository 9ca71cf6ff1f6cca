"""Which deliveries are new (exactly-once.md, section 5): pure, in the journal's writer thread, in commit order.

R0  A CONNACK without a session: every packet id is forgotten, durably. So they are when that CONNACK was lost
    with the process, as soon as a counting broker's ids begin anew.
R1  Dropped: DUP=1, id and digest in the ring, and the PUBACK of that entry provably not sent.
R2  Dropped, where the broker numbers sequentially: DUP=1, id and digest in the ring, the id not ahead of the
    newest one (an id ahead is a message whose first copy was lost on the way), nor one that may have been used
    again on a connection of which nothing came in (`numbering`).
R3  Dropped, where the publisher gives its messages keys: a key that is in the ring of keys, whatever the payload.
--  A retained message that equals the one delivered last on its topic is dropped too (`retained`).

Never dropped: on DUP alone, or on id and digest without DUP. What is dropped is recorded again in the ring,
because its PUBACK is now due on another connection. A message without a key is taken.

A lost session and a gap in the broker's numbering are losses, told in the transaction that carries the proof.

Durable: one row for each commit in each of the rings, and the rows "meta" and "filters". A row named for deletion
may be one that was never written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.mqtt.acklog import AckLog
from ds_gateway.mqtt.gaps import Gaps
from ds_gateway.mqtt.keyring import KeyRing
from ds_gateway.mqtt.keys import NO_KEY
from ds_gateway.mqtt.numbering import NOWHERE, Numbering, Policy
from ds_gateway.mqtt.retained import LastValues
from ds_gateway.mqtt.ring import Ring
from ds_gateway.mqtt.tokens import Delivery, Opening, SessionStart, Subscribed
from ds_gateway.records import Loss, Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ds_gateway.records import Item

_META: Final = struct.Struct(">BI?BBIQi")
_FORMAT: Final = 3
_META_2_FORMAT: Final = 2
_META_2: Final = struct.Struct(">BI?BBIQ")
"""Format 2, without the place of the last copy."""


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
    without_key: int = 0
    """Taken in the last commit without the key that the configuration wants."""
    repeated: tuple[str, ...] = ()
    """Devices of the records that were dropped in the last commit, once for each record."""


class DedupeGate:
    """The gate (`ds_gateway.journal.intake.Gate`) of one broker."""

    def __init__(
        self, *, source: str = "", packet_ids: Policy, learn_after: int, window_is_known: bool = True
    ) -> None:
        self._source = source
        self._policy: Policy = packet_ids
        self._learn_after = learn_after
        self._window_is_known = window_is_known
        self.restore({})

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Forget everything in memory and start from these rows.

        Raises `JournalDamagedError` if they are not what a gate wrote.
        """
        self._ring = Ring()
        self._numbering = Numbering(self._policy, self._learn_after, window_is_known=self._window_is_known)
        self._session = 0
        self._sessions_lost = 0
        self._duplicates = 0
        self._without_key = 0
        self._repeated: list[str] = []
        self._subscribed: Subscribed | None = None
        self._acks = AckLog()
        self._last_values = LastValues()
        self._keys = KeyRing()
        self._gaps = Gaps(self._source)
        self._losses: list[Loss] = []
        self._meta_written = b""
        self._filters_written = b""
        try:
            self._restore_rows(rows)
        except (struct.error, ValueError) as error:
            raise JournalDamagedError(f"a row of the MQTT gate is not readable: {error}") from error

    def admit(self, items: Sequence[Item], commit: int) -> Sequence[Item]:
        """Return the items whose payload is new. ``commit`` numbers the coming transaction."""
        self._duplicates = self._without_key = 0
        self._repeated = []
        self._losses = []
        admitted: list[Item] = []
        for item in items:
            token = item.token
            if isinstance(token, Delivery):
                if self._is_new(token, commit):
                    admitted.append(item)
                else:
                    self._duplicates += 1
                    if isinstance(item.payload, Record):
                        self._repeated.append(item.payload.device)
            elif item.payload is not None:
                admitted.append(item)
            else:
                self._note(token, commit)
        return admitted

    def losses(self) -> Sequence[Loss]:
        """What the admitted items prove to be missing, or to be missing perhaps."""
        return [*self._losses, *self._gaps.take()]

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
        changes.update(self._last_values.changes())
        changes.update(self._keys.changes())
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
            without_key=self._without_key,
            repeated=tuple(self._repeated),
        )

    def _is_new(self, delivery: Delivery, commit: int) -> bool:
        if delivery.qos and self._is_repeated_by_id(delivery, commit):
            return False
        if delivery.retain and self._last_values.is_last(delivery.topic, delivery.digest):
            return False
        self._last_values.record(delivery.topic, delivery.digest, commit)
        if not delivery.key:
            self._without_key += delivery.key == NO_KEY
            return True
        return self._keys.add(delivery.key, commit)

    def _is_repeated_by_id(self, delivery: Delivery, commit: int) -> bool:
        mid = delivery.mid
        if not delivery.dup and self._numbering.begins_anew(mid):
            self._begin_session(delivery.time_ns)
            self._numbering.found_out()
        repeated = False
        digest = delivery.digest
        if delivery.retain:
            # A message and its retained repetition are two deliveries.
            digest = _other(digest)
        if delivery.dup:
            entry = self._ring.find(mid)
            if entry is not None and entry.digest == digest:
                repeated = self._acks.unacked(entry.commit, delivery.acked) or self._numbering.repeats(mid)
        self._gaps.see(delivery.time_ns, mid, self._numbering.see(mid, dup=delivery.dup, repeated=repeated))
        self._ring.record(mid, digest, commit)
        return repeated

    def _note(self, token: object, commit: int) -> None:
        match token:
            case Opening():
                if token.beyond:
                    self._losses.append(self._end_lost(token))
                self._acks.begin(commit, token.acked_through(self._session, commit))
            case SessionStart(present=True, acked=acked):
                self._numbering.connected(doubtful=token.doubtful)
                self._acks.begin(commit, acked)
            case SessionStart(present=False, acked=acked):
                self._begin_session(token.time_ns)
                self._numbering.forget()
                self._subscribed = None
                self._acks.begin(commit, acked)
            case Subscribed():
                self._subscribed = token
            case _:
                raise TypeError(f"not a token of an MQTT source: {token!r}")

    def _begin_session(self, now_ns: int) -> None:
        if self._session:
            self._sessions_lost += 1
            self._losses.append(self._session_lost(now_ns))
        self._session += 1
        self._ring.clear()

    def _end_lost(self, opening: Opening) -> Loss:
        return Loss(
            "corrupt",
            certain=False,
            count=None,
            first_ns=opening.time_ns,
            last_ns=opening.time_ns,
            source=self._source,
            detail=f"the last {opening.beyond} commits that the broker was told of are not in this journal: "
            "cache.db-wal was damaged or deleted, or it is an older journal, or another one",
        )

    def _session_lost(self, now_ns: int) -> Loss:
        return Loss(
            "session_lost",
            certain=False,
            count=None,
            first_ns=self._gaps.last_ns or now_ns,
            last_ns=now_ns,
            source=self._source,
            detail="the broker has forgotten the session: what it held for this client, and what was published "
            "until the subscription is made again, is missing if there was any",
        )

    def _meta(self) -> bytes:
        numbering = self._numbering
        head = _META.pack(
            _FORMAT,
            self._session,
            numbering.learnt,
            numbering.doubt,
            numbering.belief,
            self._sessions_lost,
            numbering.missing,
            numbering.place,
        )
        return head + self._acks.packed

    def _restore_rows(self, rows: Mapping[str, bytes]) -> None:
        numbering = self._numbering
        if meta := rows.get("meta"):
            if meta[0] not in {_FORMAT, _META_2_FORMAT}:
                raise ValueError(f"format {meta[0]} of the row meta is not known")
            layout = _META if meta[0] == _FORMAT else _META_2
            _, self._session, numbering.learnt, numbering.doubt, numbering.belief, lost, missing, *place = (
                layout.unpack_from(meta)
            )
            self._sessions_lost, numbering.missing = lost, missing
            numbering.place = place[0] if place else NOWHERE
            self._acks = AckLog.from_bytes(meta[layout.size :])
            self._meta_written = meta
        newest = self._ring.restore(rows, self._session)
        if newest is not None:
            numbering.head, numbering.run = newest.newest_mid or None, newest.run
        self._filters_written = rows.get("filters", b"")
        self._subscribed = _filters_from_bytes(self._filters_written)
        self._last_values.restore(rows)
        self._keys.restore(rows)


def _other(digest: bytes) -> bytes:
    """Another digest, that belongs to this one."""
    return bytes([digest[0] ^ 0xFF]) + digest[1:]


def _filters_to_bytes(subscribed: Subscribed | None) -> bytes:
    if subscribed is None:
        return b""
    return "\n".join([str(subscribed.qos), *subscribed.filters]).encode()


def _filters_from_bytes(data: bytes) -> Subscribed | None:
    if not data:
        return None
    qos, *filters = data.decode().split("\n")
    return Subscribed(filters=tuple(filters), qos=int(qos), generation=0)
