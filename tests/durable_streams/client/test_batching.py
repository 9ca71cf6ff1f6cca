"""The appends of one handle that wait for their turn: who goes with whom, and who is told what."""

from __future__ import annotations

from functools import partial

import pytest

from durable_streams._batching import MAX_JOINED_BYTES, AppendQueue, Waiting, as_error, own_error
from durable_streams._types import AppendResult
from durable_streams.errors import BadRequestError, FetchError, PayloadTooLargeError, StreamClosedError

STORED = AppendResult("7")


def queue_of(*messages: bytes, joining: bool = True) -> tuple[AppendQueue, list[Waiting]]:
    queue = AppendQueue(joining=joining)
    return queue, [queue.join(message, None) for message in messages]


def posts(queue: AppendQueue) -> list[list[bytes]]:
    """What each of the next POSTs would hold."""
    taken = []
    while batch := queue.take():
        taken.append([entry.message for entry in batch])
    return taken


class TestWhoGoesTogether:
    def test_all_that_wait(self) -> None:
        queue, _ = queue_of(b"a", b"b", b"c")
        assert posts(queue) == [[b"a", b"b", b"c"]]

    def test_nobody_without_joining(self) -> None:
        queue, _ = queue_of(b"a", b"b", joining=False)
        assert posts(queue) == [[b"a"], [b"b"]]

    def test_nobody_with_an_order_of_the_callers(self) -> None:
        queue, _ = queue_of(b"a", b"b")
        queue.join(b"c", "1")
        queue.join(b"d", None)
        assert posts(queue) == [[b"a", b"b"], [b"c"], [b"d"]]

    def test_only_as_much_as_a_proxy_takes(self) -> None:
        half, all_but_one = bytes(MAX_JOINED_BYTES // 2), bytes(MAX_JOINED_BYTES - 1)
        queue, _ = queue_of(half, half, b"x", all_but_one, b"y", b"z")
        assert [[len(each) for each in post] for post in posts(queue)] == [
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
        entries = [queue.join(b"a", None, partial(told.append, name)) for name in "xy"]
        queue.settle(queue.take(), STORED)
        assert [entry.outcome() for entry in entries] == [STORED, STORED]
        assert told == ["x", "y"]

    def test_an_error_is_for_all_but_not_the_same_object(self) -> None:
        queue, entries = queue_of(b"a", b"b")
        error = StreamClosedError("closed", status=409, url="u", headers={"h": "v"})
        error.__cause__ = cause = OSError()
        error.in_doubt = True
        error.add_note("a note")
        queue.settle(queue.take(), error)
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

    @pytest.mark.parametrize("refusal", [BadRequestError("400"), PayloadTooLargeError("413")])
    def test_those_that_are_refused_together_are_sent_one_by_one_without_those_that_left(
        self, refusal: Exception
    ) -> None:
        queue, (first, second, third) = queue_of(b"a", b"b", b"c")
        batch = queue.take()
        queue.join(b"d", None)
        queue.leave(second)
        queue.settle(batch, refusal)
        assert not first.settled
        assert not third.settled
        alone = queue.take()
        assert [entry.message for entry in alone] == [b"a"]
        queue.settle(alone, refusal)
        assert type(first.error) is type(refusal)
        assert posts(queue) == [[b"c"], [b"d"]]

    def test_a_settled_one_stays_settled(self) -> None:
        queue, (entry,) = queue_of(b"a")
        batch = queue.take()
        queue.settle(batch, STORED)
        queue.settle(batch, FetchError("late"))
        assert entry.outcome() == STORED

    def test_an_interruption_is_an_error_in_doubt_for_the_others(self) -> None:
        error = as_error(KeyboardInterrupt())
        assert isinstance(error, FetchError)
        assert error.in_doubt
        assert "KeyboardInterrupt" in error.message

    def test_any_other_error_is_itself(self) -> None:
        error = RuntimeError("no token")
        assert as_error(error) is error
