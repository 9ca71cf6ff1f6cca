"""Defects that the exploration must find: each is one function replaced, and is shown by a named set of faults.

`tests/faults/test_mutants.py` changes the source; here a test runs in this process, as the explorer is quick.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ds_gateway.journal.book import Book, Portion
from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.journal.survey import JournalSurvey
from durable_streams import _pull, _pull_begin, _pull_send, _pull_steps
from durable_streams._pull import Policy, Pull, Stage
from durable_streams._store import Presence
from durable_streams._wire import Reply
from harness.producer_explorer import Explorer, Violation
from harness.producer_worlds import Fate, Limits

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

    from durable_streams._pull import Step, Stop
    from durable_streams._store import ProducerState
    from durable_streams._wire import Answer

Patch = pytest.MonkeyPatch
SMALL = (1, 1)


def assert_found(limits: Limits, *shown: str) -> None:
    """The exploration fails, and says one of these."""
    with pytest.raises(Violation) as raised:
        Explorer(limits).run()
    first = str(raised.value).partition("\nafter these steps:")[0]
    assert any(text in first for text in shown), first


def long(limits: Limits) -> ParameterSet:
    """Of the long tests."""
    return pytest.param(limits, marks=pytest.mark.soak)


TORN = Limits(Fate(losses=1, torn=1), groups=SMALL)
FENCED = Limits(Fate(crashes=2), groups=(1,), early=1, policies=(Policy(recover=True, fence_on_start=True),))
DOUBLED = Limits(Fate(doubles=1, forgets=1), groups=(1,), early=1)
RESTORED = Limits(Fate(crashes=1, restores=1), groups=SMALL, early=2)
GONE_BACK = Limits(Fate(restores=1, trims=1, forgets=1), groups=(1, 1, 1), early=3)
TRIMMED = Limits(Fate(crashes=1, restores=1, forgets=1), groups=(1, 1, 1), early=3, keep=2)
CHANGING = Limits(Fate(losses=1, changes=2), groups=(2,), early=1)


@pytest.mark.parametrize(
    "limits", [TORN, FENCED, DOUBLED, RESTORED, long(GONE_BACK), long(TRIMMED), CHANGING], ids=str
)
def test_nothing_is_found_without_a_defect(limits: Limits) -> None:
    explorer = Explorer(limits)
    explorer.run()
    assert explorer.completed


def test_the_anchor_moves_when_the_end_is_seen(monkeypatch: Patch) -> None:
    real = _pull_send._on_tail

    def moved(state: Pull, reply: Reply) -> Step:
        after, command = real(state, reply)
        if after.stage is Stage.READ:
            after = replace(after, stored=replace(after.stored, anchor=after.tail))
            return _pull_steps.enter(after)
        return after, command

    monkeypatch.setattr(_pull_send, "_on_tail", moved)
    assert_found(TORN, "stored twice", "nothing here may stop it")


def test_an_unanswered_batch_is_not_looked_for(monkeypatch: Patch) -> None:
    def absent(state: Pull, reply: Reply) -> Step:
        return _pull_send.on_found(replace(state, tail=reply.headers["stream-next-offset"]), Presence.ABSENT, "")

    monkeypatch.setattr(_pull_send, "_on_tail", absent)
    assert_found(TORN, "stored twice", "would be sent")


def test_whoever_is_on_the_way_may_say_that_the_stream_is_not_to_be_read(monkeypatch: Patch) -> None:
    def believed(_state: Pull, answer: Answer) -> bool:
        return isinstance(answer, Reply) and answer.status in {403, 405, 501}

    monkeypatch.setattr(_pull_send, "may_not_read", believed)
    assert_found(TORN, "stored twice", "would be sent")


def test_a_repair_goes_on_under_the_claim_of_an_earlier_process(monkeypatch: Patch) -> None:
    """Its claim may still be on the way, and something else of ours before it."""
    real = _pull.start

    def trusting(stored: ProducerState, policy: Policy) -> Step:
        if stored.repairing:
            return _pull_steps.enter(Pull(Stage.TAIL, stored, policy))
        return real(stored, policy)

    monkeypatch.setattr(_pull, "start", trusting)
    assert_found(FENCED, "stored twice", "would be sent")


def test_records_ride_on_the_claims_number(monkeypatch: Patch) -> None:
    """A server that forgot takes number 0 from anybody: also from a copy of a request that it has stored."""
    real = _pull_steps.enter

    def unclaimed(state: Pull) -> Step:
        if state.stage is not Stage.CLAIM or state.stored.repairing:
            return real(state)
        stored = replace(state.stored, claimed=True, resolved_seq=-1)
        return replace(state, stage=Stage.IDLE, stored=stored), _pull.SaveClaim(stored.epoch)

    confirm = Book.confirm_claim

    def from_zero(book: Book, epoch: int) -> None:
        confirm(book, epoch)
        book.resolved_seq = -1

    monkeypatch.setattr(_pull_begin, "enter", unclaimed)
    monkeypatch.setattr(_pull, "enter", unclaimed)
    monkeypatch.setattr(Book, "confirm_claim", from_zero)
    assert_found(DOUBLED, "stored twice", "would be sent")


def test_there_is_no_second_batch_in_flight() -> None:
    """No mutant can have a window of two: the book has room for one sealed run, and the machine for one batch."""
    book = Book(1, "s", "http://model.test", "p", "aaaaaa")
    portion = Portion(last_segment=1, last_end=None, first_position=1, last_position=1, count=1, size=1)
    book.accept(1, 1)
    book.accept(1, 1)
    book.seal(portion)
    with pytest.raises(AssertionError, match="one batch in flight"):
        book.seal(replace(portion, last_segment=2))


def test_a_repair_reads_from_the_last_anchor(monkeypatch: Patch) -> None:
    from_the_last(monkeypatch)
    monkeypatch.setattr(JournalSurvey, "incomplete", False)
    assert_found(RESTORED, "stored twice", "would be sent")


def test_reading_from_the_last_anchor_is_made_good_by_a_second_read(monkeypatch: Patch) -> None:
    """What was confirmed and is not found behind the anchor is looked for in the whole stream."""
    from_the_last(monkeypatch)
    Explorer(RESTORED).run()


def from_the_last(monkeypatch: Patch) -> None:
    async def begin(self: StreamStore) -> JournalSurvey:
        survey = await real(self)
        survey.anchor = self._book.anchor
        return survey

    real = StreamStore.begin_survey
    monkeypatch.setattr(StreamStore, "begin_survey", begin)


def test_what_the_server_lost_is_not_looked_for_from_the_beginning(monkeypatch: Patch) -> None:
    monkeypatch.setattr(JournalSurvey, "incomplete", False)
    assert_found(GONE_BACK, "nothing tells that", "stored twice", "would be sent")


def test_the_oldest_anchor_moves_to_an_offset_from_before_a_repair(monkeypatch: Patch) -> None:
    """The second read makes that good, too: without it, it is found."""
    drop = Book.drop_kept

    def anywhere(book: Book, last_segment: int, size: int, offset: str) -> None:
        drop(book, last_segment, size, offset)
        book.kept_anchor = offset

    monkeypatch.setattr(Book, "drop_kept", anywhere)
    monkeypatch.setattr(JournalSurvey, "incomplete", False)
    assert_found(TRIMMED, "stored twice", "would be sent", "nothing tells that")


def test_a_refused_batch_is_halved_under_its_number_though_it_may_arrive(monkeypatch: Patch) -> None:
    real = _pull_steps.rejected

    def certain(state: Pull, stop: Stop, why: str) -> Step:
        return real(replace(state, repeated=False, late=False), stop, why)

    monkeypatch.setattr(_pull_send, "rejected", certain)
    assert_found(CHANGING, "stored twice", "would be sent", "nothing here may stop it")
