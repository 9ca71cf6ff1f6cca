"""How a producer repairs (`_pull`): everything of ours is read back under a freshly claimed epoch. Pure.

    BeginRepair -> LOOK -> CLAIM -> TAIL -> SURVEY -> SaveRepair -> IDLE

Rules:

- The claim comes first: from then on no earlier request of ours can be stored any more, however late it arrives.
- Read back from before everything that is kept, not from the last anchor: after a server went back, that one may
  lie beyond the end, or in the middle of something else.
- What was found, what is missing and the new anchor are committed together. A crash before that begins again with
  a higher epoch; a claim of an earlier process is never trusted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from durable_streams._pull_reading import may_not_read, not_kept, not_read
from durable_streams._pull_steps import calm, enter, gone, halt, shows_tail, wrong_content_type
from durable_streams._pull_types import SaveRepair, Stage, Stop
from durable_streams._wire import STREAM_NEXT_OFFSET, Answer, Reply

if TYPE_CHECKING:
    from durable_streams._pull_types import Pull, Step
    from durable_streams._store import Survey

_UNREADABLE = "what of ours is in the stream must be read, and the server refuses that"


def on_tail(state: Pull, answer: Answer, at: float) -> Step:
    """HEAD was answered after the claim."""
    if isinstance(answer, Reply):
        if shows_tail(answer):
            if (wrong := wrong_content_type(state, answer)) is not None:
                return wrong
            return enter(replace(state, stage=Stage.SURVEY, tail=answer.headers[STREAM_NEXT_OFFSET]))
        if (ended := gone(state, answer, "the stream is gone while it is repaired")) is not None:
            return ended
    return _not_read(state, answer, at)


def on_survey_broken(state: Pull, answer: Answer, at: float) -> Step:
    """The read-back broke off."""
    if isinstance(answer, Reply) and answer.status == 410 and not state.expired:
        return not_kept(state, answer, at)
    return _not_read(state, answer, at)


def _not_read(state: Pull, answer: Answer, at: float) -> Step:
    if isinstance(answer, Reply) and may_not_read(state, answer):
        return halt(state, Stop.UNREADABLE, f"{_UNREADABLE}: HTTP {answer.status}")
    return not_read(state, answer, at)


def on_surveyed(state: Pull, survey: Survey, end: str) -> Step:
    """Everything was read back."""
    if survey.foreign and not state.fencing:
        return halt(
            state,
            Stop.FOREIGN,
            "the stream has messages under this producer's identity that its store never sealed: a second one "
            "runs with a copy of it",
        )
    if survey.undecided and not state.policy.claim:
        return halt(
            state,
            Stop.SERVER_BEHIND,
            "the stream no longer keeps what lies behind our last batch (HTTP 410): nobody can know whether it "
            "arrived",
        )
    stored = replace(state.stored, claimed=True, repairing=False, anchor=end, resolved_seq=0, batch=None)
    # What an operator decided counts once.
    policy = replace(state.policy, claim=False)
    after = calm(
        state,
        stage=Stage.IDLE,
        stored=stored,
        policy=policy,
        fencing=False,
        claims=0,
        vouched=False,
        expired=False,
        refusal=0,
        refusals=0,
    )
    return after, SaveRepair(survey, end, adopt=survey.foreign)
