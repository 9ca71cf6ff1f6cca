"""When what is asked, and whose turn it is: without I/O, on a clock that the test sets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ds_gateway.commands import Order, Progress, SerialMessage, SerialReply
from ds_gateway.serial_port.exchange import Request, any_matcher
from ds_gateway.serial_port.orders import Orders
from ds_gateway.serial_port.polls import Job, Polls
from ds_gateway.serial_port.silence import Silence
from ds_gateway.serial_port.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPLY: Final = SerialReply(re.compile("^OK"), None, timeout_seconds=1.0)


def _job(
    name: str,
    interval_seconds: float,
    *,
    requests: int = 1,
    turnaround_seconds: float = 0.0,
    timeout_seconds: float = 1.0,
) -> Job:
    one = [
        Request(
            f"{name}{number}".encode(),
            matcher=any_matcher(b"", None),
            timeout_seconds=timeout_seconds,
            retries=1,
            turnaround_seconds=turnaround_seconds,
        )
        for number in range(requests)
    ]
    return Job(name, 1, one, interval_seconds, b"+".join)


class _Line:
    """A line whose driver takes everything at once. ``now`` is set by the test."""

    def __init__(self, *jobs: Job) -> None:
        self.now = 0.0
        self.silence = Silence()
        self.orders = Orders(9600, self.silence)
        self.polls = Polls(jobs, self.silence, 0.0)
        self.turns = Turns(self.orders, self.polls, self.silence)
        self.turns.opened(0.0, settle_seconds=0.0)
        self.written: list[tuple[float, bytes]] = []
        self.told: list[Progress] = []

    def turn(self, now: float | None = None) -> bytes:
        """What is written at that time; nothing if nothing is."""
        self.now = self.now if now is None else now
        self.turns.advance(self.now)
        if not self.turns.wants_to_begin(self.now):
            return b""
        assert self.turns.due(self.now) <= self.now
        self.turns.begin(self.now)
        data = self.turns.unwritten
        self.turns.wrote(len(data), self.now)
        self.turns.drained(self.now, 0)
        self.written.append((self.now, data))
        return data

    def answer(self, now: float | None = None, data: bytes = b"OK") -> Sequence[bytes]:
        """Those frames that are no answer."""
        self.now = self.now if now is None else now
        self.turns.received(self.now)
        return self.turns.heard([data], 0, self.now)

    def order(self, data: bytes, *, lifetime_seconds: float = 100.0, turnaround_seconds: float = 0.0) -> None:
        message = SerialMessage(data, _REPLY, turnaround_seconds)
        deadline = self.now + lifetime_seconds
        self.orders.add(Order(data.decode(), "line", message, "at_least_once", deadline), self.told.append)


class TestTheGrid:
    def test_slow_answers_make_it_neither_drift_nor_catch_up(self) -> None:
        line = _Line(_job("a", 10.0, timeout_seconds=30.0))
        for due, begun, took in ((0.0, 0.0, 0.5), (10.0, 10.0, 0.9), (20.0, 20.3, 0.9), (30.0, 30.0, 25.0)):
            assert line.turns.due(line.now) == due
            assert line.turn(due - 0.001) == b""
            assert line.turn(begun) == b"a0"
            assert line.answer(begun + took) == []
        assert line.turn(60.0) == b"a0"
        line.answer(60.1)
        assert line.turns.due(line.now) == 70.0
        assert line.polls.counters.missed == 2, "those of 40 and 50"

    def test_a_closed_port_misses_its_times_and_is_asked_at_once_when_it_is_open_again(self) -> None:
        line = _Line(_job("a", 10.0))
        line.turn()
        line.turns.closed()
        assert line.turn(35.0) == b""
        line.turns.opened(35.0, settle_seconds=1.0)
        assert line.turn(35.5) == b"", "it has to settle"
        assert line.turn(36.0) == b"a0"
        line.answer(36.1)
        assert line.turns.due(line.now) == 40.0
        assert line.polls.counters.missed == 3

    def test_of_several_the_one_that_waited_longest_is_next(self) -> None:
        line = _Line(_job("a", 1.0), _job("b", 5.0), _job("c", 5.0))
        asked = b""
        for second in range(12):
            asked += line.turn(second * 0.9)[:1]
            line.answer()
        assert asked == b"abcaaaabcaa", "and nothing where nothing is due"

    def test_all_requests_of_a_job_make_one_frame(self) -> None:
        line = _Line(_job("a", 10.0, requests=3))
        for answer in (b"1", b"2", b"3"):
            assert line.polls.take_answers() == []
            line.turn()
            line.answer(data=answer)
        assert line.polls.take_answers() == [(1, b"1+2+3")]
        assert [data for _, data in line.written] == [b"a0", b"a1", b"a2"]

    def test_a_job_of_which_one_request_is_not_answered_gives_nothing(self) -> None:
        line = _Line(_job("a", 10.0, requests=2))
        line.turn()
        line.answer()
        for now in (0.0, 1.0):
            assert line.turn(now) == b"a1"
        assert line.turn(2.0) == b""
        assert line.polls.take_answers() == []
        assert line.polls.troubles == ["a: no answer within 1 s"]


class TestAnAlarm:
    def test_is_over_when_the_port_is_opened_again_and_then_it_is_asked_with_retries(self) -> None:
        line = _Line(_job("a", 10.0))
        for now in (0.0, 1.0, 2.0):
            line.turn(now)
        assert line.polls.troubles == ["a: no answer within 1 s"]
        line.turns.closed()
        assert line.polls.troubles == []
        line.turns.opened(5.0, settle_seconds=0.0)
        assert [line.turn(now) for now in (10.0, 11.0, 12.0)] == [b"a0", b"a0", b""]


class TestSilence:
    def test_the_turnaround_lies_before_a_request_and_after_its_answer(self) -> None:
        line = _Line(_job("a", 10.0, turnaround_seconds=0.5), _job("b", 10.0))
        assert line.turn(0.4) == b""
        assert line.turn(0.5) == b"a0"
        line.answer(0.7)
        assert line.turn(1.1) == b""
        assert line.turn(1.2) == b"b0"

    def test_after_a_request_that_was_late_the_next_waits_for_as_long_as_an_answer_may_take(self) -> None:
        line = _Line(_job("a", 10.0), _job("b", 10.0))
        line.turn()
        assert line.turn(1.0) == b"a0", "the retry"
        line.answer(1.5)
        assert line.turn(2.4) == b""
        assert line.answer(2.4, b"the second answer") == [b"the second answer"]
        assert line.turn(3.3) == b""
        assert line.turn(3.4) == b"b0"


class TestCommands:
    def test_they_go_first_and_between_the_requests_of_a_job(self) -> None:
        line = _Line(_job("a", 10.0, requests=2))
        line.order(b"x")
        for expected in (b"x", b"a0"):
            assert line.turn() == expected
            if expected == b"a0":
                line.order(b"y")
                assert line.turn() == b"", "not between a request and its answer"
            line.answer()
        assert line.turn() == b"y"
        line.answer()
        assert line.turn() == b"a1"

    def test_not_between_the_retries_of_a_request(self) -> None:
        line = _Line(_job("a", 10.0))
        line.turn()
        line.order(b"x")
        assert line.turn(1.0) == b"a0"
        line.answer(1.1)
        assert line.turn(2.2) == b"x"

    def test_one_that_waits_for_a_silent_line_keeps_polls_off_it(self) -> None:
        line = _Line(_job("a", 1.0))
        line.order(b"x", turnaround_seconds=5.0)
        assert line.turn(0.0) == b""
        assert line.turn(1.0) == b""
        assert line.turns.due(1.0) == 5.0, "nobody turns in vain meanwhile"
        assert line.turn(5.0) == b"x"

    def test_however_many_they_are_a_poll_that_has_waited_for_an_interval_gets_its_turn(self) -> None:
        line = _Line(_job("a", 1.0))
        asked = b""
        for number in range(12):
            line.order(b"x")
            line.order(b"x")
            asked += line.turn(number * 0.5)[:1]
            line.answer()
        assert asked == b"xxaxxxaxxxax"

    def test_where_all_is_overdue_it_is_one_each(self) -> None:
        line = _Line(_job("a", 1.0), _job("b", 1.0))
        line.order(b"x")
        line.order(b"y")
        asked = b""
        for _ in range(4):
            asked += line.turn(5.0)[:1]
            line.answer()
        assert asked == b"axby"

    def test_a_deadline_passes_also_while_something_is_asked(self) -> None:
        line = _Line(_job("a", 10.0))
        line.turn()
        line.order(b"x", lifetime_seconds=0.5)
        assert line.turns.due(0.0) == 0.5
        line.turn(0.6)
        assert [told.status for _, told in line.orders.take_told()] == ["expired"]


class TestAPortThatTakesNothing:
    def test_the_request_is_given_up_and_what_the_driver_holds_discarded(self) -> None:
        line = _Line(_job("a", 10.0))
        line.turns.advance(0.0)
        line.turns.begin(0.0)
        assert line.turns.is_writing
        line.turns.advance(5.1)
        assert line.turns.take_discard()
        assert not line.turns.take_discard()
        assert line.polls.troubles == ["a: the port takes no byte: is it held by flow control?"]
        assert line.polls.counters.refused == 1
        assert line.turns.due(5.1) == 10.0
