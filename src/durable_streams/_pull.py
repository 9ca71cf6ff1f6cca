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

Rules:

- A number that may have reached the server is sent again only with the same bytes, and only after a look at the
  stream proved the batch absent: tail == anchor, or a read from the anchor to the tail without its messages.
- The anchor moves only together with the last resolved number.
- Only a 200 that echoes a claim makes it count. A 204 may be an earlier process's: claim a higher epoch.
- STOPPED is final for this process: the reason says why, and a restart looks again at everything.
- With `Policy.settle` it only finds out what became of a batch: nothing is created, claimed or sealed, and it
  stops (SETTLED) as soon as nothing is unresolved. Whoever leaves a server needs that: no record is sent to both.

The machine never does I/O: `react` takes an event and returns the next state with one command. Whoever executes
the command (see `_puller`) feeds the outcome back as the next event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from durable_streams._producer import PROBE_SEQ, Attempt, Judgement, Verdict, judge
from durable_streams._store import Presence, ProducerState, SealedBatch
from durable_streams._wire import STREAM_CLOSED, STREAM_NEXT_OFFSET, Answer, Failure, Reply, media_type

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_CLAIMS: Final = 8
"""A server that calls more claims than this duplicates in a row is none: each costs an epoch on disk."""


class Stage(Enum):
    """Where a producer is."""

    LOOK = "looking for the stream"
    CREATE = "creating the stream"
    CLAIM = "claiming its epoch"
    PROBE = "asking what the server remembers"
    IDLE = "waiting for records"
    SEND = "sending"
    HEAD = "looking whether an unanswered batch arrived"
    READ = "reading back an unanswered batch"
    STOPPED = "stopped"


class Stop(Enum):
    """Why a producer stopped, for programs; the text for people comes with it."""

    FENCED = "fenced"
    SERVER_AHEAD = "server_ahead"
    SERVER_BEHIND = "server_behind"
    FORGOTTEN = "forgotten"
    FOREIGN = "foreign"
    NOT_A_PRODUCER_SERVER = "not_a_producer_server"
    CONTENT_TYPE = "content_type"
    MISSING = "missing"
    REFUSED = "refused"
    TOO_LARGE = "too_large"
    CLOSED = "closed"
    GONE = "gone"
    SETTLED = "settled"
    """Nothing is wrong: this was the task of a policy with ``settle``."""

    @property
    def parked(self) -> bool:
        """Whether the stream itself has ended, as opposed to something being wrong with it."""
        return self in {Stop.CLOSED, Stop.GONE}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the producer may do by itself."""

    create: bool = True
    read_back: bool = True
    settle: bool = False
    """Stop as soon as nothing is unresolved; begin nothing new."""


@dataclass(frozen=True, slots=True)
class Pull:
    """The whole state. ``stored`` mirrors the disk: it changes together with the command that saves it."""

    stage: Stage
    stored: ProducerState
    policy: Policy
    batch: SealedBatch | None = None
    repeated: bool = False
    """Whether the number being sent may have reached the server before."""
    tail: str = ""
    """The stream's end when READ began."""
    closed: bool = False
    """Whether the stream was seen closed while a batch is unresolved."""
    doubted: bool = False
    """Whether the read-back follows a 204: then an absent batch means that somebody else used the number."""
    claims: int = 0
    """Claims in a row that were answered as duplicates."""
    failures: int = 0
    """Failed attempts in a row."""
    trouble: str = ""
    """What the last failed attempt ran into; empty when there is none."""
    stop: Stop | None = None


# -- Events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """The server answered the request of the last command, or did not."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Found:
    """The read-back reached the tail, at offset ``end``."""

    presence: Presence
    end: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """The store sealed a batch; it is durable."""

    batch: SealedBatch


@dataclass(frozen=True, slots=True)
class Done:
    """The store's commit, or the wait, of the last command is over."""


Event = Answered | Found | Sealed | Done


# -- Commands --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """HEAD the stream."""


@dataclass(frozen=True, slots=True)
class Put:
    """PUT the stream: create it."""


@dataclass(frozen=True, slots=True)
class PostClaim:
    """POST a fresh claim."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class PostProbe:
    """POST a fresh probe."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class PostBatch:
    """POST the sealed batch, byte for byte."""

    attempt: Attempt
    batch: SealedBatch


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Read from the anchor until ``tail`` and look for the batch's messages."""

    batch: SealedBatch
    anchor: str
    tail: str


@dataclass(frozen=True, slots=True)
class NextBatch:
    """Wait until the store has sealed a batch."""


@dataclass(frozen=True, slots=True)
class SaveAnchor:
    """Commit the first anchor."""

    offset: str


@dataclass(frozen=True, slots=True)
class SaveEpoch:
    """Commit a new, unclaimed epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SaveClaim:
    """Commit that the epoch's claim was confirmed."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Commit that the batch is in the stream; ``offset`` lies behind it."""

    batch: SealedBatch
    offset: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait before the next attempt: the back-off of ``failures``, or what ``headers`` ask for.

    ``renew_credentials`` says that the server refused the present ones.
    """

    failures: int
    reply: Reply | None = None
    renew_credentials: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop for good in this process."""

    stop: Stop
    reason: str


Command = (
    Head
    | Put
    | PostClaim
    | PostProbe
    | PostBatch
    | ReadBack
    | NextBatch
    | SaveAnchor
    | SaveEpoch
    | SaveClaim
    | Resolve
    | Wait
    | Halt
)

Step = tuple[Pull, Command]


class IllegalEventError(AssertionError):
    """An event that cannot follow the last command: a defect of the caller. The state did not change."""


# -- The machine -----------------------------------------------------------------------------------


def start(stored: ProducerState, policy: Policy) -> Step:
    """Begin with what the store knows. Nothing an earlier process believed is taken for granted."""
    if policy.settle and stored.batch is None:
        return _enter(Pull(Stage.IDLE, stored, policy))
    if not stored.claimed:
        return _enter(Pull(Stage.LOOK, stored, policy))
    return _enter(Pull(Stage.PROBE, stored, policy, batch=stored.batch, repeated=stored.batch is not None))


def react(state: Pull, event: Event) -> Step:
    """Take one event; return the next state and the one command that leads on from it."""
    match event:
        case Done() if state.stage is not Stage.STOPPED:
            return _enter(state)
        case Answered(answer) if state.stage in _ANSWERS:
            return _ANSWERS[state.stage](state, answer)
        case Found(presence, end) if state.stage is Stage.READ:
            return _on_found(state, presence, end)
        case Sealed(batch) if state.stage is Stage.IDLE:
            return _enter(replace(state, stage=Stage.SEND, batch=batch, repeated=False, doubted=False))
        case _:
            raise IllegalEventError(f"{event} cannot happen while {state.stage.value}")


_SETTLED: Final = "nothing is unresolved"


def _enter(state: Pull) -> Step:
    """The command that a stage begins with."""
    stored = state.stored
    match state.stage:
        case Stage.LOOK | Stage.HEAD:
            return state, Head()
        case Stage.CREATE:
            return state, Put()
        case Stage.CLAIM:
            return state, PostClaim(Attempt(stored.epoch, 0, state.repeated))
        case Stage.PROBE:
            return state, PostProbe(Attempt(stored.epoch, PROBE_SEQ))
        case Stage.IDLE if state.policy.settle:
            return replace(state, stage=Stage.STOPPED, stop=Stop.SETTLED), Halt(Stop.SETTLED, _SETTLED)
        case Stage.IDLE:
            return state, NextBatch()
        case Stage.SEND:
            batch = _unresolved(state)
            return state, PostBatch(Attempt(batch.epoch, batch.seq, state.repeated), batch)
        case Stage.READ:
            return state, ReadBack(_unresolved(state), _anchor(state), state.tail)
        case Stage.STOPPED:  # pragma: no cover - Halt ends the run, nothing enters it again
            raise IllegalEventError("the producer has stopped")


def _unresolved(state: Pull) -> SealedBatch:
    assert state.batch is not None, "only stages with a batch ask for it"
    return state.batch


def _anchor(state: Pull) -> str:
    assert state.stored.anchor is not None, "the anchor is saved before the first claim"
    return state.stored.anchor


def _wait(state: Pull, why: str, *, reply: Reply | None = None, renew: bool = False) -> Step:
    failed = replace(state, failures=state.failures + 1, trouble=why)
    return failed, Wait(state.failures, reply, renew_credentials=renew)


def _halt(state: Pull, stop: Stop, reason: str) -> Step:
    return replace(state, stage=Stage.STOPPED, stop=stop, trouble=reason), Halt(stop, reason)


def _calm(state: Pull, **changes: object) -> Pull:
    """The state after an attempt that succeeded."""
    return replace(state, failures=0, trouble="", **changes)  # type: ignore[arg-type]


# -- LOOK and CREATE -------------------------------------------------------------------------------


def _on_look(state: Pull, answer: Answer) -> Step:
    if isinstance(answer, Reply):
        if answer.status == 200 and STREAM_NEXT_OFFSET in answer.headers:
            return _seen(state, answer)
        if answer.status == 404 and state.policy.create:
            # No proof needed that this 404 is the stream server's: the PUT brings the proof, or fails.
            return _enter(replace(state, stage=Stage.CREATE))
        if answer.status == 404:
            return _wait(state, "the stream does not exist, and creating it is not wanted: HTTP 404")
    return _no_news(state, answer)


def _on_create(state: Pull, answer: Answer) -> Step:
    if isinstance(answer, Reply):
        if answer.status in {200, 201} and STREAM_NEXT_OFFSET in answer.headers:
            return _seen(state, answer)
        if answer.status == 409:
            # Somebody created it since, with another configuration; HEAD tells which.
            return _wait(replace(state, stage=Stage.LOOK), "the stream exists with another configuration")
    # A lost answer to PUT is harmless: HEAD looks again.
    return _no_news(replace(state, stage=Stage.LOOK), answer)


def _seen(state: Pull, reply: Reply) -> Step:
    theirs, ours = reply.headers.get("content-type"), state.stored.content_type
    if media_type(theirs) != media_type(ours):
        return _halt(state, Stop.CONTENT_TYPE, f"the stream's content type is {theirs}, not {ours}")
    if reply.is_true(STREAM_CLOSED):
        return _halt(state, Stop.CLOSED, "the stream is closed: it takes no more records, ever")
    claiming = _calm(state, stage=Stage.CLAIM)
    if state.stored.anchor is not None:
        return _enter(claiming)
    tail = reply.headers[STREAM_NEXT_OFFSET]
    return replace(claiming, stored=replace(state.stored, anchor=tail)), SaveAnchor(tail)


def _no_news(state: Pull, answer: Answer) -> Step:
    """An answer to a harmless request (HEAD, PUT) that says nothing about the stream: try again later."""
    if isinstance(answer, Failure):
        return _wait(state, answer.reason)
    if answer.status in {401, 403}:
        return _wait(state, f"the credentials were refused: HTTP {answer.status}", renew=True)
    return _wait(state, f"unexpected answer: HTTP {answer.status}", reply=answer)


# -- CLAIM -----------------------------------------------------------------------------------------


def _on_claim(state: Pull, answer: Answer) -> Step:
    attempt = Attempt(state.stored.epoch, 0, state.repeated)
    judgement = judge(attempt, answer)
    match judgement.verdict:
        case Verdict.APPENDED:
            stored = replace(state.stored, claimed=True, resolved_seq=0, batch=None)
            return _calm(state, stage=Stage.IDLE, stored=stored, repeated=False), SaveClaim(stored.epoch)
        case Verdict.DUPLICATE | Verdict.DUPLICATE_UNSENT:
            # An earlier process's claim, or a stranger's. Only a 200 counts, so take a higher epoch.
            if state.claims >= MAX_CLAIMS:
                return _halt(
                    state,
                    Stop.NOT_A_PRODUCER_SERVER,
                    f"the server calls each of {state.claims + 1} claims, all of new epochs, a duplicate: "
                    f"{judgement.detail}",
                )
            epoch = state.stored.epoch + 1
            stored = replace(state.stored, epoch=epoch)
            return _calm(state, stored=stored, repeated=False, claims=state.claims + 1), SaveEpoch(epoch)
        case Verdict.FORGOTTEN | Verdict.AHEAD | Verdict.EPOCH_BEHIND:
            return _wait(state, f"{judgement.verdict.value}, in answer to a claim: {judgement.detail}")
        case _:
            return _on_common(state, judgement, answer)


# -- PROBE -----------------------------------------------------------------------------------------


def _on_probe(state: Pull, answer: Answer) -> Step:
    stored = state.stored
    judgement = judge(Attempt(stored.epoch, PROBE_SEQ), answer)
    match judgement.verdict:
        case Verdict.FORGOTTEN:
            return _on_remembered(state, judgement.expected_seq or 0)
        case Verdict.APPENDED | Verdict.DUPLICATE | Verdict.DUPLICATE_UNSENT:
            return _halt(
                state,
                Stop.NOT_A_PRODUCER_SERVER,
                f"the server took a number out of order: it does not check producers ({judgement.detail})",
            )
        case Verdict.CLOSED if state.batch is not None:
            return _look_for_batch(_calm(state, closed=True))
        case Verdict.EPOCH_BEHIND | Verdict.REFUSED:
            return _halt(
                state,
                Stop.SERVER_BEHIND,
                f"the server is at an earlier epoch than {stored.epoch}: {judgement.detail}",
            )
        case _:
            return _on_common(state, judgement, answer)


def _on_remembered(state: Pull, expected: int) -> Step:
    stored = state.stored
    if expected == 0:
        return _halt(state, Stop.FORGOTTEN, "the server forgot this producer")
    if expected - 1 > stored.sealed_seq:
        return _halt(
            state,
            Stop.SERVER_AHEAD,
            f"the server has batch {expected - 1} of epoch {stored.epoch}, this store sealed only "
            f"{stored.sealed_seq}: it is an old copy, or a second producer runs with its identity",
        )
    if expected - 1 < stored.resolved_seq:
        return _halt(
            state,
            Stop.SERVER_BEHIND,
            f"the server has batch {expected - 1} of epoch {stored.epoch}, but it confirmed "
            f"{stored.resolved_seq} before: it lost what it confirmed",
        )
    if state.batch is None:
        return _enter(_calm(state, stage=Stage.IDLE))
    return _look_for_batch(_calm(state))


# -- SEND, HEAD, READ ------------------------------------------------------------------------------


def _on_send(state: Pull, answer: Answer) -> Step:
    batch = _unresolved(state)
    judgement = judge(Attempt(batch.epoch, batch.seq, state.repeated), answer)
    match judgement.verdict:
        case Verdict.APPENDED:
            return _resolved(state, judgement.offset or "")
        case Verdict.DUPLICATE:
            return _look_for_batch(_calm(state, doubted=True))
        case Verdict.CLOSED if state.repeated:
            return _look_for_batch(_calm(state, closed=True))
        case Verdict.AMBIGUOUS | Verdict.PATH_BROKEN:
            # Looked up first, and only then sent again: HEAD doubles as the next attempt to get through.
            look = replace(state, repeated=True, stage=Stage.HEAD if state.policy.read_back else Stage.SEND)
            reply = answer if isinstance(answer, Reply) else None
            return _wait(look, f"{judgement.verdict.value}: {judgement.detail}", reply=reply)
        case Verdict.CONTENT_TYPE:
            look = replace(state, stage=Stage.HEAD)
            return _wait(look, f"{judgement.verdict.value}: {judgement.detail}")
        case _:
            return _on_common(state, judgement, answer)


def _on_common(state: Pull, judgement: Judgement, answer: Answer) -> Step:
    """Verdicts that mean the same for a claim, a probe and a batch."""
    why = f"{judgement.verdict.value}: {judgement.detail}"
    reply = answer if isinstance(answer, Reply) else None
    stop = _STOPS.get(judgement.verdict)
    if stop is not None:
        return _halt(state, stop, why)
    if judgement.verdict is Verdict.UNAUTHORIZED:
        return _wait(state, why, renew=True)
    maybe_landed = judgement.verdict in {Verdict.AMBIGUOUS, Verdict.PATH_BROKEN}
    return _wait(replace(state, repeated=state.repeated or maybe_landed), why, reply=reply)


_STOPS: dict[Verdict, Stop] = {
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


def _look_for_batch(state: Pull) -> Step:
    return _enter(replace(state, stage=Stage.HEAD))


def _on_head(state: Pull, answer: Answer) -> Step:
    if isinstance(answer, Reply):
        if answer.status == 200 and STREAM_NEXT_OFFSET in answer.headers:
            return _on_tail(state, answer)
        if answer.status in {404, 410} and answer.from_stream_server:
            stop = Stop.MISSING if answer.status == 404 else Stop.GONE
            return _halt(state, stop, f"the stream is gone while a batch is unresolved: HTTP {answer.status}")
        if answer.status in {403, 405, 501}:
            return _without_reading(state)
    return _no_news(state, answer)


def _on_tail(state: Pull, reply: Reply) -> Step:
    theirs, ours = reply.headers.get("content-type"), state.stored.content_type
    if media_type(theirs) != media_type(ours):
        return _halt(state, Stop.CONTENT_TYPE, f"the stream's content type is {theirs}, not {ours}")
    tail, anchor = reply.headers[STREAM_NEXT_OFFSET], _anchor(state)
    seen = replace(state, tail=tail, closed=state.closed or reply.is_true(STREAM_CLOSED))
    if not state.policy.read_back:
        return _without_reading(seen)
    if tail < anchor:
        return _halt(seen, Stop.SERVER_BEHIND, f"the stream ends at {tail}, before {anchor}: the server went back")
    if tail == anchor:
        return _on_found(seen, Presence.ABSENT, tail)
    return _enter(replace(seen, stage=Stage.READ))


def _on_read(state: Pull, answer: Answer) -> Step:
    """The read-back broke off: look again from the start."""
    if isinstance(answer, Reply) and answer.status == 410:
        return _halt(
            state, Stop.SERVER_BEHIND, "the stream no longer keeps what lies behind our last batch: HTTP 410"
        )
    if isinstance(answer, Reply) and answer.status in {403, 405, 501}:
        return _without_reading(state)
    return _no_news(replace(state, stage=Stage.HEAD), answer)


def _without_reading(state: Pull) -> Step:
    """The stream may not be read: the server's own deduplication has to do, and its word is taken."""
    if state.doubted:
        # A 204 that echoed a number which we had sent before, in an epoch that was claimed with a 200.
        return _resolved(state, _anchor(state))
    return _enter(replace(state, stage=Stage.SEND))


def _on_found(state: Pull, presence: Presence, end: str) -> Step:
    batch = _unresolved(state)
    match presence:
        case Presence.PRESENT:
            return _resolved(state, end)
        case Presence.ABSENT if state.doubted:
            return _halt(
                state,
                Stop.FOREIGN,
                f"the server says that batch {batch.seq} of epoch {batch.epoch} is in the stream, and it is not "
                "there: somebody else used our numbers",
            )
        case Presence.ABSENT if state.closed:
            return _halt(state, Stop.CLOSED, "the stream is closed: it takes no more records, ever")
        case Presence.ABSENT:
            return _enter(replace(state, stage=Stage.SEND))
        case Presence.PARTIAL:
            return _halt(state, Stop.SERVER_BEHIND, f"only a part of batch {batch.seq} is in the stream")
        case Presence.FOREIGN:
            return _halt(
                state,
                Stop.FOREIGN,
                "the stream has messages under this producer's identity that its store never sealed: a second one "
                "runs with a copy of it",
            )


def _resolved(state: Pull, offset: str) -> Step:
    batch = _unresolved(state)
    stored = replace(state.stored, anchor=offset, resolved_seq=batch.seq, batch=None)
    # A closed stream shows itself again with the next batch, fresh: that one is parked without a doubt.
    after = _calm(state, stage=Stage.IDLE, stored=stored, batch=None, repeated=False, doubted=False, closed=False)
    return after, Resolve(batch, offset)


_ANSWERS: dict[Stage, Callable[[Pull, Answer], Step]] = {
    Stage.LOOK: _on_look,
    Stage.CREATE: _on_create,
    Stage.CLAIM: _on_claim,
    Stage.PROBE: _on_probe,
    Stage.SEND: _on_send,
    Stage.HEAD: _on_head,
    Stage.READ: _on_read,
}
