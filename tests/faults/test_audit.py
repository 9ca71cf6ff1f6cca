"""The audit itself: it must find what it is for."""

from __future__ import annotations

from typing import Any

import pytest

from harness.audit import Findings, check_positions, compare


def records(*values: Any, device: str = "d") -> list[dict[str, Any]]:
    return [{"id": f"i.j.{n}", "device": device, "data": value} for n, value in enumerate(values, 1)]


class TestValuesThatDiffer:
    def test_all_there_and_in_order_is_fine(self) -> None:
        findings = compare({"d": [1, 2, 3]}, records(1, 2, 3))
        assert (findings.problems, findings.sent, findings.in_stream) == ("", 3, 3)

    def test_a_missing_one_is_lost(self) -> None:
        assert compare({"d": [1, 2, 3]}, records(1, 3)).lost == ["d 2"]

    def test_a_second_copy_is_a_duplicate_wherever_it_is(self) -> None:
        findings = compare({"d": [1, 2, 3]}, records(1, 2, 1, 3))
        assert (findings.duplicated, findings.out_of_order) == (["d 1"], [])

    def test_one_that_was_never_sent_is_too_many(self) -> None:
        assert compare({"d": [1]}, records(1, 9)).duplicated == ["d 9"]
        assert compare({}, records(1)).duplicated == ["d 1"]

    def test_one_behind_a_later_one_is_out_of_order(self) -> None:
        findings = compare({"d": [1, 2, 3]}, records(1, 3, 2))
        assert (findings.out_of_order, findings.lost, findings.duplicated) == (["d 2"], [], [])

    def test_devices_are_compared_by_themselves(self) -> None:
        arrived = records(1, 2) + records(1, 2, device="e")
        assert compare({"d": [1, 2], "e": [1, 2]}, arrived).problems == ""
        assert compare({"d": [1, 2], "e": [1]}, arrived).duplicated == ["e 2"]
        assert compare({"d": [1, 2], "e": [1, 2], "f": [1]}, arrived).lost == ["f 1"]

    def test_control_records_do_not_count(self) -> None:
        assert compare({"d": []}, [{"id": "i.j.1", "device": "d", "kind": "device"}]).problems == ""


class TestEqualValues:
    @pytest.mark.parametrize(("arrived", "lost", "duplicated"), [(3, 0, 0), (2, 1, 0), (5, 0, 2)])
    def test_they_are_counted(self, arrived: int, lost: int, duplicated: int) -> None:
        findings = compare({"d": ["same"] * 3}, records(*["same"] * arrived))
        assert (len(findings.lost), len(findings.duplicated)) == (lost, duplicated)
        assert findings.out_of_order == []


class TestPositions:
    def check(self, *ids: str) -> list[str]:
        findings = Findings()
        check_positions([{"id": each} for each in ids], findings)
        return findings.positions

    def test_dense_and_in_order_is_fine_claims_apart(self) -> None:
        assert self.check("b.0.xyz", "i.j.1", "i.j.2", "b.1.xyz", "i.j.3") == []

    def test_a_gap_is_found_once(self) -> None:
        assert self.check("i.j.1", "i.j.3", "i.j.4") == ["i.j.3 at place 2"]

    def test_a_repeated_one_is_found(self) -> None:
        assert self.check("i.j.1", "i.j.2", "i.j.2", "i.j.3") == ["i.j.2 at place 3"]
