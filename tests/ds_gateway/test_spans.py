"""Sets of positions as ranges, against Python's own sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway import spans
from ds_gateway.spans import Spans, TooScatteredError, written

POSITIONS = st.integers(1, 30)
RANGES = st.lists(
    st.tuples(POSITIONS, st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=12
)


def members(ranges: Spans) -> set[int]:
    return {position for first, last in ranges for position in range(first, last + 1)}


def plain(ranges: list[tuple[int, int]]) -> set[int]:
    return {position for first, last in ranges for position in range(first, last + 1)}


@given(RANGES)
def test_holds_what_was_added_in_as_few_ranges_as_can_be(ranges: list[tuple[int, int]]) -> None:
    held = Spans(ranges)
    assert members(held) == plain(ranges)
    assert all(later[0] > earlier[1] + 1 for earlier, later in zip(list(held), list(held)[1:], strict=False))
    assert held.count == len(plain(ranges))
    assert (held.first, held.last) == (min(plain(ranges), default=0), max(plain(ranges), default=0))
    assert [position for position in range(40) if position in held] == sorted(plain(ranges))
    assert bool(held) is bool(ranges)


@given(RANGES, RANGES, POSITIONS)
def test_combines_as_sets_do(one: list[tuple[int, int]], two: list[tuple[int, int]], last: int) -> None:
    a, b = Spans(one), Spans(two)
    assert members(a & b) == plain(one) & plain(two)
    assert members(a | b) == plain(one) | plain(two)
    assert members(a - b) == plain(one) - plain(two)
    assert members(a.complement(last)) == set(range(1, last + 1)) - plain(one)
    assert (a == b) is (plain(one) == plain(two))


def test_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MAX_SPANS", 3)
    held = Spans([(1, 1), (3, 3), (5, 5)])
    held.add(4)
    held.add(9)
    with pytest.raises(TooScatteredError):
        held.add(11)
    assert members(held) == {1, 3, 4, 5, 9}


def test_is_written_for_people() -> None:
    assert written(Spans([(1, 1), (3, 7)])) == "1, 3-7"
    assert written([(n, n) for n in range(1, 15, 2)], most=3) == "1, 3, 5 and 4 more ranges"
    assert written([]) == ""
