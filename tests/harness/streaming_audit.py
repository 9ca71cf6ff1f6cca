"""Counts streams of millions of records without keeping them: as `audit`, for messages that number themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from harness.audit import Findings

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class _Seen:
    count: int = 0
    last: int = 0


@dataclass
class StreamingAudit:
    """Feed every stream to `read`; `compare` says what is wrong. Numbered devices send ``{"n": 1}``, 2, 3, ..."""

    findings: Findings = field(default_factory=Findings)
    seen: dict[str, _Seen] = field(default_factory=dict)

    def read(self, url: str) -> None:
        """Read one stream from its beginning to its end."""
        offset, position = "-1", 1
        with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
            while True:
                answer = client.get(url, params={"offset": offset})
                assert answer.status_code == 200, f"{url}: HTTP {answer.status_code}"
                for record in answer.json():
                    position = self._take(record, position)
                offset = answer.headers["stream-next-offset"]
                if "stream-up-to-date" in answer.headers:
                    return

    def _take(self, record: dict[str, Any], position: int) -> int:
        prefix, _, digits = record["id"].rpartition(".")
        if prefix.startswith("b."):
            return position
        if digits != str(position):
            self.findings.positions.append(f"{record['id']} at place {position}")
        if "data" in record:
            self._count(record["device"], record["data"])
        return max(position, int(digits)) + 1

    def _count(self, device: str, data: dict[str, Any]) -> None:
        seen = self.seen.setdefault(device, _Seen())
        seen.count += 1
        self.findings.in_stream += 1
        number = data.get("n")
        if number is None:
            return
        if number <= seen.last:
            self.findings.duplicated.append(f"{device} {number} after {seen.last}")
        elif number != seen.last + 1:
            self.findings.lost.append(f"{device} {seen.last + 1} to {number - 1}")
        seen.last = max(seen.last, number)

    def compare(self, sent: Mapping[str, int], steady: Mapping[str, bool]) -> Findings:
        """Compare with how many messages of each device the broker confirmed."""
        for device, count in sent.items():
            self.findings.sent += count
            seen = self.seen.get(device, _Seen())
            there = seen.count if steady[device] else seen.last
            if there < count:
                self.findings.lost.append(f"{device}: the last {count - there} of {count}")
            elif there > count:
                self.findings.duplicated.append(f"{device}: {there - count} more than {count}")
        return self.findings
