from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.mqtt.dedupe import GateView
from ds_gateway.mqtt.dialogue import Committed, Dialogue
from ds_gateway.mqtt.events import Connack, Suback
from ds_gateway.mqtt.marks import Mark
from ds_gateway.mqtt.subscription import Plan, plan
from ds_gateway.mqtt.tokens import Opening, SessionStart, Subscribed
from ds_gateway.records import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

WANTED = ("a/+", "b/#")
NOTHING = Plan((), ())


def subscribed(*filters: str, qos: int = 1, generation: int = 0) -> Subscribed:
    return Subscribed(filters, qos, generation)


def committed(*tokens: object, commit: int = 5, session: int = 1, has: Subscribed | None = None) -> Committed:
    view = GateView(session=session, subscribed=has)
    return Committed([Item(None, token) for token in tokens], commit, view)


def opened(mark: Mark | None = None, *, this_boot: bool = True, has: Subscribed | None = None) -> Dialogue:
    dialogue = Dialogue(WANTED, 1)
    token = dialogue.opening(None if mark is None else (mark, this_boot), None)
    dialogue.committed(committed(token, has=has))
    dialogue.connecting()
    return dialogue


class TestAPlan:
    def test_asks_for_everything_when_nothing_is_known(self) -> None:
        assert plan(WANTED, 1, None) == Plan(WANTED, ())

    def test_asks_for_nothing_that_the_session_has(self) -> None:
        assert not plan(WANTED, 1, subscribed(*WANTED))

    def test_asks_for_what_is_new_and_ends_what_is_no_longer_wanted(self) -> None:
        assert plan(WANTED, 1, subscribed("a/+", "c")) == Plan(("b/#",), ("c",))

    def test_asks_again_for_another_quality_of_service(self) -> None:
        assert plan(WANTED, 0, subscribed(*WANTED)) == Plan(WANTED, ())


class TestOpening:
    def test_believes_a_mark_of_this_boot(self) -> None:
        dialogue = opened(Mark(session=1, commit=3, settled=True))
        assert dialogue.opened
        assert dialogue.mark == Mark(session=1, commit=3, settled=False)

    def test_takes_everything_for_acknowledged_after_another_boot(self) -> None:
        assert opened(Mark(session=1, commit=3, settled=True), this_boot=False).mark.commit == 5

    def test_takes_everything_for_acknowledged_without_a_mark(self) -> None:
        assert opened().mark == Mark(session=1, commit=5, settled=False)

    def test_tells_the_gate_what_was_found(self) -> None:
        dialogue = Dialogue(WANTED, 1)
        assert dialogue.opening((Mark(2, 3, settled=True), True), 3) == Opening(acked=3, session=2)
        assert dialogue.opening((Mark(2, 3, settled=True), False), 3) == Opening(acked=None, session=2)

    @pytest.mark.parametrize("this_boot", [True, False])
    def test_tells_the_gate_how_far_the_journal_is_behind(self, *, this_boot: bool) -> None:
        found = (Mark(2, 7, settled=True), this_boot)
        assert Dialogue(WANTED, 1).opening(found, 7, 99).beyond == 0
        behind = Dialogue(WANTED, 1).opening(found, 4, 99)
        assert (behind.beyond, behind.time_ns) == (3, 99)
        assert Dialogue(WANTED, 1).opening(found, None, 99).beyond == 0


class TestAConnackWithASession:
    def test_needs_nothing_more_when_the_session_has_the_filters(self) -> None:
        dialogue = opened(Mark(1, 3, settled=True), has=subscribed(*WANTED))
        token, asked = dialogue.connack(Connack(session_present=True))
        assert token == SessionStart(present=True, acked=3, generation=1)
        assert asked == NOTHING
        assert dialogue.mark.settled

    def test_asks_for_what_is_missing(self) -> None:
        dialogue = opened(Mark(1, 3, settled=True), has=subscribed("a/+", "old"))
        assert dialogue.connack(Connack(session_present=True))[1] == Plan(("b/#",), ("old",))
        assert not dialogue.mark.settled

    def test_asks_for_everything_when_the_last_connack_may_have_been_lost(self) -> None:
        dialogue = opened(Mark(1, 3, settled=True), has=subscribed(*WANTED))
        dialogue.connecting()
        assert dialogue.connack(Connack(session_present=True))[1] == Plan(WANTED, ())

    def test_asks_for_everything_when_the_last_process_did_not_settle(self) -> None:
        dialogue = opened(Mark(1, 3, settled=False), has=subscribed(*WANTED))
        assert dialogue.connack(Connack(session_present=True))[1] == Plan(WANTED, ())


class TestAConnackWithoutASession:
    def test_asks_for_nothing_before_r0_is_committed(self) -> None:
        dialogue = opened(Mark(1, 3, settled=True), has=subscribed(*WANTED))
        token, asked = dialogue.connack(Connack(session_present=False))
        assert asked is None
        assert dialogue.committed(committed(token, commit=6, session=2)) == Plan(WANTED, ())
        assert dialogue.mark == Mark(session=2, commit=3, settled=False)

    def test_asks_for_nothing_when_the_connection_is_another_by_then(self) -> None:
        dialogue = opened()
        token, _ = dialogue.connack(Connack(session_present=False))
        dialogue.connecting()
        assert dialogue.committed(committed(token, commit=6, session=2)) is None
        assert dialogue.connack(Connack(session_present=True))[1] == Plan(WANTED, ())


class TestASuback:
    def answered(self, granted: Sequence[str], has: Subscribed | None = None) -> Subscribed:
        dialogue = opened(Mark(1, 3, settled=True), has=has)
        dialogue.connack(Connack(session_present=True))
        return dialogue.suback(Suback(tuple(granted), {}))

    def test_tells_the_gate_what_was_granted(self) -> None:
        assert self.answered(["a/+"]) == subscribed("a/+", generation=1)

    def test_tells_the_gate_what_the_session_had_already(self) -> None:
        assert self.answered(["b/#"], subscribed("a/+")) == subscribed(*WANTED, generation=1)

    def test_is_settled_once_it_is_committed(self) -> None:
        dialogue = opened()
        dialogue.connack(Connack(session_present=True))
        token = dialogue.suback(Suback(WANTED, {}))
        settled = [dialogue.mark.settled]
        dialogue.committed(committed(token, commit=7, has=token))
        settled.append(dialogue.mark.settled)
        assert settled == [False, True]
        dialogue.connecting()
        assert dialogue.connack(Connack(session_present=True))[1] == NOTHING

    def test_of_another_connection_settles_nothing(self) -> None:
        dialogue = opened()
        dialogue.connack(Connack(session_present=True))
        token = dialogue.suback(Suback(WANTED, {}))
        dialogue.connecting()
        dialogue.committed(committed(token, commit=7, has=token))
        assert not dialogue.mark.settled


class TestAcknowledging:
    def test_moves_the_mark_once_it_is_written(self) -> None:
        dialogue = opened()
        written = dialogue.acknowledging(9)
        assert written.commit == 9
        assert dialogue.mark.commit == 5
        dialogue.mark = written
        assert dialogue.connack(Connack(session_present=True))[0].acked == 9

    def test_of_nothing_leaves_it(self) -> None:
        dialogue = opened()
        assert dialogue.acknowledging(None) == dialogue.mark
