r"""Reading a stream: pages by ``Stream-Next-Offset`` to the end, then live, until the stream is closed.

    CATCH-UP --up to date--> (live=False: end)  LONG-POLL --up to date--> LONG-POLL ...
        \                                          \
         \---------------------- closed ------------\--> end

Rules:

- The first request is always a plain catch-up read: it answers at once, with data, emptiness or an error.
- What breaks is resumed at the page's start offset. Before the first answer, and in reads that end, only so
  often; in live reads for ever, because they must not end because a connection did.
- Only ``Stream-Closed`` ends a live read (PROTOCOL section 5.7).
- A page that does not advance counts as up to date: following it would ask for the same page for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from durable_streams._answers import error_from
from durable_streams._decoding import Page
from durable_streams._effects import Flow, close_body, consult, next_chunk, open_body, sleep
from durable_streams._exchange import Outcome, RetryPolicy, outcome
from durable_streams._wire import (
    STREAM_CLOSED,
    STREAM_CURSOR,
    STREAM_NEXT_OFFSET,
    STREAM_UP_TO_DATE,
    Answer,
    Failure,
    Reply,
    Request,
)
from durable_streams.errors import SSENotSupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_streams._types import LiveMode
    from durable_streams.errors import DurableStreamError

LONG_POLL_TIMEOUT_SECONDS: Final = 90.0
"""Read timeout of a long-poll: longer than any server is known to wait, short enough to notice a dead peer."""

_QUICK_SECONDS: Final = 0.05
_QUICK_ANSWERS: Final = 3
"""So many empty long-polls in a row that were answered at once are no waiting: then the client waits itself."""


class Mode(Enum):
    """How a read goes on when it is up to date."""

    CATCH_UP = "catch-up"
    LONG_POLL = "long-poll"


def resolve_mode(live: LiveMode) -> Mode:
    """Choose the mode for what the caller asked for."""
    match live:
        case False:
            return Mode.CATCH_UP
        case True | "long-poll":
            return Mode.LONG_POLL
        case "sse":
            raise SSENotSupportedError("this version reads live by long-poll only: use live=True or 'long-poll'")
        case _:
            raise ValueError(f"live is True, False, 'long-poll' or 'sse', not {live!r}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a page. ``first`` also marks a page that begins again; ``last`` is its end."""

    data: bytes
    page: Page
    first: bool
    last: bool


class Reader:
    """Where a read is. Its flows do the reading; nothing else changes it."""

    def __init__(
        self,
        url: str,
        policy: RetryPolicy,
        *,
        offset: str,
        live: LiveMode,
        cursor: str | None = None,
    ) -> None:
        self.url = url
        self.mode = resolve_mode(live)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._policy = policy
        self._offset = offset
        self._cursor = cursor
        self._tail_seen = False
        self._closed_seen = False
        self._answered = False
        self._page: Page | None = None
        self._first = True
        self._held: bytes | None = None
        self._broken: Failure | None = None
        self._failures = 0
        self._quick = 0
        self._asked_at = 0.0

    def open(self) -> Flow[None]:
        """Ask for the first page, if no page is open; raise what the server refuses."""
        if self._page is None:
            yield from self._open_page()

    def pull(self, *, until_up_to_date: bool) -> Flow[Piece | None]:
        """Return the next bytes, or None at the end of the read."""
        while True:
            if self._page is None:
                if self._at_end(until_up_to_date=until_up_to_date):
                    return None
                yield from self._open_page()
            elif self._broken is not None:
                yield from self._reopen(self._broken)
            else:
                piece = yield from self._next_piece(self._page)
                if piece is not None:
                    return piece

    def close(self) -> Flow[None]:
        """Let go of the connection."""
        self._page = None
        yield from close_body()

    def _at_end(self, *, until_up_to_date: bool) -> bool:
        return self._closed_seen or (self._tail_seen and (until_up_to_date or self.mode is Mode.CATCH_UP))

    # -- Opening a page ----------------------------------------------------------------------------

    def _request(self) -> Request:
        if self._tail_seen and self.mode is Mode.LONG_POLL:
            params = [("live", "long-poll"), ("offset", self._offset)]
            if self._cursor is not None:
                params.append(("cursor", self._cursor))
            timeout: float | None = LONG_POLL_TIMEOUT_SECONDS
        else:
            params, timeout = [("offset", self._offset)], None
        return Request("GET", self.url, params=tuple(params), timeout_seconds=timeout)

    def _open_page(self) -> Flow[None]:
        while True:
            request = self._request()
            self._asked_at = self._policy.monotonic()
            answer = yield from open_body(request)
            if isinstance(answer, Reply) and answer.status in {200, 204}:
                if STREAM_NEXT_OFFSET in answer.headers:
                    self._adopt(answer)
                    return
                yield from close_body()
            yield from self._after_failure(answer, request)

    def _adopt(self, reply: Reply) -> None:
        next_offset = reply.headers[STREAM_NEXT_OFFSET]
        closed = reply.is_true(STREAM_CLOSED)
        self._page = Page(
            start=self._offset,
            next_offset=next_offset,
            cursor=reply.headers.get(STREAM_CURSOR, self._cursor),
            up_to_date=closed or reply.is_true(STREAM_UP_TO_DATE) or next_offset == self._offset,
            closed=closed,
        )
        self._first, self._held, self._broken = True, None, None
        self._answered = True
        self.status, self.headers = reply.status, reply.headers

    def _after_failure(self, answer: Answer, request: Request) -> Flow[None]:
        """Wait before the next attempt, or raise when there must be none."""
        successful = isinstance(answer, Reply) and answer.status < 300
        transient = successful or outcome(answer) is not Outcome.SETTLED
        live = self._answered and self.mode is not Mode.CATCH_UP
        if not transient or (not live and self._failures >= self._policy.max_retries):
            error = error_from(answer, request)
            yield from self._consult(error)
        yield from sleep(self._policy.delay(self._failures, answer))
        self._failures += 1

    def _consult(self, error: DurableStreamError) -> Flow[None]:
        again = yield from consult(error)
        if not again:
            raise error

    def _reopen(self, failure: Failure) -> Flow[None]:
        assert self._page is not None, "only an open page breaks"
        self._page, self._broken = None, None
        yield from close_body()
        yield from self._after_failure(failure, self._request())

    # -- Reading a page ----------------------------------------------------------------------------

    def _next_piece(self, page: Page) -> Flow[Piece | None]:
        """Return the next bytes of the page. One chunk is read ahead, to know the last one as such."""
        if self._held is None:
            held = yield from next_chunk()
            if isinstance(held, Failure):
                self._broken = held
                return None
            self._held = held
        data, ahead = self._held, b""
        if data:
            following = yield from next_chunk()
            if isinstance(following, Failure):
                self._broken = following  # after the bytes that did arrive
            else:
                ahead = following
        self._held = ahead
        piece = Piece(data, page, first=self._first, last=not ahead and self._broken is None)
        self._first = False
        if piece.last:
            yield from self._end_page(page)
        return piece

    def _end_page(self, page: Page) -> Flow[None]:
        yield from close_body()
        self._page = None
        self._failures = 0
        self._offset, self._cursor = page.next_offset, page.cursor
        self._tail_seen, self._closed_seen = page.up_to_date, page.closed
        yield from self._pace(page)

    def _pace(self, page: Page) -> Flow[None]:
        """Wait a little where a server answers long-polls at once and without news."""
        waited = self._policy.monotonic() - self._asked_at
        idle = page.up_to_date and not page.closed and page.start == page.next_offset
        self._quick = self._quick + 1 if idle and waited < _QUICK_SECONDS else 0
        if self._quick >= _QUICK_ANSWERS and self.mode is Mode.LONG_POLL:
            yield from sleep(self._policy.backoff.delay(self._quick - _QUICK_ANSWERS, self._policy.random))
