from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU

from ds_gateway.config.polling import ModbusSettings
from ds_gateway.serial_port.modbus import ResponseFramer, batches, requests

if TYPE_CHECKING:
    from collections.abc import Sequence


def _settings(*registers: dict[str, Any], **more: Any) -> ModbusSettings:
    named = [{"name": f"r{index}", **register} for index, register in enumerate(registers)]
    return ModbusSettings.model_validate({"unit": 1, "registers": named, **more})


def _adu(*body: int) -> bytes:
    return bytes(body) + FramerRTU.compute_CRC(bytes(body)).to_bytes(2, "big")


def _read(words: Sequence[int], **register: Any) -> Any:
    settings = _settings({"address": 0, **register})
    _, join = requests(settings, turnaround_seconds=0, timeout_seconds=1, retries=0, write_seconds=1)
    data = b"".join(struct.pack(">H", word) for word in words)
    return orjson.loads(join([_adu(1, 3, len(data), *data)]))["r0"]


def _ranges(settings: ModbusSettings) -> list[tuple[str, int, int]]:
    return [(each.function, each.address, each.count) for each in batches(settings)]


class TestMerging:
    def test_neighbours_are_read_together_whatever_their_order(self) -> None:
        settings = _settings({"address": 3}, {"address": 0, "type": "f32"}, {"address": 2}, {"address": 1})
        assert _ranges(settings) == [("holding", 0, 4)]

    def test_others_are_not_unless_a_gap_is_allowed(self) -> None:
        registers = ({"address": 0}, {"address": 4}, {"address": 10})
        assert _ranges(_settings(*registers)) == [("holding", 0, 1), ("holding", 4, 1), ("holding", 10, 1)]
        assert _ranges(_settings(*registers, gap=3)) == [("holding", 0, 5), ("holding", 10, 1)]

    def test_a_request_reads_no_more_than_a_device_gives(self) -> None:
        registers = [{"address": address, "type": "u32"} for address in range(0, 300, 2)]
        assert _ranges(_settings(*registers)) == [("holding", 0, 124), ("holding", 124, 124), ("holding", 248, 52)]
        assert _ranges(_settings(*registers[:3], max_registers=4)) == [("holding", 0, 4), ("holding", 4, 2)]

    def test_it_can_be_switched_off(self) -> None:
        settings = _settings({"address": 0}, {"address": 1}, merge=False)
        assert _ranges(settings) == [("holding", 0, 1), ("holding", 1, 1)]

    def test_each_table_has_requests_of_its_own(self) -> None:
        functions = ("discrete", "coil", "input", "holding")
        settings = _settings(*({"address": 0, "function": function} for function in functions))
        assert [function for function, _, _ in _ranges(settings)] == ["holding", "input", "coil", "discrete"]


class TestNumbers:
    @pytest.mark.parametrize(
        ("order", "words"),
        [
            ("big", (0xAABB, 0xCCDD)),
            ("word_swapped", (0xCCDD, 0xAABB)),
            ("byte_swapped", (0xBBAA, 0xDDCC)),
            ("little", (0xDDCC, 0xBBAA)),
        ],
    )
    def test_every_order_of_bytes(self, order: str, words: tuple[int, int]) -> None:
        assert _read(words, type="u32", order=order) == 0xAABBCCDD

    @pytest.mark.parametrize(
        ("kind", "layout", "value"),
        [
            ("u16", ">H", 65535),
            ("i16", ">h", -2),
            ("i32", ">i", -70000),
            ("u64", ">Q", 2**64 - 1),
            ("i64", ">q", -(2**63)),
            ("f64", ">d", 230.1),
        ],
    )
    def test_every_type(self, kind: str, layout: str, value: float) -> None:
        data = struct.pack(layout, value)
        assert _read(struct.unpack(f">{len(data) // 2}H", data), type=kind) == value

    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_a_short_float_is_the_shortest_number_that_is_the_same(self, value: float) -> None:
        read = _read(struct.unpack(">2H", struct.pack(">f", value)), type="f32")
        assert struct.pack(">f", read) == struct.pack(">f", value)

    def test_and_not_what_a_long_one_makes_of_it(self) -> None:
        assert _read(struct.unpack(">2H", struct.pack(">f", 230.1)), type="f32") == 230.1

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_no_number_is_null(self, value: float) -> None:
        assert _read(struct.unpack(">2H", struct.pack(">f", value)), type="f32") is None


class TestTheEndOfAnAnswer:
    ANSWER = _adu(1, 3, 4, 0, 1, 0, 2)

    @given(st.lists(st.integers(1, 4)), st.binary(max_size=8).filter(lambda noise: b"\x01" not in noise))
    def test_it_is_found_however_it_is_chunked_and_after_noise(self, cuts: list[int], noise: bytes) -> None:
        framer, data, frames = ResponseFramer(1, 3, 4), noise + self.ANSWER, []
        for cut in [*cuts, len(data)]:
            frames += framer.feed(data[:cut])
            data = data[cut:]
        assert frames == [self.ANSWER]
        assert framer.buffered_bytes == 0

    def test_an_echo_and_others_answers_are_skipped(self) -> None:
        framer = ResponseFramer(1, 3, 4)
        others = (
            _adu(1, 3, 0, 0, 0, 2),
            _adu(2, 3, 4, 0, 1, 0, 2),
            _adu(1, 4, 4, 0, 1, 0, 2),
            _adu(1, 3, 2, 0, 1),
        )
        assert framer.feed(b"".join(others) + self.ANSWER) == [self.ANSWER]
        assert framer.bad_checks == 0, "none of them looked like it"

    def test_a_damaged_answer_is_none_and_counted(self) -> None:
        framer = ResponseFramer(1, 3, 4)
        assert framer.feed(self.ANSWER[:4] + b"\x07" + self.ANSWER[5:]) == []
        assert framer.bad_checks == 1
        assert framer.feed(self.ANSWER) == [self.ANSWER]

    def test_an_exception_is_an_answer_of_five_bytes(self) -> None:
        framer = ResponseFramer(1, 3, 4)
        refusal = _adu(1, 0x83, 2)
        assert framer.feed(refusal) == [refusal]

    @given(st.binary(max_size=2000))
    def test_garbage_is_bounded(self, garbage: bytes) -> None:
        framer = ResponseFramer(1, 3, 4)
        framer.feed(garbage)
        assert framer.buffered_bytes < len(self.ANSWER)

    def test_what_the_device_refuses_has_a_name(self) -> None:
        made, _ = requests(
            _settings({"address": 0}), turnaround_seconds=0, timeout_seconds=1, retries=0, write_seconds=1
        )
        matcher = made[0].matcher
        assert matcher is not None
        for code, words in (
            (1, "illegal function"),
            (6, "device busy"),
            (0x0B, "gateway no response"),
            (99, "does not know"),
        ):
            answer = matcher(_adu(1, 0x83, code), 0)
            assert answer is not None
            assert answer.is_error
            assert words in answer.text
            assert f"exception {code}" in answer.text
