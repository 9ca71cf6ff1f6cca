"""What a reader of one stream makes of records that were stamped by a wrong clock."""

from __future__ import annotations

import orjson

from ds_gateway.records import telemetry_prefix, telemetry_tail_after
from ds_gateway.timekeeping import member
from ds_gateway.times import corrected

SECOND = 1_000_000_000


def reading(time: str, boot: str = "", mono: float = 0.0, **more: object) -> dict[str, object]:
    unsynced = {"clock": "unsynced", "boot": boot, "mono": mono} if boot else {}
    return {"id": "x", "time": time, **unsynced, **more, "data": {}}


def clock(boot: str, base: str | None) -> dict[str, object]:
    return {"kind": "clock", "time": "2026-01-01T00:00:00.000000Z", "info": {"boot": boot, "base": base}}


def times(*records: dict[str, object]) -> list[object]:
    return [record["time"] for record in corrected(records) if "data" in record]


class TestCorrected:
    def test_the_next_clock_record_of_its_boot_counts(self) -> None:
        assert times(
            reading("2016-01-01T00:00:00.000000Z", "b1", 5.25),
            clock("b2", "2030-01-01T00:00:00.000000Z"),
            clock("b1", "2026-01-01T00:00:00.000000Z"),
            reading("2026-01-01T00:01:00.000000Z"),
            reading("2016-01-01T00:00:00.000000Z", "b1", 70.000001),
            clock("b1", "2026-01-01T00:00:10.500000Z"),
        ) == [
            "2026-01-01T00:00:05.250000Z",
            "2026-01-01T00:01:00.000000Z",
            "2026-01-01T00:01:20.500001Z",
        ]

    def test_a_boot_that_ended_too_early_is_left_as_it_is(self) -> None:
        before = [reading("2016-01-01T00:00:00.000000Z", "b1", 5.0), clock("b1", None)]
        assert corrected(before) == before

    def test_what_has_no_clock_record_yet_is_left_as_it_is(self) -> None:
        before = [clock("b1", "2026-01-01T00:00:00.000000Z"), reading("2016-01-01T00:00:00.000000Z", "b1", 5.0)]
        assert corrected(before) == before

    def test_the_device_s_own_time_is_not_touched(self) -> None:
        (record,) = corrected(
            [
                reading("2025-05-05T05:05:05.000000Z", "b1", 5.0, received="2016-01-01T00:00:00.000000Z"),
                clock("b1", "2026-01-01T00:00:00.000000Z"),
            ]
        )[:1]
        assert record["time"] == "2025-05-05T05:05:05.000000Z"
        assert record["received"] == "2026-01-01T00:00:05.000000Z"
        assert record["clock"] == "corrected"

    def test_it_takes_what_the_gateway_writes(self) -> None:
        prefix = telemetry_prefix(gateway="g", device="d")
        tail = telemetry_tail_after(prefix, 7 * SECOND, b"{}", member("0123abcd", 12 * SECOND + 34_567))
        record = orjson.loads(b'{"id":"x",' + tail)
        assert list(record) == ["id", "gateway", "device", "time", "clock", "boot", "mono", "data"]
        assert (record["clock"], record["boot"], record["mono"]) == ("unsynced", "0123abcd", 12.000034)
        assert times(record, clock("0123abcd", "2026-01-01T00:00:00.000000Z")) == ["2026-01-01T00:00:12.000034Z"]
