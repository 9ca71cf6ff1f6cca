"""Whose receipts those are that lie in the stream."""

from __future__ import annotations

from typing import Any

import pytest

from ds_gateway.downlink.others import Others, Told, records
from ds_gateway.errors import DownlinkError
from ds_gateway.records import NANOSECONDS, rfc3339
from harness.commands import START_NS


def birth(life: str | None, *, seconds: float = 0.0) -> dict[str, Any]:
    info = {"epoch": 1} | ({} if life is None else {"life": life})
    return record("b.1.xyz", "birth", info, seconds)


def receipt(record_id: str, command: str, *, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    info = {"command": command, "number": 3, "status": "published", "final": True} | more
    return record(record_id, "receipt", info, seconds)


def record(record_id: str, kind: str, info: dict[str, Any], seconds: float) -> dict[str, Any]:
    time_ns = START_NS + int(seconds * NANOSECONDS)
    return {"id": record_id, "time": rfc3339(time_ns), "kind": kind, "info": info}


def as_event(plain: dict[str, Any]) -> dict[str, Any]:
    info = plain["info"]
    return {key: value for key, value in plain.items() if key != "info"} | {"specversion": "1.0", "data": info}


def told(others: Others, *given: Any) -> list[str]:
    found = [others.take(each) for each in given]
    return [each.command_id for each in found if each is not None]


@pytest.fixture
def others() -> Others:
    return Others(install="me", accepted=10, lives=["old", "now"])


class TestWhoseItIs:
    def test_what_comes_behind_anothers_claim_is_anothers(self, others: Others) -> None:
        assert told(others, birth("b"), receipt("me.inc.3", "x"), receipt("you.inc.1", "y")) == ["x", "y"]
        assert (others.was_there, others.is_ours_now) == (True, False)

    def test_what_comes_behind_a_claim_of_this_journal_is_its_own_if_it_knows_it(self, others: Others) -> None:
        assert told(others, birth("old"), receipt("me.inc.10", "x")) == []
        assert not others.was_there
        assert told(others, receipt("me.inc.11", "y")) == ["y"], "a copy of this journal went on"
        assert others.was_there

    def test_what_comes_behind_the_present_claim_is_its_own(self, others: Others) -> None:
        assert told(others, birth("now"), receipt("me.inc.11", "x")) == []
        assert (others.was_there, others.is_ours_now) == (False, True)

    @pytest.mark.parametrize("before", [(), (birth(None),)])
    def test_where_no_claim_says_it_the_id_does(self, others: Others, before: tuple[Any, ...]) -> None:
        given = [receipt("me.inc.10", "x"), receipt("you.inc.1", "y"), receipt("me.inc.11", "z")]
        assert told(others, *before, *given) == ["y", "z"]

    def test_records_may_be_cloud_events(self, others: Others) -> None:
        given = [as_event(each) for each in (birth("b"), receipt("you.inc.1", "x"), birth("now"))]
        assert told(others, *given) == ["x"]
        assert (others.was_there, others.is_ours_now) == (True, True)

    def test_the_last_claim_counts(self, others: Others) -> None:
        others.take(birth("now"))
        others.take(birth("b"))
        assert not others.is_ours_now


class TestWhatItSays:
    def test_of_a_command(self, others: Others) -> None:
        others.take(birth("b"))
        found = others.take(receipt("you.inc.1", "x", seconds=2, status="accepted", final=False))
        assert found == Told("x", 3, "accepted", False, START_NS + 2 * NANOSECONDS)

    @pytest.mark.parametrize(
        "more",
        [{"repeated": True}, {"status": "failed", "code": "malformed"}, {"status": "done"}, {"number": "3"}],
    )
    def test_nothing_where_its_id_was_not_done_by_that(self, others: Others, more: dict[str, Any]) -> None:
        assert told(others, birth("b"), receipt("you.inc.1", "x", **more)) == []

    @pytest.mark.parametrize("junk", [7, [], {"kind": "receipt"}, {"kind": "birth", "info": 7}])
    def test_what_no_gateway_wrote_is_passed_over(self, others: Others, junk: object) -> None:
        assert told(others, birth("b"), junk, receipt("you.inc.1", "x")) == ["x"]

    def test_what_is_old_is_of_no_interest(self) -> None:
        others = Others(install="me", accepted=10, lives=["now"], since_ns=START_NS)
        assert told(others, birth("b", seconds=-2), receipt("you.inc.1", "x", seconds=-1)) == []
        assert not others.was_there
        assert told(others, receipt("you.inc.2", "y", seconds=1)) == ["y"]
        assert others.was_there


class TestAPage:
    def test_is_an_array_or_several(self) -> None:
        assert records(b'[{"a": 1}, 2]') == [{"a": 1}, 2]
        assert records(b'[{"a": 1}]\n[2]') == [{"a": 1}, 2]
        assert records(b"[]") == []

    def test_costs_only_what_nobody_can_read(self) -> None:
        deep = b"[" * 2000 + b"]" * 2000
        assert records(b'[{"a": 1}, %b, {"b": "\xff"}, 2]' % deep) == [{"a": 1}, 2]

    def test_is_nothing_else(self) -> None:
        with pytest.raises(DownlinkError, match="is no JSON array"):
            records(b"<html>")
