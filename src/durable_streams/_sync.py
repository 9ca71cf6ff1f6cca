"""A handle on one stream, without async."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from durable_streams import _http, _operations
from durable_streams._batching import AppendQueue, Waiting, as_error
from durable_streams._http_sync import SyncCarrier
from durable_streams._messages import encode_message
from durable_streams._sync_response import StreamResponse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import httpx

    from durable_streams._effects import Flow
    from durable_streams._types import (
        AppendResult,
        CloseResult,
        HeadersLike,
        HeadResult,
        LiveMode,
        Offset,
        ParamsLike,
        ReadErrorHandler,
    )

T = TypeVar("T")


class DurableStream:
    """One stream at one URL. Making a handle sends nothing.

    ``timeout`` is in seconds for each request (default: the client's). Without ``client`` the handle has one of
    its own, which `close` closes; an injected one is used for everything and never closed. Safe to use from
    several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        content_type: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.Client | None = None,
        timeout: float | None = None,
    ) -> None:
        self._url = url
        self._content_type = content_type
        self._policy = _http.default_policy()
        self._carrier = SyncCarrier(client, _http.Extras(headers, params), timeout=timeout)
        self._learning = threading.Lock()
        self._queue = AppendQueue()
        self._changed = threading.Condition()
        self._sending = False

    @classmethod
    def create(
        cls,
        url: str,
        *,
        content_type: str | None = None,
        ttl_seconds: int | None = None,
        expires_at: str | datetime | None = None,
        body: Any = None,
        closed: bool = False,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.Client | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Create the stream, or make sure it exists with this configuration; return a handle.

        ``body`` is the initial content. Raises `StreamExistsError` if it exists with another configuration.
        """
        handle = cls(
            url, content_type=content_type, headers=headers, params=params, client=client, timeout=timeout
        )
        try:
            handle.create_stream(ttl_seconds=ttl_seconds, expires_at=expires_at, body=body, closed=closed)
        except BaseException:
            handle.close()
            raise
        return handle

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.Client | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Return a handle on a stream that exists; raises `StreamNotFoundError` otherwise."""
        handle = cls(url, headers=headers, params=params, client=client, timeout=timeout)
        try:
            handle.head()
        except BaseException:
            handle.close()
            raise
        return handle

    @classmethod
    def head_static(
        cls,
        url: str,
        *,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.Client | None = None,
        timeout: float | None = None,
    ) -> HeadResult:
        """Ask a stream about itself, without a handle."""
        with cls(url, headers=headers, params=params, client=client, timeout=timeout) as handle:
            return handle.head()

    @classmethod
    def delete_static(
        cls,
        url: str,
        *,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.Client | None = None,
        timeout: float | None = None,
    ) -> None:
        """Delete a stream, without a handle."""
        with cls(url, headers=headers, params=params, client=client, timeout=timeout) as handle:
            handle.delete()

    @property
    def url(self) -> str:
        """The stream's URL."""
        return self._url

    @property
    def content_type(self) -> str | None:
        """The stream's content type, as far as this handle knows it."""
        return self._content_type

    def carrier(
        self,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        *,
        on_error: ReadErrorHandler | None = None,
    ) -> SyncCarrier:
        """What sends requests with this handle's client; for the rest of this package."""
        return self._carrier.borrow(self._carrier.extras.merged(headers, params), on_error=on_error)

    def create_stream(
        self,
        *,
        content_type: str | None = None,
        ttl_seconds: int | None = None,
        expires_at: str | datetime | None = None,
        body: Any = None,
        closed: bool = False,
    ) -> HeadResult:
        """Create the stream, or make sure it exists with this configuration."""
        flow = _operations.create(
            self._url,
            self._policy,
            content_type=content_type or self._content_type,
            ttl_seconds=ttl_seconds,
            expires_at=expires_at,
            body=body,
            closed=closed,
        )
        return self._learn(self._carrier.run(flow))

    def head(self) -> HeadResult:
        """Ask the stream about itself."""
        return self._learn(self._carrier.run(_operations.head(self._url, self._policy)))

    def append(self, data: Any, *, seq: str | None = None) -> AppendResult:
        """Append one message; return when the server has confirmed it.

        On a JSON stream ``data`` is any JSON value, and ``str`` or ``bytes`` is JSON text; elsewhere it is
        ``bytes`` or ``str``. Appends from several threads at the same time go together. ``seq`` is the caller's
        own order (``Stream-Seq``), and makes the append safe to repeat after a lost answer; without it a lost
        answer raises `FetchError`. Raises `MessageError`, `StreamClosedError`, `SeqConflictError` and others.
        """
        content_type = self._known_content_type()
        message = encode_message(data, content_type)
        with self._changed:
            entry = self._queue.join(message, seq)
        return self._settle(entry, content_type)

    def stream(
        self,
        *,
        offset: Offset = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> StreamResponse:
        """Read the stream, with this handle's client; see `stream` of this package."""
        carrier = self.carrier(headers, params, on_error=on_error)
        try:
            return StreamResponse(self._url, carrier, offset=offset, live=live, cursor=cursor).open()
        except BaseException:
            carrier.close()
            raise

    def close_stream(self, data: Any = None) -> CloseResult:
        """Close the stream for good, with a last message if one is given. Closing twice is fine without one."""
        content_type = self._known_content_type() if data is not None else self._content_type
        message = None if data is None else encode_message(data, content_type)
        return self._carrier.run(_operations.close(self._url, self._policy, message, content_type=content_type))

    def delete(self) -> None:
        """Delete the stream."""
        self._carrier.run(_operations.delete(self._url, self._policy))

    def close(self) -> None:
        """Close this handle, not the stream."""
        self._carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _learn(self, result: HeadResult) -> HeadResult:
        self._content_type = result.content_type or self._content_type
        return result

    def _known_content_type(self) -> str | None:
        with self._learning:
            if self._content_type is None:
                self.head()
            return self._content_type

    # -- One POST at a time, sent by one of the threads that wait for it ----------------------------

    def _settle(self, entry: Waiting, content_type: str | None) -> AppendResult:
        try:
            while not entry.settled:
                self._send_or_wait(entry, content_type)
        except BaseException:
            with self._changed:
                self._queue.leave(entry)
            raise
        if entry.error is not None:
            raise entry.error
        assert entry.result is not None, "settled without an error"
        return entry.result

    def _send_or_wait(self, entry: Waiting, content_type: str | None) -> None:
        with self._changed:
            while self._sending and not entry.settled:
                self._changed.wait()
            if entry.settled:
                return
            batch = self._queue.take()
            self._sending = True
        try:
            outcome = self._carrier.run(self._append_flow(batch, content_type))
        # Supervision boundary: whatever goes wrong here, the threads behind must be told and go on.
        except BaseException as error:
            self._tell(batch, as_error(error))
            if not isinstance(error, Exception):
                raise
        else:
            self._tell(batch, outcome)

    def _append_flow(self, batch: Sequence[Waiting], content_type: str | None) -> Flow[AppendResult]:
        messages = [each.message for each in batch]
        return _operations.append(self._url, self._policy, messages, content_type=content_type, seq=batch[0].seq)

    def _tell(self, batch: Sequence[Waiting], outcome: AppendResult | Exception) -> None:
        with self._changed:
            self._sending = False
            if isinstance(outcome, Exception):
                self._queue.fail(batch, outcome)
            else:
                self._queue.succeed(batch, outcome)
            self._changed.notify_all()
