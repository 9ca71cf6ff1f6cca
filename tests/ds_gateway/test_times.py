"""What a reader of one stream makes of records that were stamped by a wrong clock."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.journal.book import Book
from ds_gateway.journal.clocks import tell
from ds_gateway.records import ClockState, control_tail, element, telemetry_prefix, telemetry_tail_after
from ds_gateway.timekeeping import member
from ds_gateway.times import corrected
from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer

if TYPE_CHECKING:
    import pytest

SECOND: Final = 1_000_000_000
PAGE: Final = (Path(__file__).parents[2] / "docs/records.md").read_text(encoding="utf-8")


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

    def test_it_takes_cloud_events(self) -> None:
        prefix = telemetry_prefix(gateway="g", device="d", envelope="cloudevents")
        said = member("0123abcd", 12 * SECOND + 34_567, "cloudevents")
        book = Book(number=1, name="s", url="", producer_id="", incarnation="")
        state = ClockState("0123abcd", is_synchronised=True, base_ns=1_767_225_600 * SECOND, since_ns=0)
        told = {"boot": "ended", "base": None}
        tails = [
            telemetry_tail_after(prefix, 7 * SECOND, b"{}", said),
            *(
                control_tail(
                    gateway="g", device="@gateway", time_ns=0, kind="clock", info=info, envelope="cloudevents"
                )
                for info in (tell(book, state), orjson.dumps(told))
            ),
        ]
        records = [orjson.loads(element("x", tail)) for tail in tails]
        assert records[0]["mono"] == "12.000034"
        assert corrected(records)[0]["time"] == "2026-01-01T00:00:12.000034Z"


class TestThePage:
    """docs/records.md."""

    def blocks(self, language: str) -> list[str]:
        chapter = PAGE.partition("## Times")[2].partition("\n## ")[0]
        return re.findall(rf"^```{language}\n(.*?)^```$", chapter, re.DOTALL | re.MULTILINE)

    def test_its_program_corrects_its_records(self, capsys: pytest.CaptureFixture[str]) -> None:
        (program,) = self.blocks("python")
        records: list[dict[str, Any]] = [orjson.loads(text) for text in self.blocks("json")]
        with (
            InMemoryStreamServer() as server,
            DurableStream.create(
                server.url("/v1/telemetry/line-7/a"), content_type="application/json"
            ) as telemetry,
        ):
            for record in records:
                telemetry.append(record)
            exec(program.replace("https://streams.example.com/v1/stream", server.url("/v1")), {})
        assert capsys.readouterr().out == "corrected 2026-11-22T17:46:58.105905Z {'temperature': 21.4}\n"

    def test_its_records_are_as_the_gateway_writes_them(self) -> None:
        reading, told = [orjson.loads(text) for text in self.blocks("json")]
        tail = telemetry_tail_after(
            telemetry_prefix(gateway="line-7", device="a/t1"), 0, b"{}", member("3f9c2a7e", 83_412_907_000)
        )
        written = orjson.loads(b'{"id":"x",' + tail)
        assert list(reading) == list(written)
        assert {key: written[key] for key in ("clock", "boot", "mono")} == {
            key: reading[key] for key in ("clock", "boot", "mono")
        }
        book = Book(number=1, name="s", url="", producer_id="", incarnation="")
        clock = ClockState("3f9c2a7e", is_synchronised=True, base_ns=0, since_ns=147_200_000_000)
        assert list(orjson.loads(tell(book, clock))) == list(told["info"])
