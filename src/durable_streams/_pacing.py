"""When a read may ask again: at once as long as asking brings news, later and later where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from durable_streams._exchange import RetryPolicy
    from durable_streams._pages import Page
    from durable_streams._wire import Answer

_QUICK_SECONDS: Final = 0.25
"""An answer without news that came sooner was not waited for by the server."""
_QUICK_ANSWERS: Final = 3
"""So many of them in a row, and the client waits itself; a long-poll or an event stream is hardly ever one."""
_LONGEST_PAUSE: Final = 5
"""As an exponent: 2**5 times the first delay. It is what news are late by where a server never waits."""
_LASTING_SECONDS: Final = 5.0
"""A connection that lasted so long makes up for the failures before it, even if it brought nothing."""


class Pacing:
    """Counts the failures, and the answers without news, since the last good one."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._asked_at = 0.0
        self._not_before = 0.0
        self._brought_news = False
        self._quick = 0
        self._failures = 0

    @property
    def exhausted(self) -> bool:
        """Whether a read that must end one day has failed often enough."""
        return self._failures >= self._policy.max_retries

    def pause_seconds(self) -> float:
        """How long to wait before the next request; 0 or less means not at all."""
        return self._not_before - self._policy.monotonic()

    def ask(self) -> None:
        """Note that a request leaves now."""
        self._asked_at = self._not_before = self._policy.monotonic()
        self._brought_news = False

    def fail(self, answer: Answer) -> None:
        """Note a failure: the next request has to wait, for longer each time."""
        self._wait(self._policy.delay(self._failures, answer))
        self._failures += 1

    def fail_late(self, answer: Answer, failures: int) -> bool:
        """Note that a good answer was none, after so many others; return whether there may be another attempt."""
        self._failures = failures
        if self.exhausted:
            return False
        self.fail(answer)
        return True

    def pass_page(self, page: Page, *, complete: bool) -> None:
        """Note a page. ``complete``: its answer is at the end, so that nothing can go wrong with it any more."""
        news = page.closed or not page.up_to_date or page.start != page.next_offset
        self._brought_news = self._brought_news or news
        if complete or news or self._policy.monotonic() - self._asked_at >= _LASTING_SECONDS:
            self._failures = 0

    def end(self) -> None:
        """Note the orderly end of an answer."""
        quick = self._policy.monotonic() - self._asked_at < _QUICK_SECONDS
        self._quick = self._quick + 1 if quick and not self._brought_news else 0
        if self._quick >= _QUICK_ANSWERS:
            attempt = min(self._quick - _QUICK_ANSWERS, _LONGEST_PAUSE)
            self._wait(self._policy.backoff.delay(attempt, self._policy.random))

    def _wait(self, seconds: float) -> None:
        self._not_before = self._policy.monotonic() + seconds
