"""One request until it has an answer that counts: what is tried again, and when.

Every answer is one of three:

    SETTLED     it says what happened, for good or bad
    NOT_NOW     nothing happened: 429, 503 with ``Retry-After``, or not one byte left
    DOUBTFUL    nobody knows: a timeout, a reset, 5xx

NOT_NOW is always tried again. DOUBTFUL is tried again only if doing it twice is the same as doing it once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from durable_streams._answers import error_from
from durable_streams._effects import Flow, send, sleep
from durable_streams._retry import Backoff, RandomSource, retry_after_seconds
from durable_streams._wire import Answer, Failure, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


class Outcome(Enum):
    """How much an answer says."""

    SETTLED = "settled"
    NOT_NOW = "not now"
    DOUBTFUL = "doubtful"


def outcome(answer: Answer) -> Outcome:
    """Say how much an answer says."""
    if isinstance(answer, Failure):
        return Outcome.DOUBTFUL if answer.sent else Outcome.NOT_NOW
    if answer.status == 429 or (answer.status == 503 and "retry-after" in answer.headers):
        return Outcome.NOT_NOW
    # 501 and 505 will be the answer next time too.
    if answer.status == 408 or (answer.status >= 500 and answer.status not in {501, 505}):
        return Outcome.DOUBTFUL
    return Outcome.SETTLED


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when to try again. Clocks and the random source are given, so that tests need no time."""

    random: RandomSource
    utc_now: Callable[[], datetime]
    monotonic: Callable[[], float]
    backoff: Backoff = field(default_factory=Backoff)
    max_retries: int = 6
    """Retries of a request that must end one day; live reads have no such limit."""

    def delay(self, attempt: int, answer: Answer) -> float:
        """Seconds to wait after failed attempt ``attempt`` (from 0): back-off, or more if the server asks."""
        seconds = self.backoff.delay(attempt, self.random)
        if isinstance(answer, Reply):
            asked = retry_after_seconds(answer.headers, self.utc_now())
            seconds = max(seconds, asked or 0.0)
        return seconds


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer that counts. ``doubted``: an earlier attempt may have done what this one was to do."""

    reply: Reply
    doubted: bool


def exchange(request: Request, policy: RetryPolicy, *, repeatable: bool) -> Flow[Settled]:
    """Send a request, again if need be and allowed, until its answer counts.

    Raises the error of the last answer when it may not, or should not, be sent again.
    """
    attempt, doubted = 0, False
    while True:
        answer = yield from send(request)
        how = outcome(answer)
        if how is Outcome.SETTLED and isinstance(answer, Reply):
            return Settled(answer, doubted)
        if how is Outcome.DOUBTFUL and not repeatable:
            error = error_from(answer, request)
            error.add_note("It may have been stored: sending it again could store it twice.")
            raise error
        if attempt >= policy.max_retries:
            raise error_from(answer, request)
        doubted = doubted or how is Outcome.DOUBTFUL
        yield from sleep(policy.delay(attempt, answer))
        attempt += 1
