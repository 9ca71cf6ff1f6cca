"""How a producer sends (`_pull`): a batch, and what became of one that was not answered, or refused. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from durable_streams._producer import PROBE_SEQ, Attempt, Verdict, judge
from durable_streams._pull_begin import on_remembered
from durable_streams._pull_reading import may_not_read, not_kept, not_read
from durable_streams._pull_steps import (
    MAX_ASIDES,
    anchor,
    calm,
    common,
    enter,
    gone,
    halt,
    look_for_batch,
    rejected,
    repair,
    shows_tail,
    unproved,
    unresolved,
    wait,
    wrong_content_type,
)
from durable_streams._pull_types import Reseal, Resolve, SetAside, Stage, Stop
from durable_streams._store import Presence
from durable_streams._wire import STREAM_CLOSED, STREAM_NEXT_OFFSET, Answer, Reply

if TYPE_CHECKING:
    from durable_streams._pull_types import Pull, Step
    from durable_streams._store import SealedBatch


def on_send(state: Pull, answer: Answer, at: float) -> Step:
    """The batch was answered."""
    batch = unresolved(state)
    judgement = judge(Attempt(batch.epoch, batch.seq, state.repeated), answer)
    why = f"{judgement.verdict.value}: {judgement.detail}"
    match judgement.verdict:
        case Verdict.APPENDED:
            return _resolved(state, judgement.offset or "")
        case Verdict.DUPLICATE:
            return look_for_batch(calm(state, doubted=True))
        case Verdict.CLOSED if state.repeated:
            return look_for_batch(calm(state, closed=True))
        case Verdict.PATH_BROKEN if isinstance(answer, Reply) and answer.status == 413:
            # Whoever measured the body did not pass it on, or it has arrived: it will not arrive later.
            return unproved(replace(state, repeated=True), answer, at, why)
        case Verdict.AMBIGUOUS | Verdict.PATH_BROKEN:
            # Looked up first, and only then sent again: HEAD doubles as the next attempt to get through.
            look = replace(
                state, repeated=True, late=True, stage=Stage.HEAD if state.policy.read_back else Stage.SEND
            )
            return unproved(look, answer, at, why)
        case Verdict.CONTENT_TYPE:
            return wait(replace(state, stage=Stage.HEAD), why)
        case Verdict.TOO_LARGE:
            return rejected(state, Stop.TOO_LARGE, why)
        case Verdict.REFUSED:
            return rejected(state, Stop.REFUSED, why)
        case _:
            return common(state, judgement, answer, at)


def on_check(state: Pull, answer: Answer, at: float) -> Step:
    """The probe after a refusal was answered: only a number that the server waits for may be used again."""
    batch = unresolved(state)
    stop, why = state.rejected or Stop.REFUSED, state.rejection
    judgement = judge(Attempt(state.stored.epoch, PROBE_SEQ), answer)
    if judgement.verdict is Verdict.REFUSED:
        # It refuses the probe as well, as a server does that went back to an earlier epoch.
        return repair(state, Stop.SERVER_BEHIND, f"{why}; so is a probe: {judgement.detail}")
    if judgement.verdict is not Verdict.FORGOTTEN:
        return common(state, judgement, answer, at)
    if judgement.expected_seq != batch.seq:
        if judgement.expected_seq == batch.seq + 1:
            # An earlier attempt arrived after all. Or not, and it is refused again: never without a pause.
            return wait(replace(state, stage=Stage.HEAD), f"{why}; yet the server says that it has this batch")
        return on_remembered(replace(state, stage=Stage.SEND), judgement.expected_seq or 0)
    may_split = state.policy.recover if stop is Stop.TOO_LARGE else state.policy.bisect
    if not may_split:
        return halt(state, stop, why)
    if state.late:
        # An earlier attempt may still arrive: only a higher epoch keeps it out for certain.
        return repair(state, stop, why)
    if batch.count > 1:
        return calm(state), Reseal((batch.count + 1) // 2)
    if state.asides >= MAX_ASIDES:
        return halt(state, stop, f"{why}; also for single records: {state.asides} set aside in a row")
    return calm(state, asides=state.asides + 1), SetAside(why)


def on_smaller(state: Pull, batch: SealedBatch) -> Step:
    """What was refused is sealed smaller, under the same number."""
    limit = len(batch.body) if state.rejected is Stop.TOO_LARGE else state.limit_bytes
    return enter(
        replace(state, stage=Stage.SEND, batch=batch, repeated=False, late=False, rejected=None, limit_bytes=limit)
    )


def on_head(state: Pull, answer: Answer, at: float) -> Step:
    """HEAD was answered while a batch is in doubt."""
    if isinstance(answer, Reply):
        if shows_tail(answer):
            return _on_tail(state, answer)
        if (ended := gone(state, answer, "the stream is gone while a batch is unresolved")) is not None:
            return ended
    if may_not_read(state, answer):
        return _without_reading(state)
    return not_read(state, answer, at)


def _on_tail(state: Pull, reply: Reply) -> Step:
    if (wrong := wrong_content_type(state, reply)) is not None:
        return wrong
    tail, before = reply.headers[STREAM_NEXT_OFFSET], anchor(state)
    seen = replace(state, tail=tail, closed=state.closed or reply.is_true(STREAM_CLOSED))
    if not state.policy.read_back:
        return _without_reading(seen)
    if tail < before:
        why = f"the stream ends at {tail}, before {before}: the server went back"
        return repair(seen, Stop.SERVER_BEHIND, why)
    if tail == before:
        return on_found(seen, Presence.ABSENT, tail)
    return enter(replace(seen, stage=Stage.READ))


def on_read(state: Pull, answer: Answer, at: float) -> Step:
    """The read-back broke off."""
    if isinstance(answer, Reply) and answer.status == 410:
        return not_kept(state, answer, at)
    if may_not_read(state, answer):
        return _without_reading(state)
    return not_read(state, answer, at)


def _without_reading(state: Pull) -> Step:
    """The stream may not be read: the server's own deduplication has to do, and its word is taken."""
    if state.doubted:
        # A 204 that echoed a number which we had sent before, in an epoch that was claimed with a 200.
        return _resolved(state, anchor(state))
    if state.closed:
        return halt(
            state,
            Stop.CLOSED,
            "the stream is closed: it takes no more records, ever; and it may not be read, so that nobody knows "
            "whether the last batch is in it",
        )
    return enter(replace(state, stage=Stage.SEND))


def on_found(state: Pull, presence: Presence, end: str) -> Step:
    """The read-back is complete."""
    batch = unresolved(state)
    state = replace(state, vouched=False)
    match presence:
        case Presence.PRESENT:
            return _resolved(state, end)
        case Presence.ABSENT if state.doubted:
            # Whoever used the number left nothing of ours: the server lost it since, or never stored it.
            return repair(
                state,
                Stop.FOREIGN,
                f"the server says that batch {batch.seq} of epoch {batch.epoch} is in the stream, and it is not "
                "there: somebody else used our numbers",
            )
        case Presence.ABSENT if state.closed:
            return halt(state, Stop.CLOSED, "the stream is closed: it takes no more records, ever")
        case Presence.ABSENT:
            return enter(replace(state, stage=Stage.SEND))
        case Presence.PARTIAL:
            return repair(state, Stop.SERVER_BEHIND, f"only a part of batch {batch.seq} is in the stream")
        case Presence.FOREIGN:
            return halt(
                state,
                Stop.FOREIGN,
                "the stream has messages under this producer's identity that its store never sealed: a second one "
                "runs with a copy of it",
            )


def _resolved(state: Pull, offset: str) -> Step:
    batch = unresolved(state)
    stored = replace(state.stored, anchor=offset, resolved_seq=batch.seq, batch=None)
    # A closed stream shows itself again with the next batch, fresh: that one is parked without a doubt.
    after = calm(
        state,
        stage=Stage.IDLE,
        stored=stored,
        batch=None,
        repeated=False,
        late=False,
        doubted=False,
        closed=False,
        vouched=False,
        repairs=0,
        asides=0,
        refusal=0,
        refusals=0,
    )
    return after, Resolve(batch, offset)
