"""The appends of one handle that wait for their turn: who goes with whom, and who is told what."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from durable_streams._batching import MAX_JOINED_BYTES, AppendQueue, Waiting, as_error, interrupted, own_error
from durable_streams._types import AppendResult
from durable_streams.errors import (
    BadRequestError,
    FetchError,
    MessageError,
    PayloadTooLargeError,
    StreamClosedError,
)

if TYPE_CHECKING:
    from types import CodeType, FrameType

STORED = AppendResult("7")


def queue_of(*messages: bytes, joining: bool = True) -> tuple[AppendQueue, list[Waiting]]:
    queue = AppendQueue(joining=joining)
    return queue, [join(queue, message) for message in messages]


def join(queue: AppendQueue, message: bytes, seq: str | None = None) -> Waiting:
    entry = Waiting(message, message, seq)
    queue.join(entry)
    return entry


def take(queue: AppendQueue) -> list[Waiting]:
    batch: list[Waiting] = []
    queue.take(batch)
    return batch


def posts(queue: AppendQueue) -> list[list[bytes | None]]:
    """What each of the next POSTs would hold."""
    taken = []
    while batch := take(queue):
        taken.append([entry.message for entry in batch])
    return taken


def is_text(data: object) -> bytes:
    """Encode what is text."""
    if not isinstance(data, str):
        raise MessageError("not a text")
    return data.encode()


class TestWhoGoesTogether:
    def test_all_that_wait(self) -> None:
        queue, _ = queue_of(b"a", b"b", b"c")
        assert posts(queue) == [[b"a", b"b", b"c"]]

    def test_nobody_without_joining(self) -> None:
        queue, _ = queue_of(b"a", b"b", joining=False)
        assert posts(queue) == [[b"a"], [b"b"]]

    def test_nobody_with_an_order_of_the_callers(self) -> None:
        queue, _ = queue_of(b"a", b"b")
        join(queue, b"c", "1")
        join(queue, b"d")
        assert posts(queue) == [[b"a", b"b"], [b"c"], [b"d"]]

    def test_only_as_much_as_a_proxy_takes(self) -> None:
        half, all_but_one = bytes(MAX_JOINED_BYTES // 2), bytes(MAX_JOINED_BYTES - 1)
        queue, _ = queue_of(half, half, b"x", all_but_one, b"y", b"z")
        assert [[len(each or b"") for each in post] for post in posts(queue)] == [
            [len(half), len(half)],
            [1, len(all_but_one)],
            [1, 1],
        ]

    def test_a_message_that_is_larger_goes_by_itself(self) -> None:
        queue, _ = queue_of(b"a", bytes(MAX_JOINED_BYTES + 1), b"b")
        assert [len(post) for post in posts(queue)] == [1, 1, 1]

    def test_not_those_that_left(self) -> None:
        queue, (_, second, _) = queue_of(b"a", b"b", b"c")
        queue.leave(second)
        queue.leave(second)
        assert len(queue) == 2
        assert posts(queue) == [[b"a", b"c"]]


class TestWhoIsToldWhat:
    def test_a_result_is_for_all(self) -> None:
        told: list[str] = []
        queue = AppendQueue(joining=True)
        entries = [Waiting(b"a", b"a", None, told=partial(told.append, name)) for name in "xy"]
        for entry in entries:
            queue.join(entry)
        queue.settle(take(queue), STORED)
        assert [entry.outcome() for entry in entries] == [STORED, STORED]
        assert told == ["x", "y"]

    def test_an_error_is_for_all_but_not_the_same_object(self) -> None:
        queue, entries = queue_of(b"a", b"b")
        error = StreamClosedError("closed", status=409, url="u", headers={"h": "v"})
        error.__cause__ = cause = OSError()
        error.in_doubt = True
        error.add_note("a note")
        queue.settle(take(queue), error)
        assert entries[0].error is not entries[1].error
        for entry in entries:
            with pytest.raises(StreamClosedError, match="closed") as raised:
                entry.outcome()
            raised.value.add_note("its own")
            assert raised.value.__notes__ == ["a note", "its own"]
            assert (raised.value.status, raised.value.url, raised.value.headers) == (409, "u", {"h": "v"})
            assert raised.value.in_doubt
            assert raised.value.__cause__ is cause

    def test_a_foreign_error_is_passed_on_as_it_is(self) -> None:
        error = RuntimeError("no token")
        assert own_error(error) is error

    @pytest.mark.parametrize(
        "refusal", [BadRequestError("400"), PayloadTooLargeError("413"), FetchError("422", status=422)]
    )
    def test_those_that_are_refused_together_are_sent_one_by_one_without_those_that_left(
        self, refusal: Exception
    ) -> None:
        queue, (first, second, third) = queue_of(b"a", b"b", b"c")
        batch = take(queue)
        join(queue, b"d")
        queue.leave(second)
        queue.settle(batch, refusal)
        assert not first.settled
        assert not third.settled
        alone = take(queue)
        assert [entry.message for entry in alone] == [b"a"]
        queue.settle(alone, refusal)
        assert type(first.error) is type(refusal)
        assert posts(queue) == [[b"c"], [b"d"]]

    def test_a_settled_one_stays_settled(self) -> None:
        queue, (entry,) = queue_of(b"a")
        batch = take(queue)
        queue.settle(batch, STORED)
        queue.settle(batch, FetchError("late"))
        assert entry.outcome() == STORED

    def test_an_interruption_is_an_error_in_doubt_for_the_others(self) -> None:
        error = as_error(KeyboardInterrupt())
        assert isinstance(error, FetchError)
        assert error.in_doubt
        assert not interrupted(sent=False).in_doubt

    def test_any_other_error_is_itself(self) -> None:
        error = RuntimeError("no token")
        assert as_error(error) is error


class TestWhatCannotBeEncodedYet:
    def test_keeps_its_place_and_fails_alone(self) -> None:
        queue = AppendQueue(joining=True)
        entries = [Waiting(data, None, None) for data in ("a", 1, "b")]
        for entry in entries:
            queue.join(entry)
        join(queue, b"c")
        assert queue.undecided
        queue.encode(is_text)
        assert posts(queue) == [[b"a", b"b", b"c"]]
        assert [isinstance(entry.error, MessageError) for entry in entries] == [False, True, False]

    def test_is_told_together_when_nobody_can_say_how(self) -> None:
        queue = AppendQueue(joining=True)
        entries = [Waiting(data, None, None) for data in ("a", "b")]
        for entry in entries:
            queue.join(entry)
        batch: list[Waiting] = []
        queue.take_all(batch)
        queue.settle(batch, FetchError("no answer"))
        assert all(isinstance(entry.error, FetchError) for entry in entries)
        assert (len(queue), queue.undecided) == (0, False)


class TestAnInterruption:
    def test_leaves_nobody_behind_wherever_it_comes(self) -> None:
        """KeyboardInterrupt at each line of `take`, as a signal may bring it."""
        lines = 0
        for stop_at in range(1, 100):
            queue, entries = queue_of(b"a", b"b", b"c")
            batch: list[Waiting] = []
            interrupter = Interrupter(AppendQueue.take.__code__, stop_at)
            sys.settrace(interrupter.trace)
            try:
                queue.take(batch)
            except KeyboardInterrupt:
                lines += 1
            else:
                break
            finally:
                sys.settrace(None)
            queue.settle(batch, interrupted(sent=True))
            assert sum(map(len, posts(queue))) == sum(not entry.settled for entry in entries)
        assert lines > 10


class Interrupter:
    """Raises KeyboardInterrupt at the n-th line of one function."""

    def __init__(self, code: CodeType, line: int) -> None:
        self._code = code
        self._left = line

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """See `sys.settrace`."""
        if frame.f_code is not self._code:
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self.trace
