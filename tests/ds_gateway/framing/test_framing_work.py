"""How much a framer does for a byte, counted: a sender cannot make it more than the settings allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.config.framing import FramingSettings
from ds_gateway.framing import build_framer
from ds_gateway.framing.candidates import CandidateFramer
from ds_gateway.framing.checks import Check, xor_of
from ds_gateway.framing.delimited import DelimitedFramer
from ds_gateway.framing.layouts import DsmrLayout, LengthField, NmeaLayout, SyncLayout

if TYPE_CHECKING:
    import re

    from ds_gateway.framing.candidates import Layout


class _Counted:
    """A layout that counts the bytes in which an end is looked for."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.fillers = layout.fillers
        self.is_marked = layout.is_marked
        self.work = 0

    def begin(self, buffer: bytearray, start: int) -> int:
        return self._layout.begin(buffer, start)

    def end(self, buffer: bytearray, begin: int, scanned: int) -> int | None:
        end = self._layout.end(buffer, begin, scanned)
        stopped = len(buffer) if end is None else min(end, len(buffer))
        self.work += max(1, stopped - max(begin, scanned))
        return end


def _feed(framer: CandidateFramer | DelimitedFramer, data: bytes, chunk_bytes: int) -> None:
    for place in range(0, len(data), chunk_bytes):
        framer.feed(data[place : place + chunk_bytes])


class TestEnds:
    @pytest.mark.parametrize("chunk_bytes", [1, 7, 4096])
    @pytest.mark.parametrize(
        ("layout", "wire"),
        [
            (NmeaLayout(), b"$GP" + b"x" * 1000 + b"*00\r\n"),
            (DsmrLayout(4), b"/ISK5" + b"x" * 1000 + b"!0000\r\n"),
            (NmeaLayout(), b"$GP" + b"x" * 5000),
            (DsmrLayout(4), b"/ISK5" + b"x" * 5000),
        ],
        ids=["nmea", "dsmr", "nmea-endless", "dsmr-endless"],
    )
    def test_an_end_is_looked_for_once_in_each_byte(self, layout: Layout, wire: bytes, chunk_bytes: int) -> None:
        counted = _Counted(layout)
        framer = CandidateFramer(counted, judge=None, max_bytes=2000)
        data = wire * (12_000 // len(wire))
        _feed(framer, data, chunk_bytes)
        assert 0 < counted.work <= 3 * len(data)

    @pytest.mark.parametrize("chunk_bytes", [1, 7, 4096])
    @pytest.mark.parametrize(
        "wire", [b"\x02" + b"x" * 3000 + b"\x03", b"\x02" + b"\x1bx" * 1500 + b"\x03", b"\x02"]
    )
    def test_marks_are_looked_for_once_in_each_byte(self, wire: bytes, chunk_bytes: int) -> None:
        framer = DelimitedFramer(start=b"\x02", stop=b"\x03", escape=0x1B, xor=0x20, after=0, max_bytes=4096)
        tokens = framer._tokens
        work = 0

        class _CountedPattern:
            def search(self, buffer: bytearray, start: int) -> re.Match[bytes] | None:
                nonlocal work
                found = tokens.search(buffer, start)
                work += (found.end() if found else len(buffer)) - start
                return found

        framer._tokens = _CountedPattern()  # type: ignore[assignment]
        data = wire * (9_000 // len(wire))
        _feed(framer, data, chunk_bytes)
        assert 0 < work <= 3 * len(data)


class TestTrying:
    @pytest.mark.parametrize("chunk_bytes", [3, 4096])
    def test_wrong_lengths_cost_a_constant_for_each_byte(self, chunk_bytes: int) -> None:
        def work(size_bytes: int) -> int:
            judged = 0

            def counting(data: bytes) -> int:
                nonlocal judged
                judged += len(data)
                return -1  # a sum that no frame has

            layout = SyncLayout(b"\xaa\x55", LengthField(2, 1, "big", 3))
            framer = CandidateFramer(layout, judge=Check(counting, 1, "big"), max_bytes=64)
            # Each word announces the longest frame there may be, which has all the next words in it.
            _feed(framer, b"\xaa\x55\x3d" * (size_bytes // 3), chunk_bytes)
            return judged

        assert work(3_000) > 0
        assert work(30_000) <= work(3_000) * 10.5
        assert work(30_000) <= 30_000 * 64 / 3

    def test_a_place_is_given_up_once(self) -> None:
        framer = CandidateFramer(SyncLayout(b"\xaa", 4), judge=Check(xor_of, 1, "big"), max_bytes=4)
        assert framer.feed(b"\xaa\xaa\xaa\x01\x02\xa9") == [b"\xaa\x01\x02"]
        assert framer.bad_checks == 2


class TestCounters:
    @pytest.mark.parametrize(
        ("settings", "data", "expected"),
        [
            ({"line": {"max_bytes": 3}, "check": "xor"}, b"abcd\nab\x03\nab\x04\n", (1, 1, 0)),
            ({"slip": {"max_bytes": 3}}, b"abcd\xc0a\xdba\xc0\xc0", (1, 1, 0)),
            ({"cobs": {"max_bytes": 3}}, b"\x04abc\0\x05a\0\0", (1, 1, 0)),
            ({"delimited": {"max_bytes": 3}}, b"\x02abcd\x03..\x02ab\x02abc\x03\r\n\x02a\x03", (1, 0, 1)),
            ({"delimited": {}}, b"\x02ab\x02cd\x03", (0, 0, 1)),
            ({"delimited": {"escape": "1b"}}, b"\x02a\x1b\x03\x03\x02a\x1b", (0, 0, 0)),
            ({"delimited": {"escape": "1b", "xor": "20"}}, b"\x02a\x1b\x03", (0, 1, 0)),
            ({"sync": {"word": "aa", "length": {"offset": 1}, "max_bytes": 4}}, b"\xaa\x03..\xaa\x01.", (1, 0, 1)),
            ({"length": {"max_bytes": 4}}, b"\x01a\x02ab\x04abcd\x01a", (1, 0, 1)),
            ({"fixed": {"bytes": 3}, "check": "xor"}, b"ab\x03ab\x04ab\x03ab\x04", (0, 2, 2)),
            ({"nmea": {"max_bytes": 8}}, b"$A*41\r\n$B*41\r\n$ABCDEFGHIJ\r\n$A*41\r\n", (1, 1, 1)),
            ({"dsmr": {"max_bytes": 16}}, b"\r\n/ISK5" + b"x" * 20 + b"!0000\r\n/ISK5!0000\r\n", (1, 1, 1)),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_each_mishap_is_counted_once(
        self, settings: dict[str, Any], data: bytes, expected: tuple[int, int, int]
    ) -> None:
        framer = build_framer(FramingSettings.model_validate(settings))
        framer.feed(data)
        assert (framer.overlong, framer.bad_checks, framer.resyncs) == expected

    def test_line_ends_between_marked_frames_are_no_mishap(self) -> None:
        framer = build_framer(FramingSettings.model_validate("delimited"))
        assert framer.feed(b"\x02a\x03\r\n\x02b\x03\r\n") == [b"a", b"b"]
        assert framer.resyncs == 0


class TestOpening:
    def test_a_check_of_16_bits_proves_a_frame_that_came_first(self) -> None:
        framer = build_framer(FramingSettings.model_validate({"cobs": {}, "check": {"crc": "CRC-16/XMODEM"}}))
        framer.reset(discard_to_boundary=True)
        assert framer.feed(b"\x0c123456789\x31\xc3\0") == [b"123456789"]

    def test_one_of_8_bits_does_not(self) -> None:
        framer = build_framer(FramingSettings.model_validate({"cobs": {}, "check": "xor"}))
        framer.reset(discard_to_boundary=True)
        assert framer.feed(b"\x03aa\0") == []
        assert framer.feed(b"\x03aa\0") == [b"a"]


class TestBegunBytes:
    @pytest.mark.parametrize(
        ("settings", "steps"),
        [
            ("delimited", [(b"..", 0), (b"\x02", 0), (b"ab", 2), (b"\x03", 0)]),
            ("nmea", [(b"..", 0), (b"$GP", 3), (b"*", 4), (b"\r\n", 0)]),
            ({"sync": {"word": "aa 55", "bytes": 4}}, [(b".\x55", 0), (b"\xaa", 1), (b"\x55.", 3), (b".", 0)]),
            ("cobs", [(b"\x02", 1), (b"a", 2), (b"\0", 0)]),
            ({"idle": {"gap_seconds": 1}}, [(b"ab", 2)]),
            ({"fixed": {"bytes": 3}, "check": "xor"}, [(b"ab", 2), (b"\x03", 0)]),
        ],
        ids=["delimited", "nmea", "sync", "cobs", "idle", "fixed"],
    )
    def test_they_are_those_that_the_next_frame_begins_with(
        self, settings: Any, steps: list[tuple[bytes, int]]
    ) -> None:
        framer = build_framer(FramingSettings.model_validate(settings))
        for data, begun_bytes in steps:
            framer.feed(data)
            assert framer.begun_bytes == begun_bytes
