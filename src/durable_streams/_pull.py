r"""One durable producer on one stream, as a pure state machine: at most one batch in flight.

    LOOK ----> CREATE            HEAD; PUT when the stream is missing and was never ours
      |           |
      v           v
    CLAIM <-------+              a new (server, stream): one harmless message as seq 0
      |
      |   PROBE                  every later start: does the server remember what we remember?
      v     v
    IDLE  <-+------------------+
      | a batch is sealed      |
      v                        |
    SEND ---- 200 -------------+ RESOLVE
      |  \                     ^
      |   nobody knows         |
      v     v                  |
    (wait) HEAD --> READ ------+ the batch is in the stream
              \       \
               SEND    SEND      it is not: the same bytes with the same number

    trouble that a repair can cure: BeginRepair -> LOOK -> CLAIM -> TAIL -> SURVEY -> SaveRepair -> IDLE
    (see `_pull_repair`); a batch that is too large: CHECK (a probe) -> Reseal -> SEND

Rules:

- A number that may have reached the server is sent again only with the same bytes, and only after a look at the
  stream proved the batch absent: tail == anchor, or a read from the anchor to the tail without its messages.
- The anchor moves only together with the last resolved number.
- Only a 200 that echoes a claim makes it count. A 204 may be an earlier process's: claim a higher epoch.
- Whatever anybody on the way could have said (a 404, 400, 410 or 413 without a stream server's headers) counts
  only after three times in a minute, and when the server answers something else as it should.
- Refusals of reading (403, 405 and 501 to HEAD or GET) count no sooner, and when a probe is answered
  (`_pull_reading`).
- STOPPED is final for this process: the reason says why, and a restart looks again at everything.
- With `Policy.settle` it only finds out what became of a batch: nothing is created or sealed, nothing is claimed
  unless a repair has to (`Policy.recover`), and it stops (SETTLED) as soon as nothing is unresolved. Whoever
  leaves a server needs that: no record is sent to both.

The machine never does I/O: `react` takes an event and returns the next state with one command. Whoever executes
the command (see `_puller`) feeds the outcome back as the next event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from durable_streams._pull_begin import MAX_CLAIMS, on_claim, on_create, on_look, on_probe
from durable_streams._pull_reading import on_unreadable, on_vouch
from durable_streams._pull_repair import on_survey_broken, on_surveyed, on_tail
from durable_streams._pull_send import on_check, on_found, on_head, on_read, on_send, on_smaller
from durable_streams._pull_steps import MAX_REPAIRS, enter, on_path_confirmed
from durable_streams._pull_types import (
    Answered,
    BeginRepair,
    Command,
    ConfirmPath,
    Done,
    Event,
    Found,
    Halt,
    Head,
    IllegalEventError,
    NextBatch,
    PathConfirmed,
    Policy,
    PostBatch,
    PostClaim,
    PostProbe,
    Pull,
    Put,
    ReadAllBack,
    ReadBack,
    Reseal,
    Resolve,
    SaveAnchor,
    SaveClaim,
    SaveEpoch,
    SaveRepair,
    Sealed,
    SetAside,
    Stage,
    Step,
    Stop,
    Surveyed,
    Unreadable,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams._store import ProducerState
    from durable_streams._wire import Answer


def start(stored: ProducerState, policy: Policy) -> Step:
    """Begin with what the store knows. Nothing an earlier process believed is taken for granted."""
    fences = (policy.fence_on_start or policy.claim) and not policy.settle
    fresh = Pull(Stage.LOOK, stored, policy, fencing=fences)
    # A stream that has ended takes no claim: a look comes first, so that not every start uses up an epoch.
    if stored.repairing:
        return enter(replace(fresh, due="a repair was begun and not finished"))
    if fences and stored.claimed:
        why = "an operator claims it" if policy.claim else "exactly_once.fence_on_start"
        return enter(replace(fresh, due=why))
    if policy.settle and stored.batch is None:
        return enter(replace(fresh, stage=Stage.IDLE))
    if not stored.claimed:
        return enter(fresh)
    in_doubt = stored.batch is not None
    return enter(replace(fresh, stage=Stage.PROBE, batch=stored.batch, repeated=in_doubt, late=in_doubt))


def react(state: Pull, event: Event) -> Step:
    """Take one event; return the next state and the one command that leads on from it."""
    match event:
        case Done() if state.stage is not Stage.STOPPED:
            return enter(state)
        case Answered(answer, at) if state.stage in _ANSWERS:
            return _ANSWERS[state.stage](state, answer, at)
        case Found(presence, end) if state.stage is Stage.READ:
            return on_found(state, presence, end)
        case Surveyed(survey, end) if state.stage is Stage.SURVEY:
            return on_surveyed(state, survey, end)
        case Unreadable(why, at) if state.stage in {Stage.READ, Stage.SURVEY}:
            return on_unreadable(state, why, at)
        case PathConfirmed(confirmed) if state.refusals:
            return on_path_confirmed(state, confirmed=confirmed)
        case Sealed(batch) if state.stage is Stage.IDLE:
            return enter(replace(state, stage=Stage.SEND, batch=batch, repeated=False, late=False, doubted=False))
        case Sealed(batch) if state.stage is Stage.CHECK:
            return on_smaller(state, batch)
        case _:
            raise IllegalEventError(f"{event} cannot happen while {state.stage.value}")


_ANSWERS: dict[Stage, Callable[[Pull, Answer, float], Step]] = {
    Stage.LOOK: on_look,
    Stage.CREATE: on_create,
    Stage.CLAIM: on_claim,
    Stage.PROBE: on_probe,
    Stage.SEND: on_send,
    Stage.HEAD: on_head,
    Stage.READ: on_read,
    Stage.CHECK: on_check,
    Stage.VOUCH: on_vouch,
    Stage.TAIL: on_tail,
    Stage.SURVEY: on_survey_broken,
}

__all__ = [
    "MAX_CLAIMS",
    "MAX_REPAIRS",
    "Answered",
    "BeginRepair",
    "Command",
    "ConfirmPath",
    "Done",
    "Event",
    "Found",
    "Halt",
    "Head",
    "IllegalEventError",
    "NextBatch",
    "PathConfirmed",
    "Policy",
    "PostBatch",
    "PostClaim",
    "PostProbe",
    "Pull",
    "Put",
    "ReadAllBack",
    "ReadBack",
    "Reseal",
    "Resolve",
    "SaveAnchor",
    "SaveClaim",
    "SaveEpoch",
    "SaveRepair",
    "Sealed",
    "SetAside",
    "Stage",
    "Step",
    "Stop",
    "Surveyed",
    "Unreadable",
    "Wait",
    "react",
    "start",
]
