"""The quarantine: what a row of it says, reading it beside a gateway, and trying once more what is in it.

    q/<number>   {"source", "device", "reason", "time_ns", "raw" (hex), "topic"}

``topic`` is there for MQTT messages, since this version; older programs read rows with it, and leave it alone. A
payload that can be read now leaves the quarantine in the transaction that accepts its record: there is no moment
where both are there, or neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import reading, rows
from ds_gateway.journal.transaction import MAX_DELETES, Transaction
from ds_gateway.records import Record, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ds_gateway.records import Retried


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One payload in the quarantine. ``topic`` is empty where it is not known, or where there is none."""

    number: int
    source: str
    device: str
    reason: str
    raw: bytes
    time_ns: int
    topic: str = ""

    @classmethod
    def decode(cls, key: str, row: bytes) -> Quarantined:
        """Read a row. Raises `JournalDamagedError`."""
        fields = rows.decode_json(key, row)
        try:
            return cls(
                number=int(key.partition("/")[2]),
                source=str(fields["source"]),
                device=str(fields["device"]),
                reason=str(fields["reason"]),
                raw=bytes.fromhex(fields["raw"]),
                time_ns=int(fields["time_ns"]),
                topic=str(fields.get("topic", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise JournalDamagedError(f"journal row {key} is damaged: {error!r}") from error


def encode(rejected: Rejected) -> dict[str, Any]:
    """What a row says."""
    fields: dict[str, Any] = {
        "source": rejected.source,
        "device": rejected.device,
        "reason": rejected.reason,
        "time_ns": rejected.time_ns,
        "raw": rejected.raw.hex(),
    }
    return {**fields, "topic": rejected.topic} if rejected.topic else fields


def read_quarantine(
    directory: Path, *, newest_first: bool = False, after: int = 0
) -> Iterator[tuple[int, Quarantined | JournalDamagedError]]:
    """What is in the quarantine of this data folder by its number, as one commit left it; behind a number.

    Raises `JournalError` as `reading.read_journal`; a row that is damaged is part of the answer.
    """
    for key, row in reading.numbered_rows(
        directory, rows.quarantine_key(0), rows.quarantine_key(after), newest_first=newest_first
    ):
        digits = key.partition("/")[2]
        number = int(digits) if digits.isascii() and digits.isdigit() else after
        try:
            yield number, Quarantined.decode(key, row or b"")
        except JournalDamagedError as error:
            yield number, error


class Retrying(Transaction):
    """What is tried once more in one transaction."""

    def retry(self, retried: Retried, refusal: Callable[[str, int], str]) -> Record | None:
        """The record to accept in a payload's place; None where there is none. ``retried`` is told the outcome."""
        key = rows.quarantine_key(retried.number)
        row = self.read_if_any(key)
        if row is None:
            retried.outcome.word = "gone"
            return None
        match retried.now:
            case Record() as record:
                if refusal(record.stream, len(record.tail)):
                    retried.outcome.word = "no_room"
                    return None
                self._release(retried.number, key, row)
                retried.outcome.word = "accepted"
                return record
            case Rejected() as rejected:
                self._replace(key, row, rejected)
                retried.outcome.word = "kept"
            case None:
                self._release(retried.number, key, row)
                retried.outcome.word = "not_reported"
        return None

    def _release(self, number: int, key: str, row: bytes) -> None:
        counters = self._state.counters
        self.rows[key] = None
        counters.quarantine_size -= len(row) + rows.ROW_OVERHEAD_BYTES
        self.parts.add("A")
        if number == counters.quarantine_first:
            self.step_over_holes()

    def step_over_holes(self) -> None:
        """Let the quarantine begin at its first row: what was read again has left holes."""
        counters = self._state.counters
        for _ in range(MAX_DELETES):
            first = counters.quarantine_first
            if first >= counters.quarantine_next or self.read_if_any(rows.quarantine_key(first)) is not None:
                return
            counters.quarantine_first += 1

    def _replace(self, key: str, row: bytes, rejected: Rejected) -> None:
        """The payload stays, with the reason of today."""
        fields = {**rows.decode_json(key, row), "reason": rejected.reason, "device": rejected.device}
        new = rows.encode_json(key, fields)
        if new == row:
            return
        self.rows[key] = new
        self._state.counters.quarantine_size += len(new) - len(row)
        self.parts.add("A")
