"""The machine by hand: what cannot happen, what it does without permission to read, and how it waits.

Every interleaving of faults is in `test_exploration`, every answer in every stage in `test_every_answer`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_streams import _pull
from durable_streams._pull import Pull, Stage
from durable_streams._store import Presence, ProducerState, SealedBatch
from durable_streams._wire import Reply

FRESH_DISK = ProducerState("p", epoch=0, claimed=False, anchor=None, resolved_seq=0, batch=None)


class TestSettling:
    """A server is to be left: what became of the unresolved batch is found out there, and nothing begun."""

    @pytest.mark.parametrize("claimed", [False, True])
    def test_without_a_batch_nothing_is_asked(self, *, claimed: bool) -> None:
        disk = replace(FRESH_DISK, claimed=claimed, anchor="0000")
        state, command = _pull.start(disk, _pull.Policy(settle=True))
        assert command == _pull.Halt(_pull.Stop.SETTLED, "nothing is unresolved")
        assert (state.stage, state.stop) == (Stage.STOPPED, _pull.Stop.SETTLED)
        assert not _pull.Stop.SETTLED.parked

    def test_a_closed_stream_without_the_batch_is_not_settled(self) -> None:
        batch = SealedBatch(0, 1, b"[1]", 1)
        disk = replace(FRESH_DISK, claimed=True, anchor="0001", batch=batch)
        state, _ = _pull.start(disk, _pull.Policy(settle=True))
        state, _ = _pull.react(state, _pull.Answered(Reply(409, {"stream-closed": "true"})))
        tail = Reply(200, {"stream-next-offset": "0001", "content-type": "application/json"})
        _, command = _pull.react(state, _pull.Answered(tail))
        assert isinstance(command, _pull.Halt)
        assert command.stop is _pull.Stop.CLOSED


class TestIllegalEvents:
    def test_an_event_that_cannot_happen_is_refused(self) -> None:
        state, _ = _pull.start(FRESH_DISK, _pull.Policy())
        with pytest.raises(_pull.IllegalEventError):
            _pull.react(state, _pull.Found(Presence.ABSENT, "0"))

    def test_a_stopped_producer_does_nothing_more(self) -> None:
        state, _ = _pull.start(replace(FRESH_DISK, claimed=True, anchor="0"), _pull.Policy())
        state, command = _pull.react(state, _pull.Answered(Reply(403, {"producer-epoch": "9"})))
        assert command == _pull.Halt(_pull.Stop.FENCED, state.trouble)
        with pytest.raises(_pull.IllegalEventError):
            _pull.react(state, _pull.Done())


class TestWithoutPermissionToRead:
    """HEAD or GET is refused: the server's own deduplication has to do (exactly-once without a read-back)."""

    ECHO = Reply(204, {"producer-epoch": "0", "producer-seq": "1"})

    def sent_twice(self, policy: _pull.Policy) -> Pull:
        """A producer whose batch was answered 204 after its first answer was lost."""
        batch = SealedBatch(0, 1, b"[1]", 1)
        disk = replace(FRESH_DISK, claimed=True, anchor="0001", batch=batch)
        state, _ = _pull.start(disk, policy)
        state = replace(state, stage=Stage.SEND, repeated=True)
        return _pull.react(state, _pull.Answered(self.ECHO))[0]

    @pytest.mark.parametrize("status", [403, 405, 501])
    def test_a_confirmed_repetition_is_resolved_when_the_server_refuses_head(self, status: int) -> None:
        state = self.sent_twice(_pull.Policy())
        state, command = _pull.react(state, _pull.Answered(Reply(status, {"stream-next-offset": "0009"})))
        assert isinstance(command, _pull.Resolve)
        assert command.offset == "0001", "the anchor stays: a lagging one is safe"

    def test_a_batch_on_a_closed_stream_is_not_asked_about_without_end(self) -> None:
        state = replace(self.sent_twice(_pull.Policy(read_back=False)), doubted=False, closed=True)
        tail = Reply(200, {"stream-next-offset": "0009", "content-type": "application/json"})
        _, command = _pull.react(state, _pull.Answered(tail))
        assert isinstance(command, _pull.Halt)
        assert command.stop is _pull.Stop.CLOSED
        assert "nobody knows whether the last batch is in it" in command.reason

    def test_a_confirmed_repetition_is_resolved_when_reading_back_is_switched_off(self) -> None:
        state = self.sent_twice(_pull.Policy(read_back=False))
        tail = Reply(200, {"stream-next-offset": "0009", "content-type": "application/json"})
        assert isinstance(_pull.react(state, _pull.Answered(tail))[1], _pull.Resolve)


def test_a_server_that_calls_every_claim_a_duplicate_is_not_asked_for_ever() -> None:
    state, command = _pull.start(replace(FRESH_DISK, anchor="0000"), _pull.Policy())
    look = Reply(200, {"stream-next-offset": "0000", "content-type": "application/json"})
    state, command = _pull.react(state, _pull.Answered(look))
    claims = 0
    while not isinstance(command, _pull.Halt):
        assert isinstance(command, _pull.PostClaim)
        claims += 1
        assert claims < 100
        echo = {"producer-epoch": str(command.attempt.epoch), "producer-seq": "0"}
        state, command = _pull.react(state, _pull.Answered(Reply(204, echo)))
        if isinstance(command, _pull.SaveEpoch):
            state, command = _pull.react(state, _pull.Done())
    assert command.stop is _pull.Stop.NOT_A_PRODUCER_SERVER


def test_a_path_that_is_not_the_servers_is_asked_less_and_less_often() -> None:
    state, command = _pull.start(FRESH_DISK, _pull.Policy())
    waits: list[int] = []
    while len(waits) < 5:
        if isinstance(command, _pull.Wait):
            waits.append(command.failures)
            state, command = _pull.react(state, _pull.Done())
        else:
            state, command = _pull.react(state, _pull.Answered(Reply(404, {})))
    assert waits == sorted(set(waits))
