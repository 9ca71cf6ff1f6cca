"""What it means that a read-back fails (`_pull`): the way is broken, or the server does not let it be done. Pure.

    HEAD, READ, TAIL, SURVEY -- 403, 405, 501 three times in a minute --> VOUCH (a probe)
        ^                                                                   | the stream server answers
        +--------------------------- once more -----------------------------+
        `-- refused still: it is the server that refuses

Rules:

- Anybody on the way can refuse a HEAD or a GET. Only a probe, which the stream server alone can answer, shows that
  the way is right; other streams would be refused for the same reason.
- A page that carries the stream server's offset is its own. One that cannot be read here, three times in a minute
  and always for the same reason, will not be readable later.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_streams._producer import PROBE_SEQ, Attempt, Verdict, judge
from durable_streams._pull_begin import on_remembered
from durable_streams._pull_steps import (
    calm,
    common,
    count,
    enough,
    enter,
    expired,
    halt,
    look_again,
    look_for_batch,
    no_news,
    repair,
    so_far,
    unproved,
    unresolved,
    wait,
)
from durable_streams._pull_types import Stage, Stop
from durable_streams._wire import Answer, Reply

if TYPE_CHECKING:
    from durable_streams._pull_types import Pull, Step

_REFUSE_READING: Final = frozenset({403, 405, 501})


def may_not_read(state: Pull, answer: Answer) -> bool:
    """Whether it is the stream server that does not let the stream be read."""
    if not isinstance(answer, Reply) or answer.status not in _REFUSE_READING:
        return False
    return state.vouched or answer.from_stream_server


def not_read(state: Pull, answer: Answer, at: float) -> Step:
    """A look at the stream, or a read, failed in a way that proves nothing yet: look again from the start."""
    if not isinstance(answer, Reply) or answer.status not in _REFUSE_READING:
        return no_news(look_again(replace(state, vouched=False)), answer, at)
    counted = look_again(count(state, answer.status, at))
    if enough(counted, at):
        return enter(replace(counted, stage=Stage.VOUCH))
    why = f"the stream may not be read, it seems: HTTP {answer.status}"
    return wait(counted, so_far(counted, why), reply=answer, renew=answer.status == 403)


def not_kept(state: Pull, reply: Reply, at: float) -> Step:
    """A read was answered with HTTP 410: the server does not keep what lies behind the offset any more."""
    if reply.from_stream_server:
        return expired(state)
    return unproved(state, reply, at, "what is to be read back is not kept any more, it seems: HTTP 410")


def on_vouch(state: Pull, answer: Answer, at: float) -> Step:
    """The probe was answered, or not, after the stream could not be read for a minute."""
    repairing = state.stored.repairing
    again = replace(state, stage=Stage.TAIL if repairing else Stage.HEAD, refusal=0, refusals=0)
    judgement = judge(Attempt(state.stored.epoch, PROBE_SEQ), answer)
    match judgement.verdict:
        case Verdict.FORGOTTEN if _as_expected(state, judgement.expected_seq or 0):
            return enter(replace(again, vouched=True))
        case Verdict.FORGOTTEN:
            return on_remembered(again, judgement.expected_seq or 0)
        case Verdict.CLOSED if not repairing:
            return look_for_batch(calm(again, closed=True, vouched=True))
        case Verdict.REFUSED:
            why = f"the server is at an earlier epoch than {state.stored.epoch}: {judgement.detail}"
            return repair(again, Stop.SERVER_BEHIND, why)
        case _:
            return common(again, judgement, answer, at)


def _as_expected(state: Pull, expected: int) -> bool:
    """Whether the server waits for a number that fits: what is in doubt, or the next one."""
    if state.stored.repairing:
        return expected > 0
    batch = unresolved(state)
    return expected in {batch.seq, batch.seq + 1}


def on_unreadable(state: Pull, why: str, at: float) -> Step:
    """A page of the stream server's cannot be read here."""
    counted = look_again(count(state, why, at))
    if enough(counted, at):
        return halt(
            counted,
            Stop.UNREADABLE_PAGE,
            f"what of ours is in the stream cannot be read back: {why}; {counted.refusals} times",
        )
    return wait(counted, so_far(counted, why))
