"""Which readings become records."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.config.decoding import ReportSettings
from ds_gateway.decoding import Report


def _report(**values: Any) -> Report:
    return Report(ReportSettings.model_validate(values))


def _wanted(report: Report, *readings: Any, start: float = 0.0) -> list[bool]:
    """One reading a second."""
    return [report.wants(orjson.dumps(reading), start + index) for index, reading in enumerate(readings)]


class TestChanges:
    def test_what_does_not_change_is_not_reported(self) -> None:
        readings = [{"t": 1}, {"t": 1}, {"t": 2}, {"t": 2}, {"t": 1}]
        assert _wanted(_report(on_change=True), *readings) == [True, False, True, False, True]

    def test_the_last_reported_value_counts_so_that_a_drift_is_seen(self) -> None:
        report = _report(on_change=True, deadband={"t": 0.05})
        readings = [{"t": 12.00}, {"t": 12.03}, {"t": 12.05}, {"t": 12.06}, {"t": 12.01}, {"t": 12.00}]
        assert _wanted(report, *readings) == [True, False, False, True, False, True]

    def test_a_field_without_deadband_counts_as_it_is(self) -> None:
        report = _report(on_change=True, deadband={"t": 1})
        assert _wanted(report, {"t": 1, "s": "a"}, {"t": 1.5, "s": "a"}, {"t": 1.5, "s": "b"}) == [
            True,
            False,
            True,
        ]

    @pytest.mark.parametrize("other", [{}, {"t": None}, {"t": "1"}, {"t": True}])
    def test_a_number_that_goes_or_comes_is_a_change(self, other: Any) -> None:
        report = _report(on_change=True, deadband={"t": 10})
        assert _wanted(report, {"t": 1}, other, other, {"t": 1}) == [True, True, False, True]

    def test_fields_can_be_ignored_at_any_depth(self) -> None:
        report = _report(on_change=True, ignore=["uptime", "wifi.rssi"])
        first, second = {"uptime": 1, "wifi": {"rssi": 1}, "t": 1}, {"uptime": 2, "wifi": {"rssi": 2}, "t": 1}
        assert _wanted(report, first, second, {**second, "t": 2}) == [True, False, True]

    def test_a_deadband_may_lie_in_an_object(self) -> None:
        report = _report(on_change=True, deadband={"/a/0": 1, "b.c": 1})
        assert _wanted(
            report, {"a": [1], "b": {"c": 1}}, {"a": [1], "b": {"c": 2}}, {"a": [1], "b": {"c": 2.1}}
        ) == [
            True,
            False,
            True,
        ]


class TestTimes:
    def test_a_heartbeat_shows_that_nothing_changed(self) -> None:
        report = _report(on_change=True, heartbeat_seconds=3)
        assert _wanted(report, *[{"t": 1}] * 8) == [True, False, False, True, False, False, True, False]

    def test_a_change_puts_the_heartbeat_off(self) -> None:
        report = _report(on_change=True, heartbeat_seconds=3)
        readings = [{"t": 1}, {"t": 1}, {"t": 2}, {"t": 2}, {"t": 2}, {"t": 2}]
        assert _wanted(report, *readings) == [True, False, True, False, False, True]

    def test_sampling_takes_one_of_each_span(self) -> None:
        assert _wanted(_report(every_seconds=3), *[{"t": 1}] * 7) == [True, False, False, True, False, False, True]

    def test_the_rate_does_not_suffer_from_jitter(self) -> None:
        report = _report(every_seconds=10)
        times = [0.0, 10.9, 20.1, 30.5, 40.0, 49.9, 50.0]
        assert [report.wants(b"{}", time) for time in times] == [True, True, True, True, True, False, True]

    def test_a_pause_makes_up_for_nothing(self) -> None:
        report = _report(every_seconds=10)
        assert [report.wants(b"{}", time) for time in [0, 1000, 1001, 1010]] == [True, True, False, True]

    def test_a_change_between_samples_is_reported_with_the_next_one(self) -> None:
        report = _report(on_change=True, every_seconds=3)
        readings = [{"t": 1}, {"t": 2}, {"t": 2}, {"t": 2}, {"t": 2}, {"t": 2}, {"t": 2}]
        assert _wanted(report, *readings) == [True, False, False, True, False, False, False]


class TestBounds:
    def test_a_large_reading_is_not_kept(self) -> None:
        report = _report(on_change=True)
        report.wants(b'{"t":"%b"}' % (b"x" * 100_000), 0)
        kept = [
            getattr(report, name) for name in Report.__slots__ if name not in {"_settings", "_bands", "_ignored"}
        ]
        assert sum(len(repr(each)) for each in kept) < 500

    @given(
        readings=st.lists(st.dictionaries(st.sampled_from("tuv"), st.integers(0, 5) | st.none()), max_size=30),
        band=st.integers(0, 3),
    )
    def test_what_is_not_reported_lies_within_the_band_of_what_was(
        self, readings: list[dict[str, int | None]], band: int
    ) -> None:
        report = _report(on_change=True, deadband={"t": band})
        last: dict[str, int | None] = {}
        for index, (reading, wanted) in enumerate(zip(readings, _wanted(report, *readings), strict=True)):
            if wanted:
                last = reading
                continue
            assert index
            assert {**reading, "t": None} == {**last, "t": None}
            new, old = reading.get("t"), last.get("t")
            assert (new is None) == (old is None)
            assert new is None or old is None or abs(new - old) <= band
