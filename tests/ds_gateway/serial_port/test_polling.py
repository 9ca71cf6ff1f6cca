"""Devices that only answer, over a real pseudo-terminal: the test is the device at its other end."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway.commands import Order, Progress, SerialMessage, SerialReply
from harness.pty_device import PtyDevice
from harness.serial_bench import SerialBench
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NEVER: Final = 3600.0
"""An interval that does not pass by itself, so that what is asked is asked once."""
_OFTEN: Final = {"interval_seconds": 0.02, "timeout_seconds": 30.0}
_ONCE: Final = {"interval_seconds": _NEVER, "timeout_seconds": 30.0}


def _has_given_up(bench: SerialBench, unanswered: int) -> bool:
    return bench.polls().unanswered == unanswered


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-instrument") as simulated:
        simulated.plug()
        yield simulated


@pytest.fixture
def start(device: PtyDevice) -> Iterator[Callable[[dict[str, Any]], SerialBench]]:
    started: list[SerialBench] = []

    def start(settings: dict[str, Any]) -> SerialBench:
        bench = SerialBench(device.path, settings).__enter__()
        started.append(bench)
        wait_until(lambda: bench.snapshot().state != "waiting", what="the port is open")
        return bench

    yield start
    for bench in started:
        bench.__exit__(None, None, None)


class TestAnInstrument:
    """SCPI: text in, text out."""

    def test_each_answer_is_a_reading(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_OFTEN, "write": "MEAS?\n"}})
        for value in (b"1.5", b"2.5", b"3.5"):
            assert device.receive_to(b"\n") == b"MEAS?\n"
            device.send(value + b"\r\n")
        assert bench.wait_readings(3) == [("line", {"value": value}) for value in ("1.5", "2.5", "3.5")]
        polls = bench.polls()
        assert (polls.answered, polls.unanswered, polls.late) == (3, 0, 0)

    def test_several_requests_have_fields_and_devices_of_their_own(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start(
            {
                "name": "psu",
                "poll": {
                    **_ONCE,
                    "requests": [
                        {"write": "VOLT?\n", "fields": {"voltage": {"from": "value", "unit": "V"}}},
                        {"write": "CURR?\n", "fields": {"current": {"from": "value", "unit": "A"}}},
                        {"write": "*IDN?\n", "name": "identity"},
                        {"write": "DIAG?\n", "name": "diagnosis", "decode": "json"},
                    ],
                },
            }
        )
        for asked, answer in (
            (b"VOLT?\n", b"5.01"),
            (b"CURR?\n", b"0.5"),
            (b"*IDN?\n", b"ACME"),
            (b"DIAG?\n", b'{"fan": 1200}'),
        ):
            assert device.receive_to(b"\n") == asked
            device.send(answer + b"\n")
        assert bench.wait_readings(4) == [
            ("psu", {"voltage": "5.01"}),
            ("psu", {"current": "0.5"}),
            ("psu/identity", {"value": "ACME"}),
            ("psu/diagnosis", {"fan": 1200}),
        ]
        assert bench.pipeline.devices()["psu"].units == {"voltage": "V", "current": "A"}

    def test_hex_is_written_as_bytes_and_an_echo_is_no_answer(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_ONCE, "hex": "02 54 03 0A"}})
        assert device.receive(4) == b"\x02T\x03\n"
        device.send(b"\x02T\x03\n" + b"12 kg\n")
        assert bench.wait_readings(1) == [("line", {"value": "12 kg"})]
        assert bench.snapshot().unasked == 1

    def test_an_answer_may_end_with_silence(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"framing": {"idle": {"gap_seconds": 5}}, "poll": {**_ONCE, "hex": "05"}})
        assert device.receive(1) == b"\x05"
        device.send(b"12 kg")
        wait_until(lambda: bench.snapshot().received_bytes == 5, what="it was read")
        bench.forward(6)
        assert bench.wait_readings(1) == [("line", {"value": "12 kg"})]

    def test_a_modem_says_more_than_the_answer(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_OFTEN, "write": "AT+CSQ\r", "reply": r"^\+CSQ: \d"}})
        for _ in range(2):
            assert device.receive_to(b"\r") == b"AT+CSQ\r"
            device.send(b"AT+CSQ\r\r\n+CSQ: 20,0\r\n\r\nOK\r\n")
        assert bench.wait_readings(2) == [("line", {"value": "+CSQ: 20,0"})] * 2


class TestNoise:
    def test_what_came_before_the_request_had_left_is_no_part_of_the_answer(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_OFTEN, "write": "MEAS?\n"}})
        for value in (b"1.5", b"2.5", b"3.5"):
            device.receive_to(b"\n")
            device.send(value + b"\n" + b"\x00\xff half a line")
        assert bench.wait_readings(3) == [("line", {"value": value}) for value in ("1.5", "2.5", "3.5")]

    def test_a_glitch_at_the_opening_does_not_cost_the_first_answer(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_ONCE, "write": "MEAS?\n", "turnaround_seconds": 50}})
        device.send(b"\x00\xff")
        wait_until(lambda: bench.snapshot().received_bytes == 2, what="the glitch was read")
        bench.forward(51)
        device.receive_to(b"\n")
        device.send(b"1.5\n")
        assert bench.wait_readings(1) == [("line", {"value": "1.5"})]

    def test_frames_that_answer_nothing_are_dropped_and_counted(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_ONCE, "write": "MEAS?\n"}})
        device.receive_to(b"\n")
        device.send(b"1.5\n1.5\n")
        assert bench.wait_readings(1) == [("line", {"value": "1.5"})]
        device.send(b"hello\n")
        wait_until(lambda: bench.snapshot().unasked == 2, what="two frames were dropped")
        assert len(bench.take()) == 1

    def test_or_kept_where_the_device_also_speaks_by_itself(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_ONCE, "write": "MEAS?\n", "reply": "^M", "unasked": "keep", "name": "m"}})
        device.receive_to(b"\n")
        device.send(b"half ")
        device.send(b"a frame\nM 1.5\n")
        assert bench.wait_readings(2) == [("line", {"value": "half a frame"}), ("line/m", {"value": "M 1.5"})]
        assert bench.snapshot().unasked == 0

    def test_an_answer_that_cannot_be_read_goes_to_the_quarantine(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"decode": "json", "poll": {**_OFTEN, "write": "MEAS?\n"}})
        for answer in (b"no JSON", b'{"a": 1}'):
            device.receive_to(b"\n")
            device.send(answer + b"\n")
        assert bench.wait_readings(1) == [("line", {"a": 1})]
        assert [each.raw for each in bench.rejected] == [b"no JSON"]


class TestNoAnswer:
    def test_it_is_asked_again_and_then_told_once_until_it_answers(
        self,
        device: PtyDevice,
        start: Callable[[dict[str, Any]], SerialBench],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        poll = {"write": "MEAS?\n", "interval_seconds": 1000, "timeout_seconds": 10, "retries": 2}
        with caplog.at_level("INFO", logger="ds_gateway.serial_port"):
            bench = start({"poll": poll})
            for _ in range(3):
                assert device.receive_to(b"\n") == b"MEAS?\n"
                bench.let_time_out(11)
            assert bench.wait_reason("no answer", "alarm") == "line, MEAS?: no answer within 10 s"
            for unanswered in (2, 3):
                bench.forward(1000)
                assert device.receive_to(b"\n") == b"MEAS?\n"
                bench.let_time_out(11)
                wait_until(partial(_has_given_up, bench, unanswered), what="it was given up")
            assert not device.is_readable(), "while it does not answer it is asked once in an interval"
            bench.forward(1000)
            assert device.receive_to(b"\n") == b"MEAS?\n"
            device.send(b"1.5\n")
            assert bench.wait_readings(1) == [("line", {"value": "1.5"})]
            wait_until(lambda: bench.snapshot().state == "open", what="the alarm is over")
        assert (bench.polls().answered, bench.polls().unanswered, bench.polls().late) == (1, 3, 3)
        told = [each.message for each in caplog.records]
        assert told == ["serial.port.opened", "serial.port.alarm", "serial.port.recovered"]

    def test_a_late_answer_is_not_taken_for_the_next_ones(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        requests = [{"write": "A\n", "name": "a"}, {"write": "B\n", "name": "b"}]
        bench = start({"poll": {**_ONCE, "retries": 1, "requests": requests}})
        assert device.receive_to(b"\n") == b"A\n"
        bench.let_time_out(31)
        assert device.receive_to(b"\n") == b"A\n"
        device.send(b"first of A\n")
        bench.wait_readings(1)
        device.send(b"second of A\n")
        wait_until(lambda: bench.snapshot().unasked == 1, what="the second answer was dropped")
        bench.forward(31)
        assert device.receive_to(b"\n") == b"B\n"
        device.send(b"of B\n")
        assert bench.wait_readings(2) == [("line/a", {"value": "first of A"}), ("line/b", {"value": "of B"})]
        assert bench.snapshot().unasked == 1

    def test_a_replugged_device_is_asked_anew(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"poll": {**_ONCE, "write": "MEAS?\n"}})
        device.receive_to(b"\n")
        device.send(b"half an ans")
        device.plug()
        bench.wait_open(reopens=1)
        assert device.receive_to(b"\n") == b"MEAS?\n"
        device.send(b"1.5\n")
        assert bench.wait_readings(1) == [("line", {"value": "1.5"})]


class TestSilenceOnTheLine:
    def test_a_port_without_a_frame_is_an_alarm_until_one_comes(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start({"silent_after_seconds": 600})
        bench.wait_open()
        device.send(b"\n")
        bench.forward(601)
        assert bench.wait_reason("no frame came", "alarm") == "it is open, and no frame came for 600 s"
        assert bench.snapshot().silent
        device.send(b"\n1.5\n")
        wait_until(lambda: bench.snapshot().state == "open", what="the alarm is over")
        assert not bench.snapshot().silent

    @pytest.mark.parametrize("babble", [b"{]\n" * 20, b"\xaa" * 20_000])
    def test_what_nobody_can_read_may_be_another_device(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench], babble: bytes
    ) -> None:
        bench = start({"decode": "json"})
        bench.wait_open()
        device.send(b"\n" + babble)
        assert "another device, or another baud rate" in bench.wait_reason("can be read", "alarm")
        assert bench.snapshot().unreadable
        device.send(b'\n{"a": 1}\n')
        wait_until(lambda: bench.snapshot().state == "open", what="the alarm is over")


class TestCommands:
    def test_a_command_goes_before_the_next_request_and_has_its_own_answer(
        self, device: PtyDevice, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        requests = [{"write": f"{name}?\n"} for name in "AB"]
        bench = start({"poll": {**_ONCE, "requests": requests}})
        assert device.receive_to(b"\n") == b"A?\n"
        told: list[Progress] = []
        message = SerialMessage(b"SET\n", SerialReply(re.compile("^OK"), None, timeout_seconds=_NEVER))
        bench.source.send(Order("c1", "line", message, "at_least_once", bench.clock() + _NEVER), told.append)
        device.send(b"1\n")
        assert device.receive_to(b"\n") == b"SET\n"
        device.send(b"OK\n")
        assert device.receive_to(b"\n") == b"B?\n"
        device.send(b"2\n")
        assert bench.wait_readings(2) == [("line", {"value": "1"}), ("line", {"value": "2"})]
        assert [progress.status for progress in told] == ["published", "acknowledged"]
