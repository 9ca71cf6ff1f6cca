"""The protocol's rules for writing: from a request and the stream's state to an answer and a change.

Nothing here does I/O or keeps state. The order of the checks is the protocol's order of precedence:
closed, content type, producer (duplicate, fenced, gap), body, ``Stream-Seq`` (PROTOCOL sections 5.2, 5.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from durable_streams import _wire
from durable_streams.server._requests import instant_seconds, media_type, offset
from durable_streams.server._store import Change, ProducerMark, Stream, StreamSettings

if TYPE_CHECKING:
    from durable_streams.server._requests import AppendRequest, Body, CreateRequest

Headers = tuple[tuple[str, str], ...]

_MAX_TTL_SLACK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer without a stream's data. ``reason`` is text for people."""

    status: int
    headers: Headers = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What to answer once ``change`` is stored; None changes nothing."""

    answer: Answer
    change: Change | None = None


NOT_FOUND: Final = Answer(404, reason="there is no stream at this URL")


# --- Expiry (PROTOCOL sections 4 and 5.1) -----------------------------------------------------------------


def expired(stream: Stream, now: float) -> bool:
    """Whether the stream is gone at ``now`` (seconds since 1970)."""
    return stream.deadline is not None and stream.deadline <= now


def sliding_deadline(ttl_seconds: int | None, now: float) -> float | None:
    """When a stream used at ``now`` expires; None without a time to live.

    It is set a little late (a tenth, at most a second), so that reads need not store a new deadline each
    time: a stream never expires early.
    """
    if ttl_seconds is None:
        return None
    return now + ttl_seconds + min(_MAX_TTL_SLACK_SECONDS, ttl_seconds / 10)


def renewal(stream: Stream, now: float) -> Change | None:
    """The change that a read at ``now`` makes: a later deadline, once the slack is used up."""
    ttl = stream.settings.ttl_seconds
    if ttl is None or stream.deadline is None or now + ttl <= stream.deadline:
        return None
    return Change(deadline=sliding_deadline(ttl, now))


# --- Create (PROTOCOL section 5.1) ------------------------------------------------------------------------


def rule_create(request: CreateRequest, body: Body, existing: Stream | None, at: float = 0.0) -> Ruling:
    """Rule on a PUT. A change means: create the stream, then change it."""
    if existing is not None:
        difference = _difference(request, existing)
        if difference:
            return _refuse(409, existing, f"the stream exists with another {difference}")
        return Ruling(Answer(200, _described(existing.settings, existing.tail, closed=existing.closed)))
    # An empty array is an error in a POST, but creates an empty stream (section 9.1.3).
    if body.problem is not None and not body.empty_array:
        return Ruling(Answer(400, reason=body.problem))
    tail = 0 if body.data is None else 1
    return Ruling(
        Answer(201, _described(request.settings, tail, closed=request.closed)),
        Change(data=body.data, close=request.closed, at=at),
    )


def too_many_streams(limit: int) -> Answer:
    """Return the answer to a PUT for which there is no place."""
    reason = f"the server has {limit} streams and takes no more: delete some, or raise its limit"
    return Answer(507, full_headers(507), reason)


def _difference(request: CreateRequest, stream: Stream) -> str:
    wanted, settings = request.settings, stream.settings
    if media_type(wanted.content_type) != media_type(settings.content_type):
        return f"content type ({settings.content_type})"
    if wanted.ttl_seconds != settings.ttl_seconds:
        return f"Stream-TTL ({settings.ttl_seconds})"
    if request.expires_at_seconds != (settings.expires_at and instant_seconds(settings.expires_at)):
        return f"Stream-Expires-At ({settings.expires_at})"
    if request.closed != stream.closed:
        return f"closure (it is {'closed' if stream.closed else 'open'})"
    return ""


# --- Append and close (PROTOCOL sections 5.2 and 5.3) -----------------------------------------------------


def malformed_append(request: AppendRequest, body: Body) -> str | None:
    """What is wrong with a POST whatever the state of its stream, or None."""
    if not body.sent:
        return None if request.close else "the body is empty, and Stream-Closed is not true"
    return "a body needs a Content-Type" if request.content_type is None else None


def rule_append(
    request: AppendRequest, body: Body, stream: Stream, known: ProducerMark | None, *, now: float, at: float
) -> Ruling:
    """Rule on a POST to an existing stream. ``known`` is what the stream last accepted of its producer.

    ``now`` is in seconds since 1970, ``at`` in seconds that the store has been served.
    """
    if stream.closed:
        return _rule_on_closed(request, body, stream)
    if body.sent and media_type(request.content_type) != media_type(stream.settings.content_type):
        return _refuse(409, stream, f"the stream's content type is {stream.settings.content_type}")
    if request.producer is not None:
        verdict = _rule_on_producer(request.producer, known, stream)
        if verdict is not None:
            return verdict
    if body.problem is not None:
        return _refuse(400, stream, body.problem)
    if (
        request.stream_seq is not None
        and stream.stream_seq is not None
        and request.stream_seq <= stream.stream_seq
    ):
        return _refuse(409, stream, f"Stream-Seq must be greater than {stream.stream_seq!r}")
    change = Change(
        data=body.data,
        producer=request.producer,
        stream_seq=request.stream_seq,
        close=request.close,
        at=at,
        deadline=sliding_deadline(stream.settings.ttl_seconds, now),
    )
    after = stream.after(change)
    headers = _position(after.tail, closed=after.closed)
    if request.producer is None:
        return Ruling(Answer(204, headers), change)
    # A close without data has no new data to report: 204, as the protocol's own suite expects.
    return Ruling(Answer(200 if body.sent else 204, headers + _echo(request.producer)), change)


def _rule_on_closed(request: AppendRequest, body: Body, stream: Stream) -> Ruling:
    headers = _position(stream.tail, closed=True)
    if request.producer is not None and request.producer == stream.closed_by:
        return Ruling(Answer(204, headers + _echo(request.producer)))
    if request.close and not body.sent:
        return Ruling(Answer(204, headers))
    return Ruling(Answer(409, headers, "the stream is closed"))


def _rule_on_producer(offered: ProducerMark, known: ProducerMark | None, stream: Stream) -> Ruling | None:
    if known is not None and offered.epoch < known.epoch:
        fence = ((_wire.PRODUCER_EPOCH, str(known.epoch)),)
        return _refuse(403, stream, f"the producer's epoch is {known.epoch}", fence)
    if known is not None and offered.epoch > known.epoch:
        if offered.seq == 0:
            return None
        return _refuse(400, stream, "a new epoch starts with Producer-Seq 0")
    expected = 0 if known is None else known.seq + 1
    if known is not None and offered.seq < expected:
        return Ruling(Answer(204, _echo(known)))
    if offered.seq > expected:
        gap = (
            (_wire.PRODUCER_EXPECTED_SEQ, str(expected)),
            (_wire.PRODUCER_RECEIVED_SEQ, str(offered.seq)),
        )
        return _refuse(409, stream, f"expected Producer-Seq {expected}", gap)
    return None


# --- Metadata (PROTOCOL section 5.5) ----------------------------------------------------------------------


def describe(stream: Stream) -> Answer:
    """The answer to a HEAD."""
    settings = stream.settings
    headers = (*_described(settings, stream.tail, closed=stream.closed), ("cache-control", "no-store"))
    if settings.ttl_seconds is not None:
        headers += ((_wire.STREAM_TTL, str(settings.ttl_seconds)),)
    if settings.expires_at is not None:
        headers += ((_wire.STREAM_EXPIRES_AT, settings.expires_at),)
    return Answer(200, headers)


# --- Headers ----------------------------------------------------------------------------------------------


def refusal(status: int, stream: Stream, reason: str) -> Answer:
    """Return the answer that refuses a request on a stream for a reason that these rules do not know."""
    answer = _refuse(status, stream, reason).answer
    return replace(answer, headers=answer.headers + full_headers(status))


def full_headers(status: int) -> Headers:
    """What each 507 carries, also where there is no stream: it is this server's, and nothing was stored."""
    return ((_wire.STREAM_FULL, "true"),) if status == 507 else ()


def _refuse(status: int, stream: Stream, reason: str, headers: Headers = ()) -> Ruling:
    # The position tells a client that the refusal comes from the stream itself and not from a proxy.
    return Ruling(Answer(status, _position(stream.tail, closed=False) + headers, reason))


def _described(settings: StreamSettings, tail: int, *, closed: bool) -> Headers:
    return (("content-type", settings.content_type), *_position(tail, closed=closed))


def _position(tail: int, *, closed: bool) -> Headers:
    headers: Headers = ((_wire.STREAM_NEXT_OFFSET, offset(tail)),)
    return (*headers, (_wire.STREAM_CLOSED, "true")) if closed else headers


def _echo(producer: ProducerMark) -> Headers:
    return ((_wire.PRODUCER_EPOCH, str(producer.epoch)), (_wire.PRODUCER_SEQ, str(producer.seq)))
