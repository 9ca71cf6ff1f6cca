"""One request until it has an answer that counts: what is tried again, and when.

Every answer is one of three:

    SETTLED     it says what happened, for good or bad
    NOT_NOW     nothing happened: 421, 425, 429, 503 with ``Retry-After``, the stream server's own 507, or not
                one byte left
    DOUBTFUL    nobody knows: a timeout, a reset, 5xx

NOT_NOW is always tried again. DOUBTFUL is tried again where doing it twice is the same as doing it once
(`exchange`), or after making sure that it was not done (`exchange_once`).

An attempt may also raise: making a request runs the caller's own callables, and needs a client that is open. That
comes out as it is, unless an earlier attempt is in doubt: then it is a `FetchError` that says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from durable_streams._answers import error_from, in_doubt
from durable_streams._effects import Flow, send, sleep
from durable_streams._retry import Backoff, RandomSource, retry_after_seconds
from durable_streams._wire import STREAM_NEXT_OFFSET, Answer, Failure, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from durable_streams.errors import DurableStreamError

logger = logging.getLogger("durable_streams.client")

_NOT_DONE: Final = frozenset({421, 425, 429})
"""By their definitions nothing was done: misdirected (RFC 9110), too early (RFC 8470), too many (RFC 6585)."""

_FINISHED: Final = frozenset({500, 503})
"""The server's own last word. 502 and 504 are a proxy's, behind which the request may still be travelling."""


class Outcome(Enum):
    """How much an answer says."""

    SETTLED = "settled"
    NOT_NOW = "not now"
    DOUBTFUL = "doubtful"


def outcome(answer: Answer) -> Outcome:
    """Say how much an answer says."""
    if isinstance(answer, Failure):
        return Outcome.DOUBTFUL if answer.sent else Outcome.NOT_NOW
    if answer.status in _NOT_DONE or (answer.status == 503 and "retry-after" in answer.headers):
        return Outcome.NOT_NOW
    if answer.status == 507 and answer.from_stream_server:
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
        said = f"HTTP {answer.status}" if isinstance(answer, Reply) else answer.reason
        logger.debug("no usable answer: %s; it is tried again", said)
        return seconds


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer that counts. ``doubted``: an earlier attempt may have done what this one was to do."""

    reply: Reply
    doubted: bool


def exchange(request: Request, policy: RetryPolicy) -> Flow[Settled]:
    """Send a request that may be done twice, again if need be, until its answer counts.

    Raises the error of the last answer when it should not be sent again.
    """
    attempt, doubted = 0, False
    while True:
        try:
            answer = yield from send(request)
        # Boundary: the caller's callables may raise anything, which must not hide that there is a doubt.
        except Exception as error:
            if doubted and _changes_something(request):
                raise _not_made_again(request, error) from error
            raise
        how = outcome(answer)
        if how is Outcome.SETTLED and isinstance(answer, Reply):
            return Settled(answer, doubted)
        doubted = doubted or how is Outcome.DOUBTFUL
        if attempt >= policy.max_retries:
            last = error_from(answer, request)
            raise in_doubt(last) if doubted and _changes_something(request) else last
        yield from sleep(policy.delay(attempt, answer))
        attempt += 1


def exchange_once(request: Request, policy: RetryPolicy, *, tail: str | None) -> Flow[Settled]:
    """Send a plain append, which the server cannot tell from a second one, until its answer counts.

    ``tail`` is where the stream was last seen to end. After a 500 or 503 it is compared with the tail of now:
    while they are the same nothing was stored, so the request may be sent again. This rests on two things: who
    answers 500 or 503 has finished with the request, and HEAD is answered by the stream, not by a cache or a copy
    that lags behind.

    Raises the error of the last answer; it is in doubt unless the stream was seen not to have grown.
    """
    attempt = 0
    while True:
        answer = yield from send(request)
        how = outcome(answer)
        if how is Outcome.SETTLED and isinstance(answer, Reply):
            return Settled(answer, doubted=False)
        last = attempt >= policy.max_retries
        if how is Outcome.DOUBTFUL:
            # Later is better: what a server does after its answer, against all rules, may have shown by then.
            wait = policy.delay(attempt, answer)
            error = error_from(answer, request)
            yield from _make_sure_nothing_was_stored(answer, error, request.url, policy, tail=tail, wait=wait)
            if last:
                error.add_note("It was not stored: the stream has not grown.")
                raise error
        elif last:
            raise error_from(answer, request)
        else:
            yield from sleep(policy.delay(attempt, answer))
        attempt += 1


def _make_sure_nothing_was_stored(
    answer: Answer, error: DurableStreamError, url: str, policy: RetryPolicy, *, tail: str | None, wait: float
) -> Flow[None]:
    """Raise the error, in doubt, unless the stream still ends where it did."""
    if not isinstance(answer, Reply) or answer.status not in _FINISHED:
        before = "" if tail is None else f" Before it, the stream ended at {tail!r}."
        raise in_doubt(error, f"It may have been stored, or may still be on its way.{before}")
    if tail is None:
        raise in_doubt(
            error, "It may have been stored: this handle had not seen the stream's tail before. `head` shows it."
        )
    yield from sleep(wait)
    request = Request("HEAD", url, {"cache-control": "no-cache"})
    try:
        reply = (yield from exchange(request, policy)).reply
    # Boundary, as in `exchange`: an append is in doubt here, whatever making this request raises.
    except Exception as second:
        raise in_doubt(error, f"It may have been stored; asking the stream failed, too: {second}") from second
    now = reply.headers.get(STREAM_NEXT_OFFSET) if reply.status == 200 else None
    if now is None:
        raise in_doubt(error, f"It may have been stored; asked for its tail, the server answered {reply.status}.")
    if now != tail:
        grown = f"the stream has grown from {tail!r} to {now!r}, by this or by another append"
        raise in_doubt(error, f"It may have been stored: {grown}.")


def _changes_something(request: Request) -> bool:
    return request.method not in {"GET", "HEAD"}


def _not_made_again(request: Request, error: Exception) -> DurableStreamError:
    reason = f"the request could not be made again: {type(error).__name__}: {error}"
    return in_doubt(error_from(Failure(reason, cause=error), request))
