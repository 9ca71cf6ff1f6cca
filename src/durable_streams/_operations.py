"""Create, append, head, close and delete, each as a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_streams._answers import error_from
from durable_streams._exchange import RetryPolicy, Settled, exchange
from durable_streams._messages import body_of, initial_body
from durable_streams._types import AppendResult, CloseResult, HeadResult
from durable_streams._wire import (
    STREAM_CLOSED,
    STREAM_EXPIRES_AT,
    STREAM_NEXT_OFFSET,
    STREAM_SEQ,
    STREAM_TTL,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from durable_streams._effects import Flow


def create(
    url: str,
    policy: RetryPolicy,
    *,
    content_type: str | None,
    ttl_seconds: int | None,
    expires_at: str | datetime | None,
    body: Any,
    closed: bool,
) -> Flow[HeadResult]:
    """Create a stream, or make sure that it exists with this configuration (PROTOCOL section 5.1)."""
    headers = {} if content_type is None else {"content-type": content_type}
    if ttl_seconds is not None:
        headers[STREAM_TTL] = str(_ttl(ttl_seconds, expires_at))
    if expires_at is not None:
        headers[STREAM_EXPIRES_AT] = expires_at if isinstance(expires_at, str) else _rfc3339(expires_at)
    if closed:
        headers[STREAM_CLOSED] = "true"
    request = Request("PUT", url, headers=headers, body=initial_body(body, content_type))
    settled = yield from exchange(request, policy, repeatable=True)
    reply = _expect(settled, request, 200, 201)
    return _head_result(reply, content_type)


def head(url: str, policy: RetryPolicy) -> Flow[HeadResult]:
    """Ask a stream about itself (PROTOCOL section 5.5)."""
    request = Request("HEAD", url)
    settled = yield from exchange(request, policy, repeatable=True)
    return _head_result(_expect(settled, request, 200), None)


def append(
    url: str, policy: RetryPolicy, messages: Sequence[bytes], *, content_type: str | None, seq: str | None
) -> Flow[AppendResult]:
    """Append messages in one POST (PROTOCOL section 5.2).

    Without ``seq`` the server cannot tell a second attempt from a second append, so an attempt whose outcome is
    unknown is never repeated: it raises.
    """
    request = Request("POST", url, _append_headers(content_type, seq), body=body_of(messages, content_type))
    settled = yield from exchange(request, policy, repeatable=seq is not None)
    reply = _expect(settled, request, 200, 204)
    return AppendResult(reply.headers.get(STREAM_NEXT_OFFSET, ""))


def close(url: str, policy: RetryPolicy, message: bytes | None, *, content_type: str | None) -> Flow[CloseResult]:
    """Close a stream, with a last message if one is given (PROTOCOL section 5.3)."""
    if message is None:
        request = Request("POST", url, {STREAM_CLOSED: "true"}, body=b"")
    else:
        headers = {**_append_headers(content_type, None), STREAM_CLOSED: "true"}
        request = Request("POST", url, headers, body=body_of((message,), content_type))
    settled = yield from exchange(request, policy, repeatable=message is None)
    reply = _expect(settled, request, 200, 204)
    return CloseResult(reply.headers.get(STREAM_NEXT_OFFSET, ""))


def delete(url: str, policy: RetryPolicy) -> Flow[None]:
    """Delete a stream (PROTOCOL section 5.4)."""
    request = Request("DELETE", url)
    settled = yield from exchange(request, policy, repeatable=True)
    if settled.doubted and settled.reply.status == 404:
        return  # the attempt whose answer was lost has deleted it
    _expect(settled, request, 200, 204)


def _append_headers(content_type: str | None, seq: str | None) -> dict[str, str]:
    headers = {} if content_type is None else {"content-type": content_type}
    if seq is not None:
        headers[STREAM_SEQ] = seq
    return headers


def _expect(settled: Settled, request: Request, *statuses: int) -> Reply:
    reply = settled.reply
    # A success without any header of a stream server's comes from somebody else (a portal, a proxy).
    if reply.status in statuses and (reply.from_stream_server or request.method == "DELETE"):
        return reply
    error = error_from(reply, request)
    if settled.doubted:
        error.add_note("An earlier attempt went without an answer; this may be its doing.")
    raise error


def _head_result(reply: Reply, asked_content_type: str | None) -> HeadResult:
    return HeadResult(
        content_type=reply.headers.get("content-type", asked_content_type),
        offset=reply.headers.get(STREAM_NEXT_OFFSET, ""),
        stream_closed=reply.is_true(STREAM_CLOSED),
        etag=reply.headers.get("etag"),
        cache_control=reply.headers.get("cache-control"),
    )


def _ttl(seconds: int, expires_at: object) -> int:
    if expires_at is not None:
        raise ValueError("give ttl_seconds or expires_at, not both (PROTOCOL section 5.1)")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
        raise ValueError(f"ttl_seconds is a whole number of seconds, at least 0, not {seconds!r}")
    return seconds


def _rfc3339(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"expires_at needs a time zone: {moment!r}")
    return moment.isoformat()
