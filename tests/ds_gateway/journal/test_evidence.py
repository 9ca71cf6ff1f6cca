"""What the readable rows of a damaged journal prove: from which record on a stream is sent again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from ds_gateway.journal import rows
from ds_gateway.journal.book import Book, Run
from ds_gateway.journal.evidence import Evidence, StreamOutcome
from ds_gateway.journal.names import Names


def book(**changes: Any) -> Book:
    fields: dict[str, Any] = {"next_segment": 6, "open_segment": 4, "next_position": 6, "open_records": 2}
    return Book(1, "s", "http://a.test", "g-install", "aaaaaa", **(fields | changes))


def evidence(*books: Book, last_segment: int = 5, names: Names | None = None) -> Evidence:
    found = Evidence("g", names or Names())
    for each in books:
        found.take(rows.stream_key(1), rows.encode_json(rows.stream_key(1), each.to_row()))
    key = rows.segment_key(1, last_segment)
    found.take(key, rows.encode_segment(key, rows.make_segment(5, [b'{"id":"install.aaaaaa.5","v":5}'])))
    return found


def kept(found: Evidence, last_segment: int) -> None:
    key = rows.kept_key(1, 1)
    run = Run(seq=1, first_segment=1, last_segment=last_segment, first_position=1, count=1, size=1)
    found.take(key, rows.encode_json(key, {**asdict(run), "offset": "1"}))


class TestARowOfAStream:
    def test_that_knows_all_segments_is_up_to_date(self) -> None:
        (span,) = evidence(book(), last_segment=5).spans()
        assert (span.first_segment, span.records, span.is_known) == (4, 2, True)

    def test_that_does_not_know_the_last_segment_is_an_old_copy(self) -> None:
        (span,) = evidence(book(), last_segment=6).spans()
        assert (span.first_segment, span.records, span.is_known) == (4, None, False)

    @pytest.mark.parametrize(("last", "is_known", "first"), [(3, True, 4), (4, False, 5)])
    def test_that_does_not_know_what_is_resolved_is_an_old_copy(
        self, *, last: int, is_known: bool, first: int
    ) -> None:
        found = evidence(book())
        kept(found, last)
        (span,) = found.spans()
        assert (span.is_known, span.first_segment) == (is_known, first)

    @pytest.mark.parametrize("newest_first", [True, False])
    def test_the_newest_copy_counts(self, *, newest_first: bool) -> None:
        copies = [book(open_segment=4), book(open_segment=2, resolved_records=0, next_position=5)]
        (span,) = evidence(*(copies if newest_first else reversed(copies))).spans()
        assert span.first_segment == 4


class TestTheNamesBesideTheDatabase:
    @pytest.mark.parametrize(("install", "name"), [("i", "named"), ("other", "salvaged/g/1")])
    def test_count_if_they_are_this_journals(self, install: str, name: str) -> None:
        found = evidence(names=Names("g", install, "", {1: "named"}))
        meta = {"format": rows.FORMAT, "gateway": "g", "install": "i"}
        found.take(rows.META, rows.encode_json(rows.META, meta))
        (span,) = found.spans()
        assert span.name == name


class TestGates:
    def test_hold_where_nothing_is_missing(self) -> None:
        found = evidence(book())
        assert not found.gates_hold([]), "without the counters nobody knows which commit it is"
        found.take(rows.COUNTERS, rows.encode_json(rows.COUNTERS, {"commit": 3}))
        outcome = StreamOutcome(found.spans()[0])
        assert found.gates_hold([outcome])
        outcome.missing = 1
        assert not found.gates_hold([outcome])

    @pytest.mark.parametrize("key", ["a/meta", "c/counters", "g/hall/meta", "s/000001/000000000001", ""])
    def test_do_not_hold_with_a_damaged_row_that_matters(self, key: str) -> None:
        found = evidence(book())
        found.take(rows.COUNTERS, rows.encode_json(rows.COUNTERS, {"commit": 3}))
        assert found.take(key, b"damaged") is None
        assert not found.gates_hold([])
