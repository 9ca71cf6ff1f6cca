"""Times from payloads, and what is not reported: what a source gets from its pipeline."""

from __future__ import annotations

from typing import Any

import orjson

from ds_gateway.config.models import LimitSettings
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.mapping import MqttPipeline, SerialPipeline
from ds_gateway.records import Frame, Record, Rejected, telemetry_tail

NOW_NS = 1_772_366_400_000_123_456
TEN_YEARS_NS = 10 * 365 * 86400 * 10**9


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def _pipeline(clock: Clock | None = None, **more: Any) -> MqttPipeline:
    device = DeviceSettings.model_validate({"topic": "s/{id}", **more})
    return MqttPipeline("hall", "line-7", [device], LimitSettings(), monotonic=clock or Clock())


class TestTimes:
    def test_a_record_with_a_time_of_its_own_says_when_it_was_read(self) -> None:
        record = _pipeline(time={"from": "ts", "format": "unix"})("s/1", b'{"ts":1772366399,"t":21.50}', NOW_NS)
        assert isinstance(record, Record)
        assert record.tail == telemetry_tail(
            gateway="line-7",
            device="1",
            time_ns=1_772_366_399 * 10**9,
            data=b'{"ts":1772366399,"t":21.50}',
            received_ns=NOW_NS,
        )
        values = orjson.loads(b"{" + record.tail)
        assert (values["time"], values["received"]) == (
            "2026-03-01T11:59:59.000000Z",
            "2026-03-01T12:00:00.000123Z",
        )

    def test_a_time_that_cannot_be_read_loses_no_reading(self) -> None:
        pipeline = _pipeline(time={"from": "ts", "format": "unix"})
        record = pipeline("s/1", b'{"ts":0,"t":1}', NOW_NS)
        assert isinstance(record, Record)
        values = orjson.loads(b"{" + record.tail)
        assert values["time"] == "2026-03-01T12:00:00.000123Z"
        assert "received" not in values
        reading = pipeline.devices()["1"]
        assert (reading.count, reading.rejected, reading.untimed) == (1, 0, 1)
        assert "between the years" in reading.last_untimed

    def test_status_shows_the_time_of_the_payload(self) -> None:
        pipeline = _pipeline(time={"from": "ts", "format": "unix"})
        pipeline("s/1", b'{"ts":1772366399}', NOW_NS)
        assert pipeline.devices()["1"].time_ns == 1_772_366_399 * 10**9


class TestReports:
    def test_what_is_not_reported_is_counted_and_shown_as_the_last_reading(self) -> None:
        pipeline = _pipeline(report={"on_change": True})
        outcomes = [pipeline("s/1", payload, NOW_NS) for payload in (b'{"t":1}', b'{"t":1}', b'{"t":2}')]
        assert [type(outcome) for outcome in outcomes] == [Record, type(None), Record]
        reading = pipeline.devices()["1"]
        assert (reading.count, reading.suppressed, reading.rejected) == (2, 1, 0)
        assert reading.data == b'{"t":2}'

    def test_what_did_not_get_into_the_journal_is_reported_when_it_comes_again(self) -> None:
        mqtt = _pipeline(report={"on_change": True, "every_seconds": 60})
        port = {"port": "/dev/x", "decode": "number", "report": {"on_change": True}}
        serial = SerialPipeline("scale", "line-7", SerialSettings.model_validate(port))
        for _ in range(2):
            assert isinstance(mqtt("s/1", b'{"open":true}', NOW_NS), Record)
            assert isinstance(serial(Frame(b"1", NOW_NS)), Record)
            assert mqtt("s/1", b'{"open":true}', NOW_NS) is None
            assert serial(Frame(b"1", NOW_NS)) is None
            mqtt.forget_reports()
            serial.forget_reports()

    def test_each_device_has_its_own_state(self) -> None:
        pipeline = _pipeline(report={"on_change": True})
        assert isinstance(pipeline("s/1", b"1", NOW_NS), Record)
        assert isinstance(pipeline("s/2", b"1", NOW_NS), Record)
        assert pipeline("s/1", b"1", NOW_NS) is None

    def test_the_wall_clock_may_step_by_ten_years(self) -> None:
        clock = Clock()
        pipeline = _pipeline(clock, report={"every_seconds": 10})
        assert isinstance(pipeline("s/1", b"1", NOW_NS), Record)
        clock.seconds += 5
        assert pipeline("s/1", b"1", NOW_NS + TEN_YEARS_NS) is None
        clock.seconds += 5
        assert isinstance(pipeline("s/1", b"1", NOW_NS - TEN_YEARS_NS), Record)

    def test_a_payload_that_cannot_be_decoded_is_rejected_whatever_is_reported(self) -> None:
        pipeline = _pipeline(report={"on_change": True})
        assert isinstance(pipeline("s/1", b"{", NOW_NS), Rejected)
        assert isinstance(pipeline("s/1", b"{", NOW_NS), Rejected)

    def test_two_entries_of_one_device_are_compared_each_with_its_own(self) -> None:
        devices = [
            DeviceSettings.model_validate({"topic": f"s/{{id}}/{kind}", "report": {"on_change": True}})
            for kind in ("a", "b")
        ]
        pipeline = MqttPipeline("hall", "line-7", devices, LimitSettings(), monotonic=Clock())
        outcomes = [pipeline(f"s/1/{kind}", kind.encode().hex().encode(), NOW_NS) for kind in "abab"]
        assert [type(outcome) for outcome in outcomes] == [Record, Record, type(None), type(None)]

    def test_a_header_line_of_a_port_is_no_reading_and_no_mistake(self) -> None:
        decode = {"csv": {"columns": ["t", "h"]}}
        pipeline = SerialPipeline(
            "logger", "line-7", SerialSettings.model_validate({"port": "/dev/x", "decode": decode})
        )
        assert pipeline(Frame(b"t,h", NOW_NS)) is None
        assert isinstance(pipeline(Frame(b"1,2", NOW_NS)), Record)
        reading = pipeline.devices()["logger"]
        assert (reading.count, reading.suppressed, reading.rejected) == (1, 1, 0)
