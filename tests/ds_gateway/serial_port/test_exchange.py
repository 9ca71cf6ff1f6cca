from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from ds_gateway.serial_port.exchange import Answer, Exchange, Request, pattern_matcher

_REQUEST = Request(
    b"T\r\n",
    matcher=pattern_matcher(re.compile("OK"), re.compile("ERR")),
    timeout_seconds=2.0,
    retries=0,
    write_seconds=5.0,
)


def _listening(request: Request = _REQUEST, *, begun_bytes: int = 0) -> Exchange:
    exchange = Exchange(request)
    exchange.begin(100.0)
    exchange.wrote(len(request.data))
    exchange.drained(101.0, begun_bytes)
    return exchange


def _phase(exchange: Exchange) -> str:
    return exchange.phase


class TestWriting:
    def test_it_is_written_in_the_parts_that_the_driver_takes(self) -> None:
        exchange = Exchange(_REQUEST)
        assert (_phase(exchange), exchange.unwritten) == ("waiting", b"")
        exchange.begin(100.0)
        assert (_phase(exchange), exchange.unwritten, exchange.until) == ("writing", b"T\r\n", 105.0)
        exchange.wrote(0)
        assert (_phase(exchange), exchange.may_have_left) == ("writing", False)
        exchange.wrote(2)
        assert (_phase(exchange), exchange.unwritten, exchange.may_have_left) == ("writing", b"\n", True)
        exchange.wrote(1)
        assert (_phase(exchange), exchange.until) == ("draining", 105.0)
        exchange.drained(101.0, 0)
        assert (_phase(exchange), exchange.until) == ("listening", 103.0)

    def test_without_an_expected_answer_it_ends_with_its_last_byte(self) -> None:
        exchange = _listening(Request(b"T"))
        assert (_phase(exchange), exchange.end, exchange.until) == ("ended", "sent", math.inf)

    @pytest.mark.parametrize("taken", [0, 1, 3])
    def test_what_does_not_leave_in_time_is_stuck(self, taken: int) -> None:
        exchange = Exchange(_REQUEST)
        exchange.begin(100.0)
        exchange.wrote(taken)
        exchange.check(104.9)
        assert _phase(exchange) != "ended"
        exchange.check(105.0)
        assert (exchange.end, exchange.may_have_left) == ("stuck", taken > 0)

    def test_interrupted_it_is_written_from_its_first_byte_again(self) -> None:
        exchange = Exchange(_REQUEST)
        exchange.begin(100.0)
        exchange.wrote(2)
        exchange.interrupted()
        assert (_phase(exchange), exchange.unwritten, exchange.may_have_left) == ("waiting", b"", True)
        exchange.begin(200.0)
        assert (exchange.unwritten, exchange.until) == (b"T\r\n", 205.0)

    def test_steps_out_of_turn_are_mistakes(self) -> None:
        exchange = Exchange(_REQUEST)
        with pytest.raises(RuntimeError, match="waiting is not writing"):
            exchange.wrote(1)
        exchange.begin(100.0)
        with pytest.raises(RuntimeError, match="writing is not draining"):
            exchange.drained(100.0, 0)
        with pytest.raises(RuntimeError, match="writing is not waiting"):
            exchange.begin(100.0)
        assert (_phase(exchange), exchange.unwritten) == ("writing", b"T\r\n")


class TestAnswers:
    @pytest.mark.parametrize(
        ("frame", "answer"),
        [
            (b"OK", Answer("OK", is_error=False)),
            (b"S 1 OK\xb0", Answer("S 1 OK\N{DEGREE SIGN}", is_error=False)),
            (b"ERR 7", Answer("ERR 7", is_error=True)),
            (b"ERR: not OK", Answer("ERR: not OK", is_error=True)),
        ],
    )
    def test_the_first_frame_that_matches_is_the_answer(self, frame: bytes, answer: Answer) -> None:
        exchange = _listening()
        assert exchange.heard([b"1.5 kg", frame, b"OK", b"2.5 kg"], 0) == [b"1.5 kg", b"OK", b"2.5 kg"]
        assert (exchange.end, exchange.answer) == ("answered", answer)

    def test_before_its_last_byte_left_nothing_is_an_answer(self) -> None:
        exchange = Exchange(_REQUEST)
        assert exchange.heard([b"OK"], 0) == [b"OK"]
        exchange.begin(100.0)
        assert exchange.heard([b"OK"], 0) == [b"OK"]
        exchange.wrote(3)
        assert exchange.heard([b"OK"], 0) == [b"OK"]
        assert exchange.answer is None

    @pytest.mark.parametrize(
        ("pattern", "frame", "stale_bytes", "is_answer"),
        [
            ("OK", b"BOOK", 0, True),
            ("OK", b"BOOK", 2, True),
            ("OK", b"BOOK", 3, False),
            ("^OK", b"BOOK", 2, False),  # where the search begins is not the beginning of the frame
            ("OK", b"\x00OK", 1, True),  # a glitch of an RS-485 line that changes its direction
            (".", b"12.5 kg", 7, False),
            (".*", b"12.5 kg", 7, False),  # its delimiter alone came after
            (".*", b"12.5 kg\r", 7, False),
            ("^OK$", b"OK\r", 0, True),  # a line that ends with CR and LF, cut at LF
        ],
    )
    def test_of_a_frame_that_began_before_only_the_rest_counts(
        self, pattern: str, frame: bytes, stale_bytes: int, *, is_answer: bool
    ) -> None:
        matcher = pattern_matcher(re.compile(pattern), None)
        exchange = _listening(replace(_REQUEST, matcher=matcher), begun_bytes=stale_bytes)
        assert exchange.heard([], len(frame)) == []
        assert exchange.heard([frame], 0) == ([] if is_answer else [frame])
        assert (exchange.answer is not None) == is_answer

    def test_cr_at_the_end_of_a_frame_is_neither_seen_nor_kept_of_an_answer_but_of_a_reading(self) -> None:
        exchange = _listening(replace(_REQUEST, matcher=pattern_matcher(re.compile("^OK$"), re.compile("^ERR$"))))
        assert exchange.heard([b"1.5 kg\r", b"O\rK\r", b"ERR\r\r"], 0) == [b"1.5 kg\r", b"O\rK\r"]
        assert exchange.answer == Answer("ERR", is_error=True)

    def test_the_frame_after_one_that_began_before_is_whole(self) -> None:
        exchange = _listening(begun_bytes=6)
        assert exchange.heard([b"1.5 kg", b"OK"], 0) == [b"1.5 kg"]
        assert exchange.answer == Answer("OK", is_error=False)

    def test_a_frame_that_was_given_up_takes_its_stale_bytes_with_it(self) -> None:
        exchange = _listening(begun_bytes=6)
        assert exchange.heard([], 0) == []
        assert exchange.heard([b"OK"], 0) == []
        assert exchange.end == "answered"

    def test_a_pattern_sees_a_bounded_part_of_a_frame(self) -> None:
        exchange = _listening()
        assert exchange.heard([b"x" * 4095 + b"OK"], 0) != []
        assert exchange.heard([b"OK" + b"x" * 10_000], 0) == []
        assert exchange.answer is not None
        assert len(exchange.answer.text) == 4096


class TestSilence:
    def test_it_is_written_again_as_often_as_allowed(self) -> None:
        exchange = Exchange(replace(_REQUEST, retries=2))
        now = 100.0
        for _ in range(3):
            assert _phase(exchange) == "waiting"
            exchange.begin(now)
            exchange.wrote(3)
            exchange.drained(now, 0)
            exchange.check(now + 1.9)
            assert _phase(exchange) == "listening"
            now += 2.0
            exchange.check(now)
        assert (_phase(exchange), exchange.end) == ("ended", "unanswered")
        assert exchange.heard([b"OK"], 0) == [b"OK"], "too late: it is a reading"

    def test_a_late_answer_counts_until_it_is_written_again(self) -> None:
        exchange = _listening(replace(_REQUEST, retries=1))
        exchange.check(103.0)
        assert _phase(exchange) == "waiting"
        assert exchange.heard([b"OK"], 0) == []
        assert exchange.end == "answered"

    def test_but_not_behind_another_opening_of_the_port_or_another_writing(self) -> None:
        for disturb in (Exchange.interrupted, lambda exchange: exchange.begin(103.0)):
            exchange = _listening(replace(_REQUEST, retries=1))
            exchange.check(103.0)
            disturb(exchange)
            assert exchange.heard([b"OK"], 0) == [b"OK"]
            assert exchange.end is None

    def test_the_end_stays(self) -> None:
        exchange = _listening()
        exchange.heard([b"OK"], 0)
        exchange.interrupted()
        exchange.check(1e9)
        assert (_phase(exchange), exchange.end) == ("ended", "answered")
