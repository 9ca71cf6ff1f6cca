"""Compares what was ordered, what the devices saw, and what the receipts say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.audit import Findings, check_positions, of_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_SENT = frozenset({"failed", "expired"})
SENT = frozenset({"published", "acknowledged"})


@dataclass(frozen=True)
class Sent:
    """A command in its stream; its place there is its number."""

    id: str
    device: str


@dataclass
class CommandFindings:
    """What an audit found. Fine when ``problems`` is empty."""

    sent: int = 0
    delivered: int = 0
    """Commands that their device saw."""
    missing: int = 0
    """Those that it did not see."""
    repeated: int = 0
    """Copies beyond the first."""
    unknown: int = 0
    unreported: list[str] = field(default_factory=list)
    """What no device saw, and no receipt says so."""
    untrue: list[str] = field(default_factory=list)
    """Receipts that say something else than the devices."""
    out_of_order: list[str] = field(default_factory=list)
    """First deliveries."""
    receipts: list[str] = field(default_factory=list)
    """Commands without one final receipt, with a wrong number, or told of in a wrong order."""
    positions: list[str] = field(default_factory=list)

    @property
    def problems(self) -> str:
        """In words; empty when all is well."""
        return "".join(
            f"{name}: {len(found)}, as {found[:5]}; "
            for name, found in (
                ("not delivered and not reported", self.unreported),
                ("untrue receipts", self.untrue),
                ("out of order", self.out_of_order),
                ("receipts", self.receipts),
                ("wrong positions", self.positions),
            )
            if found
        )

    def __str__(self) -> str:
        return (
            f"{self.sent} commands: delivered {self.delivered}, missing {self.missing}, repeated {self.repeated}, "
            f"unknown {self.unknown}, out of order {len(self.out_of_order)}, "
            f"wrong receipts {len(self.receipts) + len(self.untrue)}, wrong positions {len(self.positions)}"
        )


def receipts_in(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What receipts say, in their order."""
    return [each["info"] for each in of_kind([dict(each) for each in records], "receipt")]


def final_statuses(records: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What became of each command, by its number."""
    return {each["number"]: each["status"] for each in receipts_in(records) if each["final"]}


def audit(
    sent: Sequence[Sent], seen: Mapping[str, Sequence[str]], records: Sequence[dict[str, Any]]
) -> CommandFindings:
    """Compare. ``seen``: the ids that each device saw, in order, copies too; ``records``: the receipts stream."""
    findings = CommandFindings(sent=len(sent))
    last = _check_receipts(sent, records, findings)
    numbers = {each.id: number for number, each in enumerate(sent)}
    times = Counter((device, each) for device, ids in seen.items() for each in ids)
    assert times.keys() <= {(each.device, each.id) for each in sent}, "a device saw what it was not meant for"
    findings.repeated = sum(times.values()) - len(times)
    for number, each in enumerate(sent):
        was_seen, status = (each.device, each.id) in times, last.get(number, "nothing")
        findings.delivered += was_seen
        findings.missing += not was_seen
        findings.unknown += status == "unknown"
        if was_seen and status in NOT_SENT:
            findings.untrue.append(f"{each.id} reached {each.device}, and its receipt says {status}")
        if not was_seen and status in SENT:
            findings.untrue.append(f"{each.id} never reached {each.device}, and its receipt says {status}")
        if not was_seen and status not in NOT_SENT | SENT | {"unknown"}:
            findings.unreported.append(f"{each.id}: {status}")
    for ids in seen.values():
        firsts = [numbers[each] for each in dict.fromkeys(ids)]
        findings.out_of_order += [sent[later].id for earlier, later in pairwise(firsts) if later < earlier]
    return findings


def _check_receipts(
    sent: Sequence[Sent], records: Sequence[dict[str, Any]], findings: CommandFindings
) -> dict[int, str]:
    places = Findings()
    check_positions(records, places)
    findings.positions = places.positions
    told: dict[int, list[dict[str, Any]]] = {}
    for each in receipts_in(records):
        told.setdefault(each["number"], []).append(each)
    for number, command in enumerate(sent):
        found = told.pop(number, [])
        if any(each["command"] != command.id for each in found):
            findings.receipts.append(f"number {number} is {[each['command'] for each in found]}, not {command.id}")
        statuses = [each["status"] for each in found]
        is_final = [each["final"] for each in found]
        if is_final != [False] * (len(found) - 1) + [True] or len(set(statuses)) != len(statuses):
            findings.receipts.append(f"{command.id} has {statuses}, final: {is_final}")
    findings.receipts += [f"number {number} was never sent" for number in told]
    return {each["number"]: each["status"] for each in receipts_in(records) if each["final"]}
