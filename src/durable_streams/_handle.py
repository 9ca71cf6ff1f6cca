"""What both kinds of handle have in common: what they know of their stream, and their requests as flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from durable_streams import _checks, _operations
from durable_streams._batching import AppendQueue, Waiting
from durable_streams._messages import encode_message
from durable_streams._types import AppendResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from durable_streams._effects import Flow
    from durable_streams._exchange import RetryPolicy
    from durable_streams._types import CloseResult, HeadResult

_UNTYPED: Final = "application/octet-stream"
"""Of a stream whose server names no content type (PROTOCOL section 5.1)."""


class StreamHandle:
    """One stream at one URL: content type and tail as far as they are known, and the appends that wait.

    The tail is where the stream was last seen to end. Several requests may be under way at the same time, so it
    may be older than the newest; it is never newer than what the server had when it answered.
    """

    def __init__(self, url: str, content_type: str | None, policy: RetryPolicy, *, batching: bool) -> None:
        self._url = url
        self._content_type = _checks.content_type(content_type)
        self._policy = policy
        self._tail: str | None = None
        self._queue = AppendQueue(joining=batching)

    @property
    def url(self) -> str:
        """The stream's URL."""
        return self._url

    @property
    def content_type(self) -> str | None:
        """The stream's content type, as far as this handle knows it."""
        return self._content_type

    # -- Flows, which also remember what the answers say --------------------------------------------

    def _create_flow(
        self,
        *,
        content_type: str | None,
        ttl_seconds: int | None,
        expires_at: str | datetime | None,
        body: Any,
        closed: bool,
    ) -> Flow[HeadResult]:
        result = yield from _operations.create(
            self._url,
            self._policy,
            content_type=_checks.content_type(content_type) or self._content_type,
            ttl_seconds=ttl_seconds,
            expires_at=expires_at,
            body=body,
            closed=closed,
        )
        return self._learn(result)

    def _head_flow(self) -> Flow[HeadResult]:
        return self._learn((yield from _operations.head(self._url, self._policy)))

    def _content_type_flow(self) -> Flow[str]:
        """Return the content type; ask for it if it is unknown."""
        if self._content_type is None:
            yield from self._head_flow()
            self._content_type = self._content_type or _UNTYPED
        return self._content_type

    def _new_append(self, data: Any, seq: str | None, told: Callable[[], object] | None = None) -> Waiting:
        """An append, before it is queued. Raises what can be said at once."""
        _checks.sequence(seq)
        message = None if self._content_type is None else encode_message(data, self._content_type)
        return Waiting(data, message, seq, told=told)

    def _append_flow(self, batch: Sequence[Waiting]) -> Flow[AppendResult]:
        if not batch:  # none of those that waited could be encoded
            return AppendResult("")
        messages = [each.message for each in batch if each.message is not None]
        result = yield from _operations.append(
            self._url, self._policy, messages, content_type=self._content_type, seq=batch[0].seq, tail=self._tail
        )
        self._tail = result.next_offset or None
        return result

    def _close_flow(self, data: Any) -> Flow[CloseResult]:
        message = None
        if data is not None:
            content_type = yield from self._content_type_flow()
            message = encode_message(data, content_type)
        result = yield from _operations.close(
            self._url, self._policy, message, content_type=self._content_type, tail=self._tail
        )
        self._tail = result.final_offset or None
        return result

    def _delete_flow(self) -> Flow[None]:
        try:
            yield from _operations.delete(self._url, self._policy)
        finally:
            self._tail = None  # a stream that is made anew here may well end at the same offset

    def _learn(self, result: HeadResult) -> HeadResult:
        self._content_type = result.content_type or self._content_type
        self._tail = result.offset or None
        return result
