"""Registers of pymodbus' own server, over a real line that the test disturbs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import pytest
from pymodbus.framer import FramerRTU

from ds_gateway.commands import Order, Progress, SerialMessage
from harness.modbus_line import ModbusLine, unit
from harness.serial_bench import SerialBench
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_OFTEN: Final = {"interval_seconds": 0.02, "timeout_seconds": 30.0}
_METER: Final = [
    {"name": "voltage", "address": 0, "scale": 0.1, "unit": "V"},
    {"name": "power", "address": 1, "type": "i32"},
    {"name": "energy", "address": 3, "type": "f32", "order": "word_swapped"},
    {"name": "state", "function": "input", "address": 2},
    {"name": "on", "function": "coil", "address": 1},
    {"name": "door", "function": "discrete", "address": 0},
]


def _words(layout: str, value: float) -> list[int]:
    data = struct.pack(layout, value)
    return list(struct.unpack(f">{len(data) // 2}H", data))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[ModbusLine]:
    energy = _words(">f", 230.1)[::-1]
    one = unit(
        1,
        holding=[2301, *_words(">i", -70_000), *energy],
        inputs=[0, 0, 7],
        coils=[False, True],
        discrete=[True],
    )
    with ModbusLine(tmp_path / "bus", one, unit(2, holding=[20, 21])) as started:
        yield started


@pytest.fixture
def start(line: ModbusLine) -> Iterator[Callable[[dict[str, Any]], SerialBench]]:
    started: list[SerialBench] = []

    def start(settings: dict[str, Any]) -> SerialBench:
        started.append(SerialBench(line.path, {"baudrate": 115200, **settings}))
        return started[-1].__enter__()

    yield start
    for bench in started:
        bench.__exit__(None, None, None)


def _meter(**more: Any) -> dict[str, Any]:
    return {"poll": {**_OFTEN, **more, "modbus": {"unit": 1, "registers": _METER}}}


_READING: Final = (
    "line",
    {"voltage": 230.1, "power": -70000, "energy": 230.1, "state": 7, "on": True, "door": True},
)


class TestAMeter:
    def test_all_registers_make_one_record_a_poll(
        self, line: ModbusLine, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start(_meter())
        assert bench.wait_readings(3)[:3] == [_READING] * 3
        assert [request[:6].hex() for request in line.requests[:4]] == [
            "010300000005",
            "010400020001",
            "010100010001",
            "010200000001",
        ]
        assert bench.pipeline.devices()["line"].units == {"voltage": "V"}
        polls = bench.polls()
        assert (polls.unanswered, polls.refused, polls.late) == (0, 0, 0)

    def test_a_line_that_echoes_and_has_noise_on_it_gives_the_same(
        self, line: ModbusLine, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        line.echoes = True
        line.change = lambda answer: b"\x01\x03\x00\xff" + answer + b"\x01"
        bench = start(_meter())
        assert bench.wait_readings(3)[:3] == [_READING] * 3

    def test_a_damaged_answer_is_asked_for_again(
        self, line: ModbusLine, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        damaged: list[bytes] = []

        def damage_once(answer: bytes) -> bytes:
            if damaged:
                return answer
            damaged.append(answer)
            return answer[:3] + bytes([answer[3] ^ 0x10]) + answer[4:]

        line.change = damage_once
        bench = start(_meter())
        wait_until(lambda: damaged, what="an answer was damaged")
        wait_until(lambda: bench.snapshot().received_bytes == len(damaged[0]), what="it was read")
        bench.forward(31)
        wait_until(lambda: len(line.requests) > 1, what="it was asked again")
        wait_until(lambda: bench.snapshot().received_bytes == 2 * len(damaged[0]), what="it answered again")
        bench.forward(31)  # the line must be silent now: the answer could have been the first one, and late
        assert bench.wait_readings(1)[0] == _READING
        polls = bench.polls()
        assert (polls.late, polls.unanswered) == (1, 0)
        assert bench.snapshot().bad_checks == 1

    def test_what_the_device_refuses_is_told_by_its_name(
        self, line: ModbusLine, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        modbus = {"unit": 2, "registers": [{"name": "x", "address": 100}]}
        bench = start({"poll": {**_OFTEN, "modbus": modbus}})
        assert bench.wait_reason("illegal", "alarm") == (
            "line, unit 2, holding register 100: the device says illegal address (exception 2)"
        )
        assert bench.take() == []

    def test_a_unit_that_is_not_there_is_an_alarm_and_the_port_goes_on(
        self, line: ModbusLine, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        answers = [line.change, lambda answer: b"" if answer[0] == 1 else answer]
        line.change = answers[1]
        bench = start(
            {
                "devices": [
                    {"name": "meter", **_meter(timeout_seconds=0.03, retries=1)},
                    {
                        "name": "pump",
                        "poll": {**_OFTEN, "modbus": {"unit": 2, "registers": [{"name": "rpm", "address": 1}]}},
                    },
                ]
            }
        )
        assert bench.wait_readings(3)[:3] == [("pump", {"rpm": 21})] * 3
        assert bench.wait_reason("unit 1", "alarm").startswith(
            "meter, unit 1, holding registers 0 to 4: no answer"
        )
        line.change = answers[0]
        wait_until(lambda: ("meter", _READING[1]) in bench.take(), what="the meter is read again")
        wait_until(lambda: bench.snapshot().state == "open", what="the alarm is over")

    def test_commands_go_between_the_polls(
        self, line: ModbusLine, start: Callable[[dict[str, Any]], SerialBench]
    ) -> None:
        bench = start(_meter())
        bench.wait_readings(1)
        told: list[Progress] = []
        body = bytes.fromhex("020600010063")
        write = body + FramerRTU.compute_CRC(body).to_bytes(2, "big")
        bench.source.send(
            Order(
                "c1", "line", SerialMessage(write, turnaround_seconds=0.1), "at_least_once", bench.clock() + 3600
            ),
            told.append,
        )
        wait_until(lambda: told and told[-1].is_final, what="the command was written")
        wait_until(lambda: write in b"".join(line.requests), what="the device has it")
        so_far = len(bench.take())
        bench.wait_readings(so_far + 2)
