"""What a window does about an answer: one row for each verdict.

`_producer.judge` says what an answer means for one attempt. Here it is weighed with what the window knows: whether
the batch was sent in its turn, whether the epoch is proved to be ours, whether epochs may be claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_streams._answers import error_from
from durable_streams._producer import Judgement, Verdict, judge
from durable_streams._types import IdempotentAppendResult
from durable_streams._wire import PRODUCER_SEQ, Answer, Reply
from durable_streams.errors import ProducerError, StaleEpochError

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams._batches import Flight
    from durable_streams._window import Window
    from durable_streams.errors import DurableStreamError


@dataclass(frozen=True, slots=True)
class _Landing:
    """A flight with its answer, and the window it belongs to."""

    window: Window
    flight: Flight
    answer: Answer
    judgement: Judgement
    now: float

    def confirm(self, *, duplicate: bool) -> None:
        offset = None if duplicate else self.judgement.offset
        self.window.confirm(self.flight.batch, IdempotentAppendResult(offset, duplicate))

    def fail(self, error: DurableStreamError | None = None) -> None:
        self.window.stop(self.flight.batch, error or error_from(self.answer, self.flight.request))

    def fail_unless(self, planned: bool) -> None:  # noqa: FBT001 - reads as a sentence at its calls
        if not planned:
            self.fail()


def answered(window: Window, flight: Flight, answer: Answer, now: float) -> None:
    """Take the answer to a flight. Afterwards its batch, and others, may be settled."""
    window.land(flight)
    landing = _Landing(window, flight, answer, judge(flight.attempt, answer), now)
    if window.counts(flight.batch):
        table = _PROBE_REACTIONS if flight.probe else _REACTIONS
        table[landing.judgement.verdict](landing)
    else:
        _behind_a_failure(landing)
    window.apply_plans()


def crashed(window: Window, flight: Flight, error: DurableStreamError) -> None:
    """Take it that a flight can have no answer, because making its request failed."""
    window.land(flight)
    window.stop(flight.batch, error)  # which says so, if an earlier attempt may have arrived
    window.apply_plans()


def _behind_a_failure(landing: _Landing) -> None:
    """A batch flew while one before it failed: it has arrived all the same, or it is stopped."""
    match landing.judgement.verdict:
        case Verdict.APPENDED | Verdict.ENDED:
            landing.confirm(duplicate=False)
        case Verdict.DUPLICATE:
            landing.confirm(duplicate=True)
        case Verdict.AMBIGUOUS | Verdict.PATH_BROKEN | Verdict.DUPLICATE_UNSENT:
            landing.flight.batch.doubtful = True
            landing.fail()
        case _:
            landing.fail()


def _appended(landing: _Landing) -> None:
    landing.confirm(duplicate=False)


def _duplicate(landing: _Landing) -> None:
    landing.confirm(duplicate=True)


def _duplicate_unsent(landing: _Landing) -> None:
    """204 for a number that this producer never sent, or together with one that it never sent."""
    window, attempt = landing.window, landing.flight.attempt
    highest = landing.answer.integer(PRODUCER_SEQ) if isinstance(landing.answer, Reply) else None
    if attempt.repeated and highest is not None and highest < window.next_seq:
        # Ours: an earlier attempt landed, and later batches of ours after it.
        landing.confirm(duplicate=True)
    elif window.settings.auto_claim:
        landing.fail_unless(window.plan_claim(window.epoch + 1))
    elif window.epoch_chosen and not window.appended:
        # The caller chose an epoch that was used before, and begins it again: the server has these numbers.
        landing.confirm(duplicate=True)
    else:
        url, epoch = window.settings.url, window.epoch
        landing.flight.batch.doubtful = True  # or something on the way has sent our request twice
        landing.fail(StaleEpochError(f"another producer with this id writes in epoch {epoch}", url=url))


def _fenced(landing: _Landing) -> None:
    window = landing.window
    window.fenced_by = max(window.fenced_by, landing.judgement.server_epoch or 0)
    if window.settings.auto_claim:
        current = landing.judgement.server_epoch or window.epoch
        landing.fail_unless(window.plan_claim(current + 1))
    else:
        landing.fail()


def _gap(landing: _Landing) -> None:
    if landing.flight.in_turn:
        landing.fail()
    else:
        batch = landing.flight.batch
        batch.turned_back = batch.needs_turn = True


def _too_large(landing: _Landing) -> None:
    error = error_from(landing.answer, landing.flight.request)
    landing.window.plan_split(landing.flight.batch, error)


def _not_now(landing: _Landing) -> None:
    landing.fail_unless(landing.window.postpone(landing.flight.batch, landing.answer, landing.now))


def _doubtful(landing: _Landing) -> None:
    # A probe is never appended, so its lost answer leaves no doubt about the batch.
    if not landing.flight.probe:
        landing.flight.batch.doubtful = True
    _not_now(landing)


def _path_broken(landing: _Landing) -> None:
    answer = landing.answer
    if isinstance(answer, Reply) and answer.status == 413:
        _too_large(landing)  # a proxy's limit is one, too
    elif isinstance(answer, Reply) and 400 <= answer.status < 500 and answer.status != 408:
        landing.fail()
    else:
        _doubtful(landing)


def _refused(landing: _Landing) -> None:
    landing.fail()


def _unconfirmable(landing: _Landing) -> None:
    message = f"the server does not take part in idempotent appends: {landing.judgement.detail}"
    landing.fail(ProducerError(message, url=landing.window.settings.url))


_REACTIONS: dict[Verdict, Callable[[_Landing], None]] = {
    Verdict.APPENDED: _appended,
    Verdict.ENDED: _appended,
    Verdict.DUPLICATE: _duplicate,
    Verdict.DUPLICATE_UNSENT: _duplicate_unsent,
    Verdict.UNCONFIRMED: _unconfirmable,
    Verdict.FENCED: _fenced,
    Verdict.FORGOTTEN: _gap,
    Verdict.AHEAD: _refused,
    Verdict.EPOCH_BEHIND: _refused,
    Verdict.CLOSED: _refused,
    Verdict.CONTENT_TYPE: _refused,
    Verdict.UNAUTHORIZED: _refused,
    Verdict.MISSING: _refused,
    Verdict.GONE: _refused,
    Verdict.REFUSED: _refused,
    Verdict.TOO_LARGE: _too_large,
    Verdict.WAIT: _not_now,
    Verdict.NOT_SENT: _not_now,
    Verdict.AMBIGUOUS: _doubtful,
    Verdict.PATH_BROKEN: _path_broken,
}


def _probe_answered(landing: _Landing) -> None:
    """409 with the number that the server would take: 0 from a server that does not know this producer."""
    window = landing.window
    window.epoch_known = True
    if landing.judgement.expected_seq:
        landing.fail_unless(window.plan_claim(window.epoch + 1))


def _probe_too_new(landing: _Landing) -> None:
    """400: the server knows this producer in a lower epoch only, so ours is fresh."""
    landing.window.epoch_known = True


_PROBE_REACTIONS: dict[Verdict, Callable[[_Landing], None]] = {
    **_REACTIONS,
    Verdict.APPENDED: _unconfirmable,
    Verdict.DUPLICATE: _unconfirmable,
    Verdict.DUPLICATE_UNSENT: _unconfirmable,
    Verdict.FORGOTTEN: _probe_answered,
    Verdict.EPOCH_BEHIND: _probe_too_new,
    Verdict.REFUSED: _probe_too_new,
}
