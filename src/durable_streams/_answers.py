"""The one place that turns an answer that is no success into an exception."""

from __future__ import annotations

from urllib.parse import urlsplit

from durable_streams._wire import (
    PRODUCER_EPOCH,
    PRODUCER_EXPECTED_SEQ,
    STREAM_CLOSED,
    STREAM_SEQ,
    Answer,
    Failure,
    Reply,
    Request,
)
from durable_streams.errors import (
    BadRequestError,
    ContentTypeMismatchError,
    DurableStreamError,
    FetchError,
    InvalidOffsetError,
    PayloadTooLargeError,
    RateLimitedError,
    RetentionGoneError,
    SeqConflictError,
    SequenceGapError,
    StaleEpochError,
    StreamClosedError,
    StreamExistsError,
    StreamNotFoundError,
    UnauthorizedError,
)

_MEANINGS: dict[int, tuple[type[DurableStreamError], str]] = {
    400: (BadRequestError, "the server refuses this request"),
    401: (UnauthorizedError, "the server refuses the credentials"),
    403: (UnauthorizedError, "the server refuses the credentials"),
    404: (StreamNotFoundError, "there is no such stream"),
    405: (FetchError, "the server does not offer this for this stream"),
    410: (RetentionGoneError, "the stream, or the data at this offset, is gone"),
    413: (PayloadTooLargeError, "the body is too large for the server or a proxy before it"),
    429: (RateLimitedError, "the server asks to slow down, to the last retry"),
    501: (FetchError, "the server does not offer this for this stream"),
}


def error_from(answer: Answer, request: Request) -> DurableStreamError:
    """Return the exception that an unsuccessful answer means. It names the request and the server's words."""
    if isinstance(answer, Failure):
        failed = FetchError(f"{_name(request)}: {answer.reason}", url=request.url)
        failed.__cause__ = answer.cause
        return failed
    kind, meaning = _meaning(answer, request)
    return kind(
        f"{_name(request)}: {meaning} (HTTP {answer.status}{_words(answer)})",
        status=answer.status,
        url=request.url,
        headers=answer.headers,
    )


def in_doubt(error: DurableStreamError, note: str | None = None) -> DurableStreamError:
    """Say of an error that what failed may have been done all the same."""
    error.in_doubt = True
    error.add_note(note or "An earlier attempt went without an answer, and may have done it.")
    return error


def _meaning(reply: Reply, request: Request) -> tuple[type[DurableStreamError], str]:
    if reply.status == 409:
        return _conflict(reply, request)
    if reply.status == 403 and reply.integer(PRODUCER_EPOCH) is not None:
        return StaleEpochError, f"epoch {reply.integer(PRODUCER_EPOCH)} was claimed by another producer"
    if reply.status == 400 and request.method == "GET":
        return InvalidOffsetError, "the server refuses this read: the offset or a parameter is not valid"
    if 300 <= reply.status < 400:
        target = reply.headers.get("location", "an unknown place")
        return FetchError, f"redirects are never followed; this one leads to {target}"
    if reply.status < 300:
        return FetchError, "the answer is not a stream server's: it has no Stream-Next-Offset"
    if reply.status == 507 and reply.from_stream_server:
        return FetchError, "the server is full: nothing was stored"
    unknown = "the server, or a proxy before it, failed" if reply.status >= 500 else "unexpected answer"
    return _MEANINGS.get(reply.status, (FetchError, unknown))


def _conflict(reply: Reply, request: Request) -> tuple[type[DurableStreamError], str]:
    if request.method == "PUT":
        closed = " and is closed" if reply.is_true(STREAM_CLOSED) else ""
        return StreamExistsError, f"the stream exists with another configuration{closed}"
    if reply.is_true(STREAM_CLOSED):
        return StreamClosedError, "the stream is closed"
    expected = reply.integer(PRODUCER_EXPECTED_SEQ)
    if expected is not None:
        return SequenceGapError, f"the server expects sequence number {expected}"
    if STREAM_SEQ in request.headers:
        return SeqConflictError, f"Stream-Seq {request.headers[STREAM_SEQ]!r} is not greater than the last one"
    sent = request.headers.get("content-type", "none")
    return ContentTypeMismatchError, f"the stream does not take content type {sent}"


def _name(request: Request) -> str:
    # Without the query, which may carry credentials.
    return f"{request.method} {urlsplit(request.url).path or '/'}"


def _words(reply: Reply) -> str:
    if not reply.headers.get("content-type", "").startswith(("text/plain", "application/json")):
        return ""
    words = reply.body[:200].decode("utf-8", "replace").strip()
    return f": {words}" if words else ""
