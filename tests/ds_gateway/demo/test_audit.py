from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.demo.audit import DeviceAudit, audit, read_records

if TYPE_CHECKING:
    from collections.abc import Sequence


def one(sent: int, found: Sequence[int]) -> DeviceAudit:
    (device,) = audit({"oven": sent}, {"oven": found})
    return device


class TestOneDevice:
    def test_everything_there_once_and_in_order_is_exact(self) -> None:
        found = one(4, [1, 2, 3, 4])
        assert found.is_exact
        assert (found.sent, found.in_stream) == (4, 4)

    @pytest.mark.parametrize(
        ("found", "lost"),
        [([2, 3, 4], (1,)), ([1, 2, 4], (3,)), ([1, 2, 3], (4,)), ([], (1, 2, 3, 4)), ([2, 3], (1, 4))],
        ids=["first", "middle", "last", "all", "both ends"],
    )
    def test_lost(self, found: list[int], lost: tuple[int, ...]) -> None:
        result = one(4, found)
        assert (result.lost, result.duplicated, result.out_of_order, result.never_sent) == (lost, (), (), ())
        assert not result.is_exact

    @pytest.mark.parametrize(
        ("found", "duplicated"),
        [
            ([1, 1, 2, 3, 4], (1,)),
            ([1, 2, 3, 4, 4], (4,)),
            ([1, 2, 3, 4, 1, 2], (1, 2)),
            ([1, 2, 2, 2, 3, 4], (2, 2)),
        ],
        ids=["first", "last", "a run again", "three times"],
    )
    def test_duplicated_and_not_out_of_order_for_that(self, found: list[int], duplicated: tuple[int, ...]) -> None:
        result = one(4, found)
        assert (result.lost, result.duplicated, result.out_of_order, result.never_sent) == ((), duplicated, (), ())
        assert not result.is_exact

    @pytest.mark.parametrize(
        ("found", "late"),
        [([2, 1, 3, 4], (1,)), ([1, 2, 4, 3], (3,)), ([4, 1, 2, 3], (1, 2, 3)), ([4, 3, 2, 1], (3, 2, 1))],
    )
    def test_out_of_order(self, found: list[int], late: tuple[int, ...]) -> None:
        result = one(4, found)
        assert (result.lost, result.duplicated, result.out_of_order, result.never_sent) == ((), (), late, ())
        assert not result.is_exact

    @pytest.mark.parametrize(("found", "strange"), [([1, 2, 3], (3,)), ([0, 1, 2], (0,)), ([1, 2, 9, 9], (9,))])
    def test_never_sent(self, found: list[int], strange: tuple[int, ...]) -> None:
        assert one(2, found).never_sent == strange
        assert not one(2, found).is_exact

    def test_everything_at_once(self) -> None:
        result = one(5, [1, 3, 2, 3, 7])
        assert (result.lost, result.duplicated, result.out_of_order, result.never_sent) == (
            (4, 5),
            (3,),
            (2,),
            (7,),
        )

    @given(
        st.integers(0, 12).flatmap(
            lambda sent: st.tuples(st.just(sent), st.lists(st.integers(0, sent + 2), max_size=20))
        )
    )
    def test_it_is_exact_only_if_the_stream_is_the_sequence(self, case: tuple[int, list[int]]) -> None:
        sent, found = case
        result = one(sent, found)
        assert result.is_exact == (found == list(range(1, sent + 1)))

    @given(
        st.integers(0, 12).flatmap(
            lambda sent: st.tuples(st.just(sent), st.lists(st.integers(1, max(sent, 1)), max_size=20))
        )
    )
    def test_the_counts_add_up(self, case: tuple[int, list[int]]) -> None:
        sent, found = case
        result = one(sent, found)
        surplus = sum(count - 1 for count in Counter(found).values())
        assert len(result.duplicated) == surplus
        assert result.in_stream == sent - len(result.lost) + surplus + len(result.never_sent)


class TestManyDevices:
    def test_each_is_audited_by_itself(self) -> None:
        boiler, oven = audit({"oven": 3, "boiler": 2}, {"oven": [1, 3], "boiler": [1, 1, 2]})
        assert (boiler.device, boiler.lost, boiler.duplicated) == ("boiler", (), (1,))
        assert (oven.device, oven.lost, oven.duplicated) == ("oven", (2,), ())

    def test_a_device_without_a_stream_has_lost_everything(self) -> None:
        (device,) = audit({"oven": 2}, {})
        assert device.lost == (1, 2)

    def test_a_device_that_was_never_there_is_told(self) -> None:
        (device,) = audit({}, {"ghost": [1]})
        assert (device.device, device.sent, device.never_sent) == ("ghost", 0, (1,))


def record(device: str, data: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": "a.b.1",
        "gateway": "demo",
        "device": device,
        "time": "2026-03-01T12:00:00Z",
        "data": data,
    } | more


class TestReadingRecords:
    def test_numbers_are_sorted_by_device_in_the_streams_order(self) -> None:
        found = read_records(
            [
                record("oven", {"seq": 2, "temp": 21.5}),
                record("scale", {"value": "S S   12.345 kg #1"}),
                record("oven", {"seq": 1, "temp": 21.4}),
                record("scale", {"value": "S S    0.500 kg #12"}),
            ]
        )
        assert found.numbers == {"oven": [2, 1], "scale": [1, 12]}
        assert found.strange == ()

    def test_control_records_are_not_counted(self) -> None:
        births = [{"id": "b.1.x", "gateway": "demo", "device": "demo", "kind": "birth", "info": {}}]
        assert read_records(births).numbers == {}
        assert read_records(births).strange == ()

    @pytest.mark.parametrize(
        "strange",
        [
            record("oven", {"temp": 21.5}),
            record("oven", {"seq": "7"}),
            record("scale", {"value": "S S   12.345 kg"}),
            record("scale", {"value": "5 kg #12"}),
            record("scale", {"value": "S S   12.345 kg #1S S   12.345 kg #2"}),
            {"data": {"seq": 1}},
            [],
            None,
        ],
        ids=repr,
    )
    def test_what_no_device_sends_is_told(self, strange: Any) -> None:
        found = read_records([strange])
        assert found.numbers == {}
        assert found.strange == (repr(strange)[:200],)
