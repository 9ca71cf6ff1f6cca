"""Drains a `ProducerStore` into one stream, exactly once and in order: a flow of effects.

    Load, a command of `_pull` that commits    -> ProducerState, None    what the store must do; durable on return
    Seal       -> SealedBatch        wait until the store has sealed a batch
    BeginSurvey -> Survey            what a repair has to look for
    Confirm    -> bool               whether the server answers something else as it should
    Ask        -> Answer             one exchange, bounded in memory and in time
    Pause      -> None               wait, after renewing the credentials if the server refused them

Nothing is decided here: the machine of `_pull` gives commands, they become effects, their outcome is fed back.
That the process may be killed between any two lines is the point; what must survive is in the store before the
next command starts. Two drivers perform the effects: `_store_producer` (async) and `_drain_threads`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from durable_streams import _pull
from durable_streams._producer import Attempt, producer_request
from durable_streams._wire import STREAM_NEXT_OFFSET, Answer, Failure, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams._exchange import RetryPolicy
    from durable_streams._store import Finder, ProducerState, SealedBatch, Survey

T = TypeVar("T")

ANSWER_SECONDS: Final = 30.0
SLOWEST_BYTES_PER_SECOND: Final = 4096
"""A link that is slower than this is taken for a broken one."""
MAX_REPLY_BYTES: Final = 64 * 1024
MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
PAGE_SECONDS: Final = 600.0
BEGINNING: Final = "-1"
"""The offset of a stream's oldest message (PROTOCOL section 6)."""

_NO_REPLY: Final = Failure("nothing was asked")


@dataclass(frozen=True, slots=True)
class Load:
    """Return the state as it is on disk."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Wait until messages are due, and seal them; the same batch again until it was resolved."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class BeginSurvey:
    """Return a survey of everything that the store keeps of the stream."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask for something of the server that is known to be there."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Exchange one request; give up after ``seconds``, keep at most ``max_reply_bytes`` of the answer."""

    request: Request
    max_reply_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next attempt."""

    seconds: float
    renew_credentials: bool


Commit: TypeAlias = _pull.SaveAnchor | _pull.SaveEpoch | _pull.SaveClaim | _pull.Resolve
Repairing: TypeAlias = _pull.BeginRepair | _pull.SaveRepair | _pull.Reseal | _pull.SetAside | BeginSurvey
"""What only a `RepairStore` does; asked of it only where the policy says that it can."""
Effect: TypeAlias = Load | Commit | Repairing | Seal | Ask | Confirm | Pause
Flow: TypeAlias = Generator[Effect, Any, T]


class Bodies(Protocol):
    """The part of a store that only makes values."""

    def claim_body(self, epoch: int) -> bytes:
        """Return a fresh body for the claim of an epoch."""
        ...  # pragma: no cover

    def probe_body(self) -> bytes:
        """Return a fresh body for a probe."""
        ...  # pragma: no cover

    def finder(self, batch: SealedBatch) -> Finder:
        """Return a new finder for the batch."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Drain:
    """What to drain into what, and how patiently. ``observe`` is told every state with its next command."""

    url: str
    store: Bodies
    policy: _pull.Policy
    max_batch_bytes: int
    retry: RetryPolicy
    observe: Callable[[_pull.Pull, _pull.Command], None]
    missing_after: int | None = None
    """How many 404 in a row mean that the stream is gone. None: none does, unless a stream server is proved to
    have said it; for who would rather wait than be stopped by a proxy."""

    def flow(self) -> Flow[_pull.Halt]:
        """Work until the stream must stop; return why. Ending the flow early is safe at every point."""
        stored: ProducerState = yield Load()
        state, command = _pull.start(stored, self.policy)
        missing, asked_again = 0, False
        while True:
            if isinstance(command, _pull.Wait) and not asked_again:
                missing = missing + 1 if command.reply is not None and command.reply.status == 404 else 0
                if missing == self.missing_after:
                    command = _pull.Halt(_pull.Stop.MISSING, f"the stream is gone: {missing} times HTTP 404")
            asked_again = isinstance(command, _pull.ConfirmPath)
            self.observe(state, command)
            if isinstance(command, _pull.Halt):
                return command
            event = yield from self._execute(state, command)
            state, command = _pull.react(state, event)

    def _execute(self, state: _pull.Pull, command: _pull.Command) -> Flow[_pull.Event]:
        match command:
            case _pull.Head():
                return self._answered((yield from _ask(Request("HEAD", self.url))))
            case _pull.Put():
                headers = {"content-type": state.stored.content_type}
                return self._answered((yield from _ask(Request("PUT", self.url, headers=headers))))
            case _pull.PostClaim(attempt):
                return (yield from self._post(state, attempt, self.store.claim_body(attempt.epoch)))
            case _pull.PostProbe(attempt):
                return (yield from self._post(state, attempt, self.store.probe_body()))
            case _pull.PostBatch(attempt, batch):
                return (yield from self._post(state, attempt, batch.body))
            case _pull.ReadBack():
                return (yield from self._read_back(command))
            case _pull.NextBatch(max_bytes):
                sealed: SealedBatch = yield Seal(min(self.max_batch_bytes, max_bytes or self.max_batch_bytes))
                return _pull.Sealed(sealed)
            case _pull.ReadAllBack():
                return (yield from self._read_all_back(command))
            case _pull.Reseal() | _pull.SetAside():
                smaller: SealedBatch = yield command
                return _pull.Sealed(smaller)
            case _pull.ConfirmPath():
                confirmed: bool = yield Confirm()
                return _pull.PathConfirmed(confirmed)
            case _pull.BeginRepair() | _pull.SaveRepair():
                yield command
            case _pull.SaveAnchor() | _pull.SaveEpoch() | _pull.SaveClaim() | _pull.Resolve():
                yield command
            case _pull.Wait():
                seconds = self.retry.delay(command.failures, command.reply or _NO_REPLY)
                yield Pause(seconds, command.renew_credentials)
            case _pull.Halt():  # pragma: no cover - `flow` returns before
                raise _pull.IllegalEventError("a stopped producer executes nothing")
        return _pull.Done()

    def _post(self, state: _pull.Pull, attempt: Attempt, body: bytes) -> Flow[_pull.Event]:
        stored = state.stored
        request = producer_request(self.url, stored.producer_id, attempt, body, content_type=stored.content_type)
        return self._answered((yield from _ask(request)))

    def _answered(self, answer: Answer) -> _pull.Answered:
        return _pull.Answered(answer, self.retry.monotonic())

    def _read_back(self, command: _pull.ReadBack) -> Flow[_pull.Event]:
        finder = self.store.finder(command.batch)
        end = yield from _read(self.url, command.anchor, command.tail, finder.feed)
        return _pull.Found(finder.verdict(), end) if isinstance(end, str) else self._broke_off(end)

    def _read_all_back(self, command: _pull.ReadAllBack) -> Flow[_pull.Event]:
        tail = command.tail
        survey: Survey = yield BeginSurvey()
        anchor = survey.anchor
        if anchor is None or anchor > tail or command.expired:
            # The server went back beyond everything that is kept: only the whole stream says what is there.
            anchor = BEGINNING
        survey.start, survey.expired = anchor, command.expired
        end = yield from _read(self.url, anchor, tail, survey.feed, leniently=command.leniently)
        if anchor != BEGINNING and isinstance(end, str) and survey.incomplete:
            # An end behind the anchor proves nothing: the claim, or somebody else, may have moved it there.
            survey = yield BeginSurvey()
            survey.start = BEGINNING
            end = yield from _read(self.url, BEGINNING, tail, survey.feed, leniently=command.leniently)
        return _pull.Surveyed(survey, end) if isinstance(end, str) else self._broke_off(end)

    def _broke_off(self, end: Answer | _BadPage) -> _pull.Event:
        if isinstance(end, _BadPage):
            return _pull.Unreadable(end.why, self.retry.monotonic())
        return self._answered(end)


@dataclass(frozen=True, slots=True)
class _BadPage:
    """A page that is the stream server's and cannot be read here."""

    why: str


def _read(
    url: str, start: str, tail: str, feed: Callable[[bytes], None], *, leniently: bool = False
) -> Flow[str | Answer | _BadPage]:
    """Read from an offset until the tail, or beyond it; return the end, or what broke it off.

    ``leniently``: pages that cannot be read are stepped over.
    """
    offset = start
    while offset == BEGINNING or offset < tail:
        answer = yield from _ask(Request("GET", url, params=(("offset", offset),)))
        if isinstance(answer, Failure) or answer.status != 200:
            return answer
        end = answer.headers.get(STREAM_NEXT_OFFSET, "")
        if not end or (offset != BEGINNING and end <= offset):
            # It is nobody knows whose; or it does not advance, and would be read for ever.
            return Failure(f"a read from {offset} ended at {end!r}")
        wrong = _feed(feed, answer.body)
        if wrong and not leniently:
            return _BadPage(f"a read from {offset} {wrong}")
        offset = end
    return offset


def _feed(feed: Callable[[bytes], None], page: bytes) -> str:
    """Hand a page on; return what is wrong with it."""
    if len(page) >= MAX_PAGE_BYTES:
        return f"has more than {MAX_PAGE_BYTES} bytes"
    try:
        feed(page)
    except ValueError as error:
        return f"is not a JSON array: {error}"
    return ""


def _ask(request: Request) -> Flow[Answer]:
    size_seconds = len(request.body or b"") / SLOWEST_BYTES_PER_SECOND
    patient = replace(
        request,
        # A gateway reads what others may have filled: no decompression bombs, and never a cached tail.
        headers={**request.headers, "accept-encoding": "identity", "cache-control": "no-cache"},
        timeout_seconds=ANSWER_SECONDS + size_seconds,
    )
    if request.method == "GET":
        answer: Answer = yield Ask(patient, MAX_PAGE_BYTES, PAGE_SECONDS)
    else:
        answer = yield Ask(patient, MAX_REPLY_BYTES, 2 * (ANSWER_SECONDS + size_seconds))
    return answer
