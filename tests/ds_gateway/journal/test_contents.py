"""Two texts of one record: servers may write numbers and strings in their own way."""

from __future__ import annotations

import pytest

from ds_gateway.journal.contents import digest, parse, parse_page
from ds_gateway.journal.survey import Expected, Held, JournalSurvey

DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"v":21.0}', b'{"v":21}'),
        (b'{"v":1e5}', b'{"v":100000}'),
        (b'{"v":-0.0}', b'{"v":0}'),
        (b'{"v":[1,{"w":2.50}]}', b'{"v":[1.0,{"w":2.5}]}'),
        (b'{"a":1,"b":"\\u00e9"}', '{"b":"é","a":1}'.encode()),
        (b'{"v":1e999}', b'{"v":1e998}'),
        (b'{"v":123456789012345678901234567890}', b'{"v":1.2345678901234568e29}'),
    ],
)
def test_the_same_record(one: bytes, other: bytes) -> None:
    assert digest(parse(one)) == digest(parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"v":21.5}', b'{"v":21}'),
        (b'{"v":"21"}', b'{"v":21}'),
        (b'{"v":true}', b'{"v":1}'),
        (b'{"v":null}', b'{"v":0}'),
        (b'{"v":[1,2]}', b'{"v":[2,1]}'),
    ],
)
def test_different_records(one: bytes, other: bytes) -> None:
    assert digest(parse(one)) != digest(parse(other))


def test_what_others_may_write_is_read() -> None:
    assert parse_page(b'["\\ud800", 1e999]') == ["\ud800", float("inf")]
    assert digest(parse(b'"\\ud800"')) != digest(parse(b'"\\ud801"'))


@pytest.mark.parametrize("page", [b"{}", b"[1", DEEP], ids=["no array", "cut off", "too deep"])
def test_what_is_no_page_is_a_value_error(page: bytes) -> None:
    with pytest.raises(ValueError):
        parse_page(page)


def survey(*held: tuple[int, bytes], high_water: int = 9) -> JournalSurvey:
    there = Held()
    for position, record in held:
        there.add(position, digest(parse(record)))
    return JournalSurvey(
        "0",
        Expected(prefixes=(("i.j.", 10**9),), high_water=high_water, sent=True, unresolved=6, held=there),
    )


class TestLossRecordsInTheStream:
    LOSS = b'[{"id":"i.j.3","kind":"loss","info":{"first_position":3,"last_position":7}}]'

    def test_stand_for_positions_that_are_not_here(self) -> None:
        found = survey((8, b'{"id":"i.j.8"}'))
        found.feed(self.LOSS)
        assert found.found.missing(1, 9) == [(1, 2), (8, 9)]

    def test_never_for_a_record_that_is_here(self) -> None:
        """Somebody else may have written it, or it is older than the state that this journal was put back to."""
        found = survey((6, b'{"id":"i.j.6"}'), (7, b'{"id":"i.j.7"}'))
        found.feed(self.LOSS)
        assert found.found.missing(1, 9) == [(1, 2), (6, 9)]

    def test_nor_in_the_place_of_another_record(self) -> None:
        found = survey((3, b'{"id":"i.j.3","data":{}}'))
        found.feed(self.LOSS)
        assert found.foreign
        assert found.found.missing(1, 9) == [(1, 9)]


def test_a_gap_of_many_positions_costs_nothing() -> None:
    found = survey((1, b'{"id":"i.j.1"}'), (50_000_000, b'{"id":"i.j.50000000"}'), high_water=50_000_000)
    found.feed(b'[{"id":"i.j.50000000"}]')
    assert 50_000_000 in found.found
