"""How a producer begins (`_pull`): look, create, claim an epoch, or ask what the server remembers. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_streams._producer import PROBE_SEQ, Attempt, Verdict, judge
from durable_streams._pull_steps import (
    begin_repair,
    calm,
    common,
    enter,
    gone,
    halt,
    look_for_batch,
    no_news,
    repair,
    shows_tail,
    wait,
    wrong_content_type,
)
from durable_streams._pull_types import SaveAnchor, SaveClaim, SaveEpoch, Stage, Stop
from durable_streams._wire import PRODUCER_SEQ, STREAM_CLOSED, STREAM_NEXT_OFFSET, Answer, Reply

if TYPE_CHECKING:
    from durable_streams._pull_types import Pull, Step

MAX_CLAIMS: Final = 8
"""A server that calls more claims than this duplicates in a row is none: each costs an epoch on disk."""


def on_look(state: Pull, answer: Answer, at: float) -> Step:
    """HEAD was answered."""
    if isinstance(answer, Reply):
        if shows_tail(answer):
            return _seen(state, answer)
        # A stream that was ours and is gone is created again only when an operator says so.
        was_ours = (state.stored.repairing or bool(state.due)) and not state.policy.claim
        if answer.status == 404 and state.policy.create and not was_ours:
            # No proof needed that this 404 is the stream server's: the PUT brings the proof, or fails.
            return enter(replace(state, stage=Stage.CREATE))
        if answer.status == 404 and not was_ours:
            return wait(state, "the stream does not exist, and creating it is not wanted: HTTP 404")
        if (ended := gone(state, answer, "the stream is gone")) is not None:
            return ended
    return no_news(state, answer, at)


def on_create(state: Pull, answer: Answer, at: float) -> Step:
    """PUT was answered."""
    if isinstance(answer, Reply):
        if answer.status in {200, 201} and STREAM_NEXT_OFFSET in answer.headers:
            return _seen(state, answer)
        if answer.status == 409:
            # Somebody created it since, with another configuration; HEAD tells which.
            return wait(replace(state, stage=Stage.LOOK), "the stream exists with another configuration")
    # A lost answer to PUT is harmless: HEAD looks again.
    return no_news(replace(state, stage=Stage.LOOK), answer, at)


def _seen(state: Pull, reply: Reply) -> Step:
    if (wrong := wrong_content_type(state, reply)) is not None:
        return wrong
    if reply.is_true(STREAM_CLOSED):
        return halt(state, Stop.CLOSED, "the stream is closed: it takes no more records, ever")
    if state.due:
        return begin_repair(state, state.stored.epoch + 1, state.due)
    claiming = calm(state, stage=Stage.CLAIM)
    if state.stored.anchor is not None:
        return enter(claiming)
    tail = reply.headers[STREAM_NEXT_OFFSET]
    return replace(claiming, stored=replace(state.stored, anchor=tail)), SaveAnchor(tail)


def on_claim(state: Pull, answer: Answer, at: float) -> Step:
    """The claim was answered."""
    attempt = Attempt(state.stored.epoch, 0, state.repeated)
    judgement = judge(attempt, answer)
    match judgement.verdict:
        case Verdict.APPENDED if state.stored.repairing:
            return enter(calm(state, stage=Stage.TAIL, repeated=False))
        case Verdict.APPENDED:
            stored = replace(state.stored, claimed=True, resolved_seq=0, batch=None)
            after = calm(state, stage=Stage.IDLE, stored=stored, repeated=False, fencing=False)
            return after, SaveClaim(stored.epoch)
        case Verdict.DUPLICATE | Verdict.DUPLICATE_UNSENT:
            counts = state.policy.recover or state.policy.halt_if_used or state.fencing
            if counts and isinstance(answer, Reply) and answer.integer(PRODUCER_SEQ):
                return _used_before(state, judgement.detail)
            return _claim_higher(state, judgement.detail)
        case Verdict.FORGOTTEN | Verdict.AHEAD | Verdict.EPOCH_BEHIND:
            return wait(state, f"{judgement.verdict.value}, in answer to a claim: {judgement.detail}")
        case _:
            return common(state, judgement, answer, at)


def _used_before(state: Pull, detail: str) -> Step:
    """The server has batches of an epoch that this store never had confirmed: what is open may be among them."""
    why = (
        f"the server has batches of epoch {state.stored.epoch}, which this store never claimed: it is an old "
        f"copy, or a second producer runs with its identity ({detail})"
    )
    if state.fencing:
        return begin_repair(state, state.stored.epoch + 1, why)
    return halt(state, Stop.SERVER_AHEAD, why)


def _claim_higher(state: Pull, detail: str) -> Step:
    """An earlier process's claim, or a stranger's. Only a 200 counts, so take a higher epoch."""
    if state.claims >= MAX_CLAIMS:
        return halt(
            state,
            Stop.NOT_A_PRODUCER_SERVER,
            f"the server calls each of {state.claims + 1} claims, all of new epochs, a duplicate: {detail}",
        )
    epoch = state.stored.epoch + 1
    counted = replace(state, claims=state.claims + 1)
    if state.stored.repairing:
        return begin_repair(replace(counted, repairs=state.repairs - 1), epoch, detail)
    if state.policy.recover:
        # The earlier process may have gone further than this store knows, if that was rolled back.
        return begin_repair(counted, epoch, f"an earlier claim was confirmed: {detail}")
    return calm(counted, stored=replace(state.stored, epoch=epoch), repeated=False), SaveEpoch(epoch)


def on_probe(state: Pull, answer: Answer, at: float) -> Step:
    """The probe was answered."""
    judgement = judge(Attempt(state.stored.epoch, PROBE_SEQ), answer)
    match judgement.verdict:
        case Verdict.FORGOTTEN:
            return on_remembered(state, judgement.expected_seq or 0)
        case Verdict.APPENDED | Verdict.DUPLICATE | Verdict.DUPLICATE_UNSENT:
            return halt(
                state,
                Stop.NOT_A_PRODUCER_SERVER,
                f"the server took a number out of order: it does not check producers ({judgement.detail})",
            )
        case Verdict.CLOSED if state.batch is not None:
            return look_for_batch(calm(state, closed=True))
        case Verdict.EPOCH_BEHIND | Verdict.REFUSED:
            return repair(
                state,
                Stop.SERVER_BEHIND,
                f"the server is at an earlier epoch than {state.stored.epoch}: {judgement.detail}",
            )
        case _:
            return common(state, judgement, answer, at)


def on_remembered(state: Pull, expected: int) -> Step:
    """The server would take this number next: compare with what is on disk."""
    stored = state.stored
    if expected == 0:
        return repair(state, Stop.FORGOTTEN, "the server forgot this producer")
    if expected - 1 > stored.sealed_seq:
        return halt(
            state,
            Stop.SERVER_AHEAD,
            f"the server has batch {expected - 1} of epoch {stored.epoch}, this store sealed only "
            f"{stored.sealed_seq}: it is an old copy, or a second producer runs with its identity",
        )
    if expected - 1 < stored.resolved_seq:
        return repair(
            state,
            Stop.SERVER_BEHIND,
            f"the server has batch {expected - 1} of epoch {stored.epoch}, but it confirmed "
            f"{stored.resolved_seq} before: it lost what it confirmed",
        )
    if state.batch is None:
        return enter(calm(state, stage=Stage.IDLE, fencing=False))
    return look_for_batch(calm(state))
