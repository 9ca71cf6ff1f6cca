"""Reads streams back and compares them with what was sent: lost, duplicated, out of order.

The reading is done with plain HTTP, so that a defect of the client under test cannot hide itself.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Record = dict[str, Any]


class StreamReader:
    """Follows one stream: each `read` continues where the last one ended. Its server may be away meanwhile."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.records: list[Record] = []
        self._offset = "-1"

    def read(self) -> list[Record]:
        """Read to the present end, and return all records since the stream's beginning."""
        # Nothing to verify over plain HTTP, and reading the certificates takes longer than the stream.
        with httpx.Client(trust_env=False, timeout=20, verify=False) as client:
            while True:
                answer = client.get(self.url, params={"offset": self._offset})
                if answer.status_code == 404:
                    return self.records
                assert answer.status_code == 200, f"{self.url}: HTTP {answer.status_code} {answer.text[:200]}"
                self.records += answer.json()
                self._offset = answer.headers["stream-next-offset"]
                if "stream-up-to-date" in answer.headers:
                    return self.records

    def try_read(self) -> list[Record]:
        """As `read`, and whatever is known already while the server is away."""
        try:
            return self.read()
        except httpx.TransportError:
            return self.records


def telemetry(records: Iterable[Record], device: str | None = None) -> list[Any]:
    """The data of the telemetry records, in the order of the stream."""
    return [each["data"] for each in records if "data" in each and device in {None, each["device"]}]


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """The control records of one kind."""
    return [each for each in records if each.get("kind") == kind]


@dataclass
class Findings:
    """What an audit found. Fine when ``problems`` is empty."""

    sent: int = 0
    in_stream: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)
    """Records whose position is missing, repeated or not in its place."""

    @property
    def problems(self) -> str:
        """In words; empty when all is well."""
        return "".join(
            f"{name}: {len(found)}, as {found[:5]}; "
            for name, found in (
                ("lost", self.lost),
                ("duplicated", self.duplicated),
                ("out of order", self.out_of_order),
                ("wrong positions", self.positions),
            )
            if found
        )

    def __str__(self) -> str:
        return (
            f"sent {self.sent}, in the streams {self.in_stream}, lost {len(self.lost)}, duplicated "
            f"{len(self.duplicated)}, out of order {len(self.out_of_order)}, wrong positions {len(self.positions)}"
        )


def compare(sent: Mapping[str, Sequence[Any]], records: Sequence[Record]) -> Findings:
    """Compare what each device sent, in order, with the telemetry of all streams.

    Values may repeat: then they are counted, and cannot be told apart in order.
    """
    findings = Findings()
    arrived: dict[str, list[Any]] = {}
    for record in records:
        if "data" in record:
            arrived.setdefault(record["device"], []).append(record["data"])
    for device in sorted(sent.keys() | arrived.keys()):
        _compare_device(device, sent.get(device, ()), arrived.get(device, []), findings)
    return findings


def _compare_device(device: str, sent: Sequence[Any], arrived: Sequence[Any], findings: Findings) -> None:
    wanted, found = [_key(each) for each in sent], [_key(each) for each in arrived]
    findings.sent += len(wanted)
    findings.in_stream += len(found)
    want_count, found_count = Counter(wanted), Counter(found)
    findings.lost += [f"{device} {key}" for key in (want_count - found_count).elements()]
    findings.duplicated += [f"{device} {key}" for key in (found_count - want_count).elements()]
    place = {key: index for index, key in reversed(list(enumerate(wanted)))}
    highest, seen = -1, set()
    for key in found:
        if key in seen or key not in place or want_count[key] > 1:
            continue
        seen.add(key)
        if place[key] < highest:
            findings.out_of_order.append(f"{device} {key}")
        highest = max(highest, place[key])


def check_positions(records: Sequence[Record], findings: Findings) -> None:
    """Every position of a stream's journal once, dense and in order (control records of claims have none)."""
    next_position = 1
    for record in records:
        prefix, _, position = record["id"].rpartition(".")
        if prefix.startswith("b."):
            continue
        if position != str(next_position):
            findings.positions.append(f"{record['id']} at place {next_position}")
        next_position = max(next_position, int(position) + 1)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
