"""Create, append, head, close and delete, each as a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_streams import _checks
from durable_streams._answers import error_from, in_doubt
from durable_streams._exchange import RetryPolicy, Settled, exchange, exchange_once
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
    """Create a stream, or make sure that it exists with this configuration (PROTOCOL section 5.1).

    Safe to repeat: a stream that is there already is left as it is.
    """
    headers = {}
    if content_type is not None:
        headers["content-type"] = content_type
    if ttl_seconds is not None:
        headers[STREAM_TTL] = _checks.ttl(ttl_seconds, expires_at)
    if expires_at is not None:
        headers[STREAM_EXPIRES_AT] = _checks.expiry(expires_at)
    if closed:
        headers[STREAM_CLOSED] = "true"
    request = Request("PUT", url, headers=headers, body=initial_body(body, content_type))
    reply = _expect((yield from exchange(request, policy)), request, 200, 201)
    return _head_result(reply, content_type)


def head(url: str, policy: RetryPolicy) -> Flow[HeadResult]:
    """Ask a stream about itself (PROTOCOL section 5.5)."""
    request = Request("HEAD", url)
    return _head_result(_expect((yield from exchange(request, policy)), request, 200), None)


def append(
    url: str,
    policy: RetryPolicy,
    messages: Sequence[bytes],
    *,
    content_type: str | None,
    seq: str | None,
    tail: str | None = None,
) -> Flow[AppendResult]:
    """Append messages in one POST (PROTOCOL section 5.2).

    With ``seq`` the server refuses a second attempt of what it has stored. Without, it cannot tell it from a
    second append: then it is repeated only if ``tail``, where the stream was last seen to end, shows that nothing
    was stored; see `exchange_once`.
    """
    request = Request("POST", url, _append_headers(content_type, seq), body=body_of(messages, content_type))
    if seq is None:
        settled = yield from exchange_once(request, policy, tail=tail)
    else:
        settled = yield from exchange(request, policy)
    reply = _expect(settled, request, 200, 204)
    return AppendResult(reply.headers.get(STREAM_NEXT_OFFSET, ""))


def close(
    url: str, policy: RetryPolicy, message: bytes | None, *, content_type: str | None, tail: str | None = None
) -> Flow[CloseResult]:
    """Close a stream, with a last message if one is given (PROTOCOL section 5.3).

    Safe to repeat: a stream that the first attempt has closed takes no second message. But then its refusal says
    only that the stream is closed. ``tail``, where the stream was last seen to end, may tell by whom.
    """
    if message is None:
        request = Request("POST", url, {STREAM_CLOSED: "true"}, body=b"")
    else:
        headers = {**_append_headers(content_type, None), STREAM_CLOSED: "true"}
        request = Request("POST", url, headers, body=body_of((message,), content_type))
    settled = yield from exchange(request, policy)
    reply = settled.reply
    if settled.doubted and reply.status == 409 and tail is not None:
        final = reply.headers.get(STREAM_NEXT_OFFSET)
        settled = Settled(reply, doubted=final != tail)
    _expect(settled, request, 200, 204)
    return CloseResult(reply.headers.get(STREAM_NEXT_OFFSET, ""))


def delete(url: str, policy: RetryPolicy) -> Flow[None]:
    """Delete a stream (PROTOCOL section 5.4). A repeated attempt that finds nothing any more has succeeded."""
    request = Request("DELETE", url)
    settled = yield from exchange(request, policy)
    if settled.doubted and settled.reply.status in {404, 410}:
        return  # 410: gone, but kept for its forks (PROTOCOL section 4.2)
    _expect(settled, request, 200, 204)


def _append_headers(content_type: str | None, seq: str | None) -> dict[str, str]:
    headers = {} if content_type is None else {"content-type": content_type}
    if seq is not None:
        headers[STREAM_SEQ] = seq
    return headers


def _is_deletion(request: Request, reply: Reply) -> bool:
    """Whether this says that a stream was deleted: 204, which has no header of a stream (PROTOCOL section 5.4)."""
    return request.method == "DELETE" and reply.status == 204


def _expect(settled: Settled, request: Request, *statuses: int) -> Reply:
    reply = settled.reply
    # A success without any header of a stream server's comes from somebody else (a portal, a proxy).
    if reply.status in statuses and (reply.from_stream_server or _is_deletion(request, reply)):
        return reply
    error = error_from(reply, request)
    if request.method == "HEAD":
        raise error
    if reply.status < 300:
        raise in_doubt(error, "It may have been done, if a proxy took the stream server's headers away.")
    raise in_doubt(error) if settled.doubted else error


def _head_result(reply: Reply, asked_content_type: str | None) -> HeadResult:
    return HeadResult(
        content_type=reply.headers.get("content-type", asked_content_type),
        offset=reply.headers.get(STREAM_NEXT_OFFSET, ""),
        stream_closed=reply.is_true(STREAM_CLOSED),
        etag=reply.headers.get("etag"),
        cache_control=reply.headers.get("cache-control"),
    )
