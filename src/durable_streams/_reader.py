r"""Reading a stream: pages by ``Stream-Next-Offset`` to the end, then live, until the stream is closed.

    live=False         CATCH-UP --up to date--> end
    live="long-poll"   CATCH-UP --up to date--> LONG-POLL --up to date--> LONG-POLL ...
    live=True          CATCH-UP --up to date--> EVENTS, where the server serves them, else LONG-POLL
    live="sse"         EVENTS

Rules:

- The first request answers at once, with data, emptiness or an error: a plain catch-up read, or an event stream.
- What breaks is resumed at the last page's end, which for events is the last control event. Before the first
  answer, and in reads that end, only so often; in live reads for ever, because they must not end because a
  connection did. An event stream that ends in order is no failure: servers do that every minute.
- Only closure ends a live read (PROTOCOL section 5.7).
- Where "now" is, the head of the first answer says, a plain read's; from then on the read is one from that offset.
  An event stream would say it behind the first data, which a break might skip.
- With ``live=True`` the server's answers decide about events, once for the whole read. Long-polls take their place
  after an answer that is no event stream, a refusal of what a plain read was just granted, events that cannot be
  decoded, or connections that end again and again without one event.
- A flow may be dropped at any of its effects (a cancelled task, an interrupted program). So nothing is awaited
  between a change of the position and the piece that it belongs to, and an answer that a flow was dropped from is
  asked for again: part of it may be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from durable_streams._answers import error_from
from durable_streams._effects import Flow, close_body, consult, next_chunk, open_body, sleep
from durable_streams._exchange import Outcome, outcome
from durable_streams._pacing import Pacing
from durable_streams._pages import EventBody, PageBody
from durable_streams._wire import (
    NOW_OFFSET,
    STREAM_CLOSED,
    STREAM_NEXT_OFFSET,
    Answer,
    Failure,
    Reply,
    Request,
    media_type,
)
from durable_streams.errors import ParseError, SSEEncodingError, SSENotSupportedError, StreamConsumedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from durable_streams._exchange import RetryPolicy
    from durable_streams._pages import Body, Page, Piece
    from durable_streams._types import LiveMode
    from durable_streams.errors import DurableStreamError

LIVE_TIMEOUT_SECONDS: Final = 90.0
"""Read timeout of a long-poll and of an event stream: longer than any server is known to be silent (an event
stream ends after a minute, PROTOCOL section 10.2), short enough to notice a dead peer."""

EVENT_STREAM: Final = "text/event-stream"

_REFUSALS_OF_EVENTS: Final = frozenset({400, 405, 406, 415, 501})
_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})
"""With one of these an answer that was cut off is never taken for a complete one (RFC 9112, 6.3)."""
_CUT_SHORT: Final = Failure("the answer ends in the middle of a message")
_FRUITLESS_STREAMS: Final = 3
"""So many event streams in a row without one event, and ``live=True`` tries long-polls instead."""


class Mode(Enum):
    """How a read goes on when it is up to date."""

    CATCH_UP = "catch-up"
    LONG_POLL = "long-poll"
    SSE = "sse"
    AUTO = "auto"


def resolve_mode(live: LiveMode) -> Mode:
    """Choose the mode for what the caller asked for. Raises ValueError for an unknown word."""
    match live:
        case False:
            return Mode.CATCH_UP
        case True:
            return Mode.AUTO
        case "long-poll":
            return Mode.LONG_POLL
        case "sse":
            return Mode.SSE
        case _:
            raise ValueError(f"live is True, False, 'long-poll' or 'sse', not {live!r}")


@dataclass(slots=True)
class Position:
    """Where a read goes on, and what is known about the stream there."""

    offset: str
    cursor: str | None
    up_to_date: bool = False
    closed: bool = False


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
        content_type: str | None = None,
    ) -> None:
        self.url = url
        self.mode = resolve_mode(live)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content_type = content_type
        self.released = False
        self.start = offset
        """Where the read begins; once it is open, never "now"."""
        self._position = Position(offset, cursor)
        self._pacing = Pacing(policy)
        self._body: Body | None = None
        self._pieces: Iterator[Piece] = iter(())
        self._inside = False  # somebody is waiting for the body's next bytes, or was
        self._answered = False
        self._ends = self.mode is Mode.CATCH_UP
        self._events_served = self.mode in {Mode.SSE, Mode.AUTO}
        self._fruitless = 0
        self._cut_at: str | None = None
        self._cuts = 0

    def open(self) -> Flow[None]:
        """Ask for the first page, if no page is open; raise what the server refuses."""
        if self._body is None:
            yield from self._open()

    def pull(self, *, until_up_to_date: bool) -> Flow[Piece | None]:
        """Return the next piece, or None at the end of the read.

        Raises the server's refusals, `FetchError`, `SSENotSupportedError`, `ParseError` for events that cannot be
        understood, and `StreamConsumedError` once `released` is set.
        """
        self._ends = until_up_to_date or self.mode is Mode.CATCH_UP
        if self._inside:
            yield from self._drop_body()
        while not self._at_end():
            try:
                piece = next(self._pieces, None)
            except ParseError as error:
                yield from self._drop_body()
                self._give_up_events(error)
                continue
            if piece is not None:
                self._pass(piece)
                return piece
            if self.released:
                raise StreamConsumedError("this response is closed", url=self.url)
            if self._body is None:
                yield from self._open()
            else:
                yield from self._receive(self._body)
        if self._body is not None:
            yield from self._drop_body()
        return None

    def read_again(self, page: Page) -> bool:
        """Go back to a page whose content says that its end is missing, though the answer ended in order.

        False if something told its end, or if that did not help often enough.
        """
        if self._body is not None or not _LENGTHS.isdisjoint(self.headers):
            return False
        self._cuts = self._cuts + 1 if page.start == self._cut_at else 0
        self._cut_at = page.start
        self._position = Position(page.start, page.cursor)
        return self._pacing.fail_late(_CUT_SHORT, self._cuts)

    def _at_end(self) -> bool:
        return self._position.closed or (self._ends and self._position.up_to_date)

    # -- Opening an answer -------------------------------------------------------------------------

    def _open(self) -> Flow[None]:
        while self._body is None:
            pause_seconds = self._pacing.pause_seconds()
            if pause_seconds > 0:
                yield from sleep(pause_seconds)
            request = self._request()
            self._pacing.ask()
            answer = yield from open_body(request)
            if _asks_for_events(request):
                yield from self._take_events(answer, request)
            elif isinstance(answer, Reply) and _is_page(answer):
                yield from self._take_page(answer)
            else:
                yield from self._fail(answer, request)

    def _take_page(self, reply: Reply) -> Flow[None]:
        self.content_type = reply.headers.get("content-type", self.content_type)
        if self._position.offset == NOW_OFFSET:
            self.start = self._position.offset = reply.headers[STREAM_NEXT_OFFSET]
        if self.mode is Mode.SSE and not reply.is_true(STREAM_CLOSED):
            yield from close_body()  # it was only asked for where "now" is
        else:
            self._adopt(PageBody(self._position.offset, self._position.cursor, reply), reply)

    def _request(self) -> Request:
        params = [("offset", self._position.offset)]
        by_events = self.mode is Mode.SSE and self._position.offset != NOW_OFFSET
        if self._events_served and (by_events or self._position.up_to_date):
            live, headers = "sse", {"accept": EVENT_STREAM}
        elif self._position.up_to_date:
            live, headers = "long-poll", {}
        else:
            return Request("GET", self.url, params=tuple(params))
        params.append(("live", live))
        if self._position.cursor is not None:
            params.append(("cursor", self._position.cursor))
        return Request(
            "GET", self.url, headers=headers, params=tuple(params), timeout_seconds=LIVE_TIMEOUT_SECONDS
        )

    def _adopt(self, body: Body, reply: Reply) -> None:
        self._body = body
        self._answered = True
        self.status, self.headers = reply.status, reply.headers

    def _fail(self, answer: Answer, request: Request) -> Flow[None]:
        """Note a failure; raise it when there must be no further attempt."""
        yield from close_body()
        successful = isinstance(answer, Reply) and answer.status < 300
        transient = successful or outcome(answer) is not Outcome.SETTLED
        for_ever = self._answered and not self._ends
        if not transient or (not for_ever and self._pacing.exhausted):
            yield from self._consult(error_from(answer, request))
        self._pacing.fail(answer)

    def _consult(self, error: DurableStreamError) -> Flow[None]:
        again = yield from consult(error)
        if not again:
            raise error

    # -- Events, or none ---------------------------------------------------------------------------

    def _take_events(self, answer: Answer, request: Request) -> Flow[None]:
        if isinstance(answer, Reply) and answer.status == 200 and _is_event_stream(answer):
            try:
                body = EventBody(self._position.offset, self._position.cursor, answer)
            except SSEEncodingError as error:
                yield from close_body()
                self._give_up_events(error)
            else:
                self._adopt(body, answer)
        elif isinstance(answer, Reply) and self._refused(answer):
            yield from close_body()
            if self.mode is Mode.AUTO:
                self._events_served = False
                return
            refusal = yield from self._refusal(answer, request)
            yield from self._consult(refusal)
            self._pacing.fail(answer)
        else:
            if isinstance(answer, Reply) and outcome(answer) is Outcome.DOUBTFUL:
                self._count_fruitless()
            yield from self._fail(answer, request)

    def _refused(self, reply: Reply) -> bool:
        """Whether this says that there are no events to be had, rather than that something broke."""
        if self.mode is Mode.SSE:
            return not self._answered and (reply.status < 300 or reply.status in _REFUSALS_OF_EVENTS)
        return reply.status in _REFUSALS_OF_EVENTS or (reply.status < 300 and reply.from_stream_server)

    def _refusal(self, reply: Reply, request: Request) -> Flow[DurableStreamError]:
        """Say what was refused: events, if a plain read is granted; else that read."""
        if reply.status >= 300:
            plain = Request("GET", self.url, params=(("offset", self._position.offset),))
            probe = yield from open_body(plain)
            yield from close_body()
            if not isinstance(probe, Reply) or outcome(probe) is not Outcome.SETTLED:
                return error_from(reply, request)
            if not _is_page(probe):
                return error_from(probe, plain)
        got = reply.headers.get("content-type", "no content type") if reply.status < 300 else "a refusal"
        return SSENotSupportedError(
            f"the server serves no events for this stream (HTTP {reply.status}, {got}): "
            "use live=True or live='long-poll'",
            status=reply.status,
            url=self.url,
            headers=reply.headers,
        )

    def _give_up_events(self, error: ParseError) -> None:
        """Raise an error of the events, unless the same data can be had in another way."""
        if self.mode is not Mode.AUTO or not isinstance(error, SSEEncodingError):
            raise error
        self._events_served = False

    def _count_fruitless(self, body: EventBody | None = None) -> None:
        self._fruitless = 0 if body is not None and body.fruitful else self._fruitless + 1
        if self.mode is Mode.AUTO and self._fruitless >= _FRUITLESS_STREAMS:
            self._events_served = False

    # -- Reading an answer -------------------------------------------------------------------------

    def _receive(self, body: Body) -> Flow[None]:
        self._inside = True
        chunk = yield from next_chunk()
        self._inside = False
        if not isinstance(chunk, Failure):
            self._pieces = body.pieces(chunk)
            if chunk:
                return
        self._body = None
        if isinstance(body, EventBody):
            self._count_fruitless(body)
            self._pacing.end()
        if isinstance(chunk, Failure):
            yield from self._fail(chunk, self._request())

    def _drop_body(self) -> Flow[None]:
        self._body, self._pieces, self._inside = None, iter(()), False
        yield from close_body()

    def _pass(self, piece: Piece) -> None:
        if not piece.last:
            return
        page = piece.page
        self._position = Position(page.next_offset, page.cursor, page.up_to_date, page.closed)
        self._pacing.pass_page(page, complete=self._body is None)
        if self._body is None:
            self._pacing.end()


def _asks_for_events(request: Request) -> bool:
    return request.headers.get("accept") == EVENT_STREAM


def _is_page(reply: Reply) -> bool:
    # "now" is no offset that a server may give: whoever followed it would never know where it is.
    return reply.status in {200, 204} and reply.headers.get(STREAM_NEXT_OFFSET, NOW_OFFSET) != NOW_OFFSET


def _is_event_stream(reply: Reply) -> bool:
    return media_type(reply.headers.get("content-type")) == EVENT_STREAM
