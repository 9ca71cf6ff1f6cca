"""Every stage of the producer's machine with every kind of answer: none is forgotten, no stranger's counts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from durable_streams import _pull
from durable_streams._producer import Attempt, Verdict, judge
from durable_streams._pull import Policy, Pull, Stage, Stop
from durable_streams._store import Presence, ProducerState, SealedBatch
from durable_streams._wire import Answer, Failure, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCH, SEQ, ANCHOR = 3, 7, "0005"
BATCH = SealedBatch(EPOCH, SEQ, b"[1,2]", 2)
STORED = ProducerState("p", EPOCH, claimed=True, anchor=ANCHOR, resolved_seq=SEQ - 1, batch=BATCH)
UNCLAIMED = replace(STORED, claimed=False, resolved_seq=0, batch=None)
REPAIRING = replace(UNCLAIMED, repairing=True)
WITH_A_BATCH = {Stage.SEND, Stage.HEAD, Stage.READ, Stage.CHECK, Stage.VOUCH}
ASKING = [stage for stage in Stage if stage not in {Stage.IDLE, Stage.STOPPED}]
POLICIES = [
    Policy(),
    Policy(recover=True),
    Policy(recover=True, fence_on_start=True),
    Policy(recover=True, claim=True),
    Policy(recover=True, bisect=True),
    Policy(read_back=False),
    Policy(create=False, settle=True),
    Policy(create=False, settle=True, recover=True),
]

ECHO = {"producer-epoch": str(EPOCH), "producer-seq": str(SEQ)}
CLAIM_ECHO = {"producer-epoch": str(EPOCH), "producer-seq": "0"}
NEXT = {"stream-next-offset": "0009"}
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}
HEADERS: list[dict[str, str]] = [
    {},
    JSON,
    HTML,
    {"retry-after": "5"},
    {"location": "http://portal.test/"},
    NEXT,
    {**NEXT, **JSON},
    {"stream-next-offset": ANCHOR, **JSON},
    {"stream-next-offset": "0001", **JSON},
    {**NEXT, "content-type": "text/plain"},
    {**NEXT, **JSON, "stream-closed": "true"},
    ECHO,
    {**ECHO, **NEXT},
    CLAIM_ECHO,
    {**CLAIM_ECHO, **NEXT},
    {"producer-epoch": str(EPOCH), "producer-seq": "9"},
    {"producer-epoch": str(EPOCH - 1)},
    {"producer-epoch": str(EPOCH + 1)},
    *({"producer-expected-seq": str(seq)} for seq in (0, SEQ - 1, SEQ, SEQ + 1, 2**53 - 1)),
]
STATUSES = [
    *(
        200,
        201,
        204,
        206,
        302,
        304,
        400,
        401,
        402,
        403,
        404,
        405,
        407,
        408,
        409,
        410,
        411,
        413,
        415,
        421,
        425,
        429,
    ),
    *(451, 500, 501, 502, 503, 504, 507, 511),
]
FAILURES = [Failure("timed out"), Failure("connection refused", sent=False)]
ANSWERS: list[Answer] = [
    *(Reply(status, headers) for status, headers in itertools.product(STATUSES, HEADERS)),
    *FAILURES,
]
STRANGERS: list[Answer] = [
    *(
        answer
        for answer in ANSWERS
        # A conflict of content types has no header of its own.
        if isinstance(answer, Reply) and not answer.from_stream_server and answer.status != 409
    ),
    *FAILURES,
]
ON_DISK = (
    _pull.SaveAnchor,
    _pull.SaveEpoch,
    _pull.SaveClaim,
    _pull.BeginRepair,
    _pull.SaveRepair,
    _pull.Reseal,
    _pull.SetAside,
    _pull.Resolve,
)


def states(policy: Policy) -> Iterator[Pull]:
    """A machine in each stage that asks something, with each thing that makes a difference there."""
    for stage in ASKING:
        stored = STORED
        if stage in {Stage.LOOK, Stage.CREATE, Stage.CLAIM}:
            stored = UNCLAIMED
        elif stage in {Stage.TAIL, Stage.SURVEY}:
            stored = REPAIRING
        batch = BATCH if stage in WITH_A_BATCH or stage is Stage.PROBE else None
        state = Pull(stage, stored, policy, batch=batch, tail="0009", rejected=Stop.TOO_LARGE)
        yield state
        if stage is Stage.VOUCH:
            yield replace(state, stored=REPAIRING, batch=None)
        if stage is Stage.SURVEY:
            yield replace(state, expired=True)
        if stage in {Stage.LOOK, Stage.CREATE}:
            yield replace(state, stored=REPAIRING, due="a repair was begun and not finished")
            yield replace(state, stored=replace(STORED, batch=None), due="an operator claims it", fencing=True)
        yield replace(state, repeated=True)
        if stage in WITH_A_BATCH:
            yield replace(state, repeated=True, doubted=True)
            yield replace(state, repeated=True, closed=True)
            yield replace(state, rejected=Stop.REFUSED, batch=replace(BATCH, count=1))
        if stage is Stage.PROBE:
            yield replace(state, batch=None, stored=replace(STORED, batch=None))
        if stage in {Stage.LOOK, Stage.CREATE, Stage.CLAIM}:
            yield replace(state, stored=replace(stored, anchor=None)) if stage is not Stage.CLAIM else state
            yield replace(state, stored=REPAIRING, fencing=True)
            yield replace(state, stored=REPAIRING, repairs=_pull.MAX_REPAIRS, claims=_pull.MAX_CLAIMS)


def named(policy: Policy) -> str:
    """What the policy allows."""
    return ",".join(name for name in Policy.__slots__ if getattr(policy, name)) or "nothing"


@pytest.mark.parametrize("policy", POLICIES, ids=named)
def test_every_answer_in_every_stage_leads_on(policy: Policy) -> None:
    """Nothing raises; what is on the disk changes with a command that saves it, and with no other."""
    asked = 0
    for state, answer in itertools.product(states(policy), ANSWERS):
        after, command = _pull.react(state, _pull.Answered(answer, 0.0))
        asked += 1
        saves = isinstance(command, ON_DISK)
        assert saves or after.stored == state.stored, (state, answer, command)
        assert (after.stage is Stage.STOPPED) == isinstance(command, _pull.Halt)
        if isinstance(command, _pull.Wait):
            assert after.trouble
            assert _pull.react(after, _pull.Done())[0].stored == after.stored
        if isinstance(command, _pull.BeginRepair):
            assert policy.recover or state.stored.repairing or state.fencing, (state, answer, command)
            assert command.epoch > state.stored.epoch
        if policy.settle and not state.stored.repairing and state.stage in WITH_A_BATCH:
            assert not isinstance(command, _pull.PostClaim | _pull.Put | _pull.NextBatch)
    print(f"{asked} answers")
    assert asked > 10_000


@pytest.mark.parametrize("policy", POLICIES, ids=named)
def test_a_strangers_answer_changes_nothing_on_the_disk_and_stops_nothing_at_once(policy: Policy) -> None:
    for state, answer in itertools.product(states(policy), STRANGERS):
        after, command = _pull.react(state, _pull.Answered(answer, 0.0))
        assert not isinstance(command, (*ON_DISK, _pull.Halt)), (state, answer, command)
        assert after.stored == state.stored
        if state.stage in {Stage.HEAD, Stage.READ}:
            assert not isinstance(command, _pull.PostBatch), "what is in doubt is not sent again without a look"


class TestRefusalsThatNobodyProved:
    """404, 410, 400 and 413 without a stream server's headers: three in a minute, and the path confirmed."""

    @pytest.mark.parametrize("status", [400, 404, 410, 413])
    @pytest.mark.parametrize("stage", [Stage.SEND, Stage.CLAIM, Stage.PROBE, Stage.TAIL])
    def test_they_count_after_three_in_a_minute_and_a_look_at_something_else(
        self, status: int, stage: Stage
    ) -> None:
        policy = Policy(create=False)
        state = next(each for each in states(policy) if each.stage is stage)
        for at in (0.0, 30.0, 59.9):
            state, command = self.refuse(state, status, at, stage)
            assert isinstance(command, _pull.Wait | _pull.Head), command
        state, command = self.refuse(state, status, 60.0, stage)
        assert isinstance(command, _pull.ConfirmPath), command
        waiting, command = _pull.react(state, _pull.PathConfirmed(confirmed=False))
        assert isinstance(command, _pull.Wait)
        assert waiting.refusals == 0
        _, command = _pull.react(state, _pull.PathConfirmed(confirmed=True))
        if stage is Stage.SEND and status in {400, 413}:
            assert isinstance(command, _pull.PostProbe | _pull.Halt), "what is in the batch is refused, it seems"
            return
        assert isinstance(command, _pull.Halt)
        expected = {400: Stop.REFUSED, 404: Stop.MISSING, 410: Stop.GONE, 413: Stop.TOO_LARGE}[status]
        assert command.stop is expected

    def refuse(self, state: Pull, status: int, at: float, stage: Stage) -> tuple[Pull, _pull.Command]:
        """One refusal; a batch in doubt is looked up in between, in vain."""
        state, command = _pull.react(state, _pull.Answered(Reply(status, {}), at))
        if isinstance(command, _pull.Wait):
            state, asked = _pull.react(state, _pull.Done())
            if stage is Stage.SEND and isinstance(asked, _pull.Head):
                state, _ = _pull.react(state, _pull.Answered(Reply(200, {**JSON, "stream-next-offset": ANCHOR})))
        return state, command

    def test_another_answer_in_between_does_not_make_them_fewer_but_another_refusal_does(self) -> None:
        state = next(each for each in states(Policy(create=False)) if each.stage is Stage.TAIL)
        for at in (0.0, 40.0):
            state, _ = _pull.react(state, _pull.Answered(Reply(404, {}), at))
        state, _ = _pull.react(state, _pull.Answered(Reply(410, {}), 50.0))
        assert (state.refusal, state.refusals, state.refused_since) == (410, 1, 50.0)

    def test_how_far_they_count_is_told(self) -> None:
        state = next(each for each in states(Policy(create=False)) if each.stage is Stage.TAIL)
        for at, count in ((0.0, 1), (1.0, 2), (2.0, 3), (3.0, 3)):
            state, _ = _pull.react(state, _pull.Answered(Reply(404, {}), at))
            assert state.trouble.endswith(f"HTTP 404; {count} of 3 within a minute, then it is believed")


class TestRefusedBatches:
    """What the probe after a refusal leads to, again and again."""

    REFUSED = Reply(400, {"stream-error": "refused"})

    def refused(self, policy: Policy, **changes: object) -> Pull:
        state = Pull(Stage.SEND, STORED, policy, batch=replace(BATCH, count=1))
        state, command = _pull.react(replace(state, **changes), _pull.Answered(self.REFUSED))  # type: ignore[arg-type]
        assert isinstance(command, _pull.PostProbe)
        return state

    def test_one_that_the_server_says_it_has_is_not_looked_for_without_a_pause(self) -> None:
        has_it = Reply(409, {"producer-expected-seq": str(SEQ + 1), "producer-received-seq": "9"})
        state = self.refused(Policy(recover=True), repeated=True)
        state, command = _pull.react(state, _pull.Answered(has_it))
        assert isinstance(command, _pull.Wait)
        assert "the server says that it has this batch" in state.trouble
        state, command = _pull.react(state, _pull.Done())
        assert (state.stage, command) == (Stage.HEAD, _pull.Head())

    def test_a_server_that_refuses_every_record_stops_the_stream_and_not_all_records(self) -> None:
        waits_for_it = Reply(409, {"producer-expected-seq": str(SEQ), "producer-received-seq": "9"})
        policy = Policy(recover=True, bisect=True)
        state = self.refused(policy)
        aside = 0
        while True:
            state, command = _pull.react(state, _pull.Answered(waits_for_it))
            if not isinstance(command, _pull.SetAside):
                break
            aside += 1
            state, command = _pull.react(state, _pull.Sealed(replace(BATCH, count=1)))
            assert isinstance(command, _pull.PostBatch)
            state, _ = _pull.react(state, _pull.Answered(self.REFUSED))
        assert aside == 3
        assert isinstance(command, _pull.Halt)
        assert command.stop is Stop.REFUSED
        assert command.reason.endswith("also for single records: 3 set aside in a row")

    def test_a_batch_that_gets_through_makes_the_count_begin_again(self) -> None:
        state = Pull(Stage.SEND, STORED, Policy(recover=True), batch=BATCH, asides=3)
        state, command = _pull.react(state, _pull.Answered(Reply(200, {**ECHO, **NEXT})))
        assert isinstance(command, _pull.Resolve)
        assert state.asides == 0


def test_every_verdict_is_met() -> None:
    """The answers above are all there are: each verdict on a batch is among their meanings."""
    attempts = [Attempt(EPOCH, SEQ), Attempt(EPOCH, SEQ, repeated=True)]
    met = {judge(attempt, answer).verdict for attempt, answer in itertools.product(attempts, ANSWERS)}
    assert met == set(Verdict) - {Verdict.ENDED}, "a batch never closes the stream"


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("presence", Presence)
def test_whatever_was_found_leads_on(presence: Presence, policy: Policy) -> None:
    for state in states(policy):
        if state.stage is Stage.READ:
            after, command = _pull.react(state, _pull.Found(presence, "0009"))
            assert isinstance(command, ON_DISK) or after.stored == state.stored
            if presence is not Presence.PRESENT:
                assert not isinstance(command, _pull.Resolve), "only what was found is resolved"
