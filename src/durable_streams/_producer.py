"""What an answer to a producer's POST means: one pure table, first match wins.

Rules the table rests on (PROTOCOL sections 5.2 and 5.2.1):

- Only an answer that carries ``Producer-*`` or ``Stream-*`` headers is proved to be the stream server's, and only
  such an answer may say that something was appended, refused, fenced or forgotten. Everything else means that the
  path to the server is broken: nothing is known about the request, and nothing is given up.
- Only a 200 that echoes our epoch and sequence number means *appended*.
- A 204 says that *a* request with this number was appended. Whether it was ours is for the stream to say.
- A wait (429, 503 with ``Retry-After``, the stream server's own 507) and a request that never left are definite
  failures: nothing was appended.

`judge` decides what one answer means. What to do about it is decided by `_pull`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from durable_streams._wire import (
    MAX_PRODUCER_INTEGER,
    PRODUCER_EPOCH,
    PRODUCER_EXPECTED_SEQ,
    PRODUCER_ID,
    PRODUCER_SEQ,
    STREAM_CLOSED,
    STREAM_NEXT_OFFSET,
    Answer,
    Failure,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_SEQ: Final = MAX_PRODUCER_INTEGER
"""Sequence number of a probe: never reached by a batch, so a conforming server always finds a gap."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST: which number it carried, and whether that number may have reached the server before."""

    epoch: int
    seq: int
    repeated: bool = False
    closes: bool = False
    """Nothing is appended: the request only closes the stream (PROTOCOL section 5.3)."""


class Verdict(Enum):
    """What an answer means for the attempt."""

    APPENDED = "appended"
    ENDED = "the stream is closed, as was asked"
    DUPLICATE = "an attempt with this number landed before"
    DUPLICATE_UNSENT = "the number was used, and not by us"
    UNCONFIRMED = "a success without the producer's echo: the server ignores producers"
    CLOSED = "the stream is closed"
    FORGOTTEN = "the server expects an earlier number: it forgot or lost what it confirmed"
    AHEAD = "the server expects a later number: somebody else wrote with our identity"
    EPOCH_BEHIND = "the server is at an earlier epoch: it went back"
    CONTENT_TYPE = "the stream has another content type"
    FENCED = "a higher epoch was claimed"
    UNAUTHORIZED = "the credentials were refused"
    MISSING = "there is no such stream"
    GONE = "the stream was deleted or expired"
    TOO_LARGE = "the body is too large"
    REFUSED = "the server refuses the request as malformed"
    WAIT = "not now"
    NOT_SENT = "the server could not be reached"
    AMBIGUOUS = "nobody knows whether it was appended"
    PATH_BROKEN = "the answer may not be the stream server's"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what it rests on. ``detail`` is for people; the numbers are for programs."""

    verdict: Verdict
    detail: str
    offset: str | None = None
    """``Stream-Next-Offset``, with APPENDED and ENDED."""
    expected_seq: int | None = None
    """``Producer-Expected-Seq``, where the answer had one."""
    server_epoch: int | None = None
    """``Producer-Epoch``, with FENCED."""


def producer_request(url: str, producer_id: str, attempt: Attempt, body: bytes, *, content_type: str) -> Request:
    """Return the POST of one attempt (PROTOCOL section 5.2.1)."""
    return Request(
        "POST",
        url,
        headers={
            "content-type": content_type,
            PRODUCER_ID: producer_id,
            PRODUCER_EPOCH: str(attempt.epoch),
            PRODUCER_SEQ: str(attempt.seq),
        },
        body=body,
    )


def judge(attempt: Attempt, answer: Answer) -> Judgement:
    """Say what an answer to an attempt means. Pure and total: every answer has exactly one meaning."""
    if isinstance(answer, Failure):
        verdict = Verdict.AMBIGUOUS if answer.sent else Verdict.NOT_SENT
        return Judgement(verdict, answer.reason)
    for matches, verdict in _TABLE:
        if matches(attempt, answer):
            return Judgement(
                verdict,
                _describe(answer),
                offset=answer.headers.get(STREAM_NEXT_OFFSET),
                expected_seq=answer.integer(PRODUCER_EXPECTED_SEQ),
                server_epoch=answer.integer(PRODUCER_EPOCH),
            )
    raise AssertionError("the table's last row matches everything")  # pragma: no cover


def _describe(reply: Reply) -> str:
    text = f"HTTP {reply.status}"
    said = [f"{name}={value}" for name, value in reply.headers.items() if name.startswith("producer-")]
    # A refusal's text is the server's own explanation; a page of HTML explains nothing.
    if reply.status >= 400 and reply.headers.get("content-type", "").startswith(
        ("text/plain", "application/json")
    ):
        said.append(repr(reply.body[:200].decode("utf-8", "replace").strip()))
    return f"{text} ({', '.join(said)})" if said else text


def _echoes(attempt: Attempt, reply: Reply) -> bool:
    return reply.integer(PRODUCER_EPOCH) == attempt.epoch and reply.integer(PRODUCER_SEQ) == attempt.seq


def _expects(reply: Reply) -> int:
    expected = reply.integer(PRODUCER_EXPECTED_SEQ)
    return -1 if expected is None else expected


def _conflict_expects(reply: Reply) -> bool:
    return reply.status == 409 and reply.integer(PRODUCER_EXPECTED_SEQ) is not None


def _is_html(reply: Reply) -> bool:
    return "html" in reply.headers.get("content-type", "")


def _used_up(attempt: Attempt, reply: Reply) -> bool:
    seq = reply.integer(PRODUCER_SEQ)
    return reply.integer(PRODUCER_EPOCH) == attempt.epoch and seq is not None and seq >= attempt.seq


def _behind(attempt: Attempt, reply: Reply) -> bool:
    epoch = reply.integer(PRODUCER_EPOCH)
    return epoch is not None and epoch < attempt.epoch


# Order matters: the first row that matches is the meaning. `a` is the attempt, `r` the reply.
_TABLE: tuple[tuple[Callable[[Attempt, Reply], bool], Verdict], ...] = (
    # -- answers that change nothing, whoever sent them
    (lambda _, r: 300 <= r.status < 400, Verdict.PATH_BROKEN),
    (lambda _, r: r.status in {421, 425, 429}, Verdict.WAIT),
    (lambda _, r: r.status == 503 and "retry-after" in r.headers, Verdict.WAIT),
    (lambda _, r: r.status == 401, Verdict.UNAUTHORIZED),
    (lambda _, r: r.status == 403 and r.integer(PRODUCER_EPOCH) is None, Verdict.UNAUTHORIZED),
    # The one refusal that carries no header of its own; `_pull` asks HEAD before it believes it.
    (lambda _, r: r.status == 409 and not r.from_stream_server and not _is_html(r), Verdict.CONTENT_TYPE),
    (lambda _, r: r.status < 500 and not r.from_stream_server, Verdict.PATH_BROKEN),
    # -- success, proved to be the stream server's
    (lambda a, r: r.status == 200 and _echoes(a, r) and STREAM_NEXT_OFFSET in r.headers, Verdict.APPENDED),
    # Closing is idempotent: that somebody else was first makes no difference.
    (lambda a, r: a.closes and r.status == 204 and r.is_true(STREAM_CLOSED), Verdict.ENDED),
    (lambda a, r: r.status == 204 and _echoes(a, r) and a.repeated, Verdict.DUPLICATE),
    (lambda a, r: r.status == 204 and _used_up(a, r), Verdict.DUPLICATE_UNSENT),
    (lambda _, r: 200 <= r.status < 300, Verdict.UNCONFIRMED),
    # -- refusals, proved to be the stream server's
    (lambda _, r: r.status == 409 and r.is_true(STREAM_CLOSED), Verdict.CLOSED),
    (lambda a, r: _conflict_expects(r) and _expects(r) < a.seq, Verdict.FORGOTTEN),
    (lambda a, r: _conflict_expects(r) and _expects(r) > a.seq, Verdict.AHEAD),
    (lambda _, r: _conflict_expects(r), Verdict.AMBIGUOUS),
    (lambda _, r: r.status == 409, Verdict.CONTENT_TYPE),
    (lambda a, r: r.status == 403 and (r.integer(PRODUCER_EPOCH) or 0) > a.epoch, Verdict.FENCED),
    (lambda _, r: r.status == 404, Verdict.MISSING),
    (lambda _, r: r.status == 410, Verdict.GONE),
    (lambda _, r: r.status == 413, Verdict.TOO_LARGE),
    (lambda a, r: r.status == 400 and _behind(a, r), Verdict.EPOCH_BEHIND),
    (lambda _, r: r.status == 400, Verdict.REFUSED),
    (lambda _, r: r.status == 507 and r.from_stream_server, Verdict.WAIT),
    # -- everything else proves nothing
    (lambda _, __: True, Verdict.AMBIGUOUS),
)
