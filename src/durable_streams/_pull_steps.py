"""Steps that several stages of the producer's state machine (`_pull`) have in common. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_streams._producer import PROBE_SEQ, Attempt, Judgement, Verdict
from durable_streams._pull_types import (
    BeginRepair,
    ConfirmPath,
    Halt,
    Head,
    IllegalEventError,
    NextBatch,
    PostBatch,
    PostClaim,
    PostProbe,
    Put,
    ReadAllBack,
    ReadBack,
    Stage,
    Stop,
    Wait,
)
from durable_streams._wire import STREAM_NEXT_OFFSET, Answer, Failure, Reply, media_type

if TYPE_CHECKING:
    from durable_streams._pull_types import Pull, Step
    from durable_streams._store import SealedBatch

MAX_REPAIRS: Final = 6
"""A server that forgets more often without taking one batch is none: each repair leaves a claim behind."""
MAX_ASIDES: Final = 3
"""A server that refuses every record, as one whose quota is used up, is no reason to set all of them aside."""
REFUSALS_COUNT: Final = 3
REFUSED_SECONDS: Final = 60.0
"""Refusals that anybody on the way could have made count when there are so many of them, over so long."""

_SETTLED: Final = "nothing is unresolved"


def enter(state: Pull) -> Step:
    """The command that a stage begins with."""
    stored = state.stored
    match state.stage:
        case Stage.LOOK | Stage.HEAD | Stage.TAIL:
            return state, Head()
        case Stage.CREATE:
            return state, Put()
        case Stage.CLAIM:
            return state, PostClaim(Attempt(stored.epoch, 0, state.repeated))
        case Stage.PROBE | Stage.CHECK | Stage.VOUCH:
            return state, PostProbe(Attempt(stored.epoch, PROBE_SEQ))
        case Stage.IDLE if state.policy.settle:
            return replace(state, stage=Stage.STOPPED, stop=Stop.SETTLED), Halt(Stop.SETTLED, _SETTLED)
        case Stage.IDLE:
            return state, NextBatch(state.limit_bytes)
        case Stage.SEND:
            batch = unresolved(state)
            return state, PostBatch(Attempt(batch.epoch, batch.seq, state.repeated), batch)
        case Stage.READ:
            return state, ReadBack(unresolved(state), anchor(state), state.tail)
        case Stage.SURVEY:
            return state, ReadAllBack(state.tail, expired=state.expired, leniently=state.policy.claim)
        case Stage.STOPPED:  # pragma: no cover - Halt ends the run, nothing enters it again
            raise IllegalEventError("the producer has stopped")


def unresolved(state: Pull) -> SealedBatch:
    """The batch of a stage that has one."""
    assert state.batch is not None, "only stages with a batch ask for it"
    return state.batch


def anchor(state: Pull) -> str:
    """The offset before everything unresolved."""
    assert state.stored.anchor is not None, "the anchor is saved before the first claim"
    return state.stored.anchor


def wait(state: Pull, why: str, *, reply: Reply | None = None, renew: bool = False) -> Step:
    """Try again later."""
    failed = replace(state, failures=state.failures + 1, trouble=why)
    return failed, Wait(state.failures, reply, renew_credentials=renew)


def halt(state: Pull, stop: Stop, reason: str) -> Step:
    """Stop for good."""
    return replace(state, stage=Stage.STOPPED, stop=stop, trouble=reason), Halt(stop, reason)


def calm(state: Pull, **changes: object) -> Pull:
    """The state after an attempt that succeeded."""
    return replace(state, failures=0, trouble="", **changes)  # type: ignore[arg-type]


# -- Repair ----------------------------------------------------------------------------------------


def repair(state: Pull, stop: Stop, why: str) -> Step:
    """Read everything of ours back under a higher epoch, if that may be done without anybody's decision."""
    if not state.policy.recover:
        return halt(state, stop, why)
    if state.repairs >= MAX_REPAIRS:
        return halt(state, stop, f"{why}; this is so after {state.repairs} repairs in a row")
    return begin_repair(state, state.stored.epoch + 1, why)


def begin_repair(state: Pull, epoch: int, why: str) -> Step:
    """Commit the higher epoch. Nothing that an earlier claim achieved is trusted."""
    stored = replace(state.stored, epoch=epoch, claimed=False, resolved_seq=0, batch=None, repairing=True)
    after = calm(
        state,
        stage=Stage.LOOK,
        stored=stored,
        batch=None,
        repeated=False,
        late=False,
        doubted=False,
        closed=False,
        vouched=False,
        rejected=None,
        due="",
        expired=False,
        repairs=state.repairs + 1,
    )
    return after, BeginRepair(epoch, why)


# -- Answers that mean the same in several stages --------------------------------------------------


def no_news(state: Pull, answer: Answer, at: float) -> Step:
    """An answer to a harmless request (HEAD, PUT, GET) that says nothing about the stream: try again later."""
    if isinstance(answer, Failure):
        return wait(state, answer.reason)
    if answer.status in {401, 403}:
        return wait(state, f"the credentials were refused: HTTP {answer.status}", renew=True)
    return unproved(state, answer, at, f"unexpected answer: HTTP {answer.status}")


def unproved(state: Pull, answer: Answer, at: float, why: str) -> Step:
    """An answer that anybody on the way could have given. A refusal that stays the same is looked into."""
    reply = answer if isinstance(answer, Reply) else None
    if reply is None or reply.status not in _REFUSALS or reply.from_stream_server:
        return wait(state, why, reply=reply)
    counted = count(state, reply.status, at)
    if enough(counted, at):
        return replace(counted, trouble=why), ConfirmPath()
    return wait(look_again(counted), so_far(counted, why), reply=reply)


def count(state: Pull, refusal: int | str, at: float) -> Pull:
    """The state after one more refusal, the first of its kind or not."""
    if state.refusal == refusal:
        return replace(state, refusals=state.refusals + 1)
    return replace(state, refusal=refusal, refusals=1, refused_since=at)


def enough(state: Pull, at: float) -> bool:
    """Whether there were enough equal refusals, over long enough."""
    return state.refusals >= REFUSALS_COUNT and at - state.refused_since >= REFUSED_SECONDS


def so_far(state: Pull, why: str) -> str:
    """What to tell while there were not enough."""
    counted = min(state.refusals, REFUSALS_COUNT)
    return f"{why}; {counted} of {REFUSALS_COUNT} within a minute, then it is believed"


def look_again(state: Pull) -> Pull:
    """A read that broke off begins with a look at the stream's end."""
    match state.stage:
        case Stage.READ:
            return replace(state, stage=Stage.HEAD)
        case Stage.SURVEY:
            return replace(state, stage=Stage.TAIL)
        case _:
            return state


def on_path_confirmed(state: Pull, *, confirmed: bool) -> Step:
    """The server answers something else as it should, so that the refusals are its own; or it does not."""
    assert isinstance(state.refusal, int), "a page that cannot be read needs no confirmation"
    told = replace(state, refusal=0, refusals=0)
    if not confirmed:
        return wait(look_again(told), state.trouble)
    if state.stage in {Stage.READ, Stage.SURVEY} and state.refusal == 410:
        return expired(told)
    stop, meaning = _REFUSALS[state.refusal]
    why = f"{meaning}: {state.refusals} times HTTP {state.refusal}, while the server answers otherwise"
    if stop is Stop.TOO_LARGE and state.stage is Stage.SEND:
        return rejected(told, stop, why)
    return halt(told, stop, why)


_REFUSALS: Final[dict[int, tuple[Stop, str]]] = {
    400: (Stop.REFUSED, "the server refuses the request as malformed"),
    404: (Stop.MISSING, "there is no such stream any more"),
    410: (Stop.GONE, "the stream was deleted or expired"),
    413: (Stop.TOO_LARGE, "the body is too large"),
}


def expired(state: Pull) -> Step:
    """The server does not keep any more what was to be read back: HTTP 410 to a read, not to the stream."""
    if state.stage is Stage.SURVEY:
        return enter(replace(state, expired=True))
    return repair(
        state, Stop.SERVER_BEHIND, "the stream no longer keeps what lies behind our last batch: HTTP 410"
    )


def rejected(state: Pull, stop: Stop, why: str) -> Step:
    """The server refuses the batch for what is in it: ask first whether that is all that is wrong."""
    # Failures go on counting: of a batch that is refused and said to be there in turn, less and less is asked.
    return enter(replace(state, stage=Stage.CHECK, rejected=stop, rejection=why))


def common(state: Pull, judgement: Judgement, answer: Answer, at: float) -> Step:
    """Verdicts that mean the same for a claim, a probe and a batch."""
    why = f"{judgement.verdict.value}: {judgement.detail}"
    if judgement.verdict in _REPAIRED:
        return repair(state, _STOPS[judgement.verdict], why)
    if judgement.verdict is Verdict.FENCED and state.fencing:
        return begin_repair(state, max(judgement.server_epoch or 0, state.stored.epoch) + 1, why)
    stop = _STOPS.get(judgement.verdict)
    if stop is not None:
        return halt(state, stop, why)
    unknown = judgement.verdict in {Verdict.AMBIGUOUS, Verdict.PATH_BROKEN}
    # "Not now" and "not you" come from whoever is on the way, too, also after the request has arrived.
    maybe_landed = unknown or (isinstance(answer, Reply) and not answer.from_stream_server)
    doubtful = replace(state, repeated=state.repeated or maybe_landed)
    if judgement.verdict is Verdict.UNAUTHORIZED:
        return wait(doubtful, why, renew=True)
    return unproved(doubtful, answer, at, why)


_STOPS: Final[dict[Verdict, Stop]] = {
    Verdict.UNCONFIRMED: Stop.NOT_A_PRODUCER_SERVER,
    Verdict.DUPLICATE_UNSENT: Stop.FOREIGN,
    Verdict.FENCED: Stop.FENCED,
    Verdict.FORGOTTEN: Stop.FORGOTTEN,
    Verdict.EPOCH_BEHIND: Stop.SERVER_BEHIND,
    Verdict.AHEAD: Stop.SERVER_AHEAD,
    Verdict.MISSING: Stop.MISSING,
    Verdict.GONE: Stop.GONE,
    Verdict.CLOSED: Stop.CLOSED,
    Verdict.TOO_LARGE: Stop.TOO_LARGE,
    Verdict.REFUSED: Stop.REFUSED,
}
_REPAIRED: Final = frozenset({Verdict.FORGOTTEN, Verdict.EPOCH_BEHIND})


def look_for_batch(state: Pull) -> Step:
    """Find out whether the batch is in the stream."""
    return enter(replace(state, stage=Stage.HEAD))


def gone(state: Pull, reply: Reply, what: str) -> Step | None:
    """The halt for a stream that its server says is not there; None for every other answer."""
    stop = {404: Stop.MISSING, 410: Stop.GONE}.get(reply.status)
    if stop is None or not reply.from_stream_server:
        return None
    return halt(state, stop, f"{what}: HTTP {reply.status}")


def wrong_content_type(state: Pull, reply: Reply) -> Step | None:
    """The halt for a stream of another content type; None when it is ours."""
    theirs, ours = reply.headers.get("content-type"), state.stored.content_type
    if media_type(theirs) == media_type(ours):
        return None
    return halt(state, Stop.CONTENT_TYPE, f"the stream's content type is {theirs}, not {ours}")


def shows_tail(answer: Answer) -> bool:
    """Whether it is a stream's answer to HEAD."""
    return isinstance(answer, Reply) and answer.status == 200 and STREAM_NEXT_OFFSET in answer.headers
