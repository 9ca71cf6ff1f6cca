"""A handle on one stream, without async."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from durable_streams import _checks, _http
from durable_streams._batching import as_error
from durable_streams._handle import StreamHandle
from durable_streams._http_sync import SyncCarrier
from durable_streams._messages import encoder
from durable_streams._sync_response import StreamResponse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import httpx

    from durable_streams._batching import Waiting
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


class DurableStream(StreamHandle):
    """One stream at one URL. Making a handle sends nothing.

    ``headers`` and ``params`` go with every request; callables among their values are asked once for each.
    ``timeout`` is in seconds and holds for each step of each request: connecting, each write, each read; None
    leaves it to the client, and a client of our own has 30 s. ``batching``: see `append`.

    Without ``client`` the handle has one of its own, which `close` closes; an injected one is used for everything
    and never closed. Safe to use from several threads.

    Raises ValueError or TypeError for what cannot be right (an empty URL, a header with a line break ...).
    """

    def __init__(
        self,
        url: str,
        *,
        content_type: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        client: httpx.Client | None = None,
        timeout: float | httpx.Timeout | None = None,
        batching: bool = True,
    ) -> None:
        _checks.timeout(timeout)
        _http.check_target(url, client, asynchronous=False)
        super().__init__(url, content_type, _http.default_policy(), batching=batching)
        self._carrier = SyncCarrier(client, _http.Extras(headers, params), timeout=timeout)
        self._changed = threading.Condition()
        self._leader: Waiting | None = None
        """The entry whose thread sends now."""
        self._leader_thread = 0

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
        timeout: float | httpx.Timeout | None = None,
        batching: bool = True,
    ) -> Self:
        """Create the stream, or make sure it exists with this configuration; return a handle.

        The arguments are those of the handle and of `create_stream`.
        """
        handle = cls(
            url,
            content_type=content_type,
            headers=headers,
            params=params,
            client=client,
            timeout=timeout,
            batching=batching,
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
        timeout: float | httpx.Timeout | None = None,
        batching: bool = True,
    ) -> Self:
        """Return a handle on a stream that exists; raises `StreamNotFoundError` otherwise."""
        handle = cls(url, headers=headers, params=params, client=client, timeout=timeout, batching=batching)
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
        timeout: float | httpx.Timeout | None = None,
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
        timeout: float | httpx.Timeout | None = None,
    ) -> None:
        """Delete a stream, without a handle."""
        with cls(url, headers=headers, params=params, client=client, timeout=timeout) as handle:
            handle.delete()

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
        """Create the stream, or make sure it exists with this configuration (PROTOCOL section 5.1).

        The stream expires ``ttl_seconds`` after its last use, or at ``expires_at``; not both. ``body`` is the
        content of a new stream (of one that exists, nothing is changed): ``bytes`` or ``str``; on a JSON stream
        JSON text or any JSON value, of which a list is several messages. ``closed`` makes that all it will ever
        hold. Raises `StreamExistsError` if it exists with another configuration. Safe to repeat, and repeated
        when an answer is lost.
        """
        flow = self._create_flow(
            content_type=content_type, ttl_seconds=ttl_seconds, expires_at=expires_at, body=body, closed=closed
        )
        return self._carrier.run(flow)

    def head(self) -> HeadResult:
        """Ask the stream about itself; raises `StreamNotFoundError` if there is none."""
        return self._carrier.run(self._head_flow())

    def append(self, data: Any, *, seq: str | None = None) -> AppendResult:
        """Append one message; return when the server has confirmed it.

        On a JSON stream ``data`` is any JSON value, a list being one message, too; ``str`` and ``bytes`` are JSON
        text already, which is checked and never encoded again. Elsewhere ``data`` is ``bytes`` or ``str``. Appends
        from several threads go out in the order of the calls, one POST after the other. With ``batching`` all that
        wait go into the next POST and share its result; otherwise, and with ``seq``, each has its own.

        What is certain: after a return the message is stored once; after an error it is not stored, unless the
        error is ``in_doubt``, which then says what is known. Within that, a refused connection, 429, and 503 with
        ``Retry-After`` are tried again. So are 500 and 503, once the stream was asked and still ends where this
        handle last saw it end (by `create`, `connect`, `head` or an append). If it has grown, or was never seen,
        they raise, as does every lost answer, 502 and 504. This relies on a server that has finished with what it
        answers 500 or 503, and on HEAD not coming from a cache or a lagging copy.

        ``seq`` is the caller's own order (``Stream-Seq``), greater each time, compared byte by byte. The server
        refuses what it has already, so everything may be tried again: a `SeqConflictError` in doubt is then most
        likely the attempt whose answer was lost. `SyncIdempotentProducer` leaves no doubt at all.

        Raises `MessageError` for what the stream cannot take, `StreamNotFoundError`, `StreamClosedError`,
        `ContentTypeMismatchError`, `SeqConflictError`, `FetchError` and others. No other append is touched by it.
        """
        entry = self._new_append(data, seq)
        try:
            with self._changed:
                self._queue.join(entry)
            while not entry.settled:
                self._send_or_wait(entry)
        except BaseException:
            with self._changed:
                self._queue.leave(entry)
            raise
        return entry.outcome()

    def stream(
        self,
        *,
        offset: Offset | None = "-1",
        live: LiveMode = True,
        cursor: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        on_error: ReadErrorHandler | None = None,
    ) -> StreamResponse:
        """Read the stream, with this handle's client; see `stream` of this package."""
        carrier = self.carrier(headers, params, on_error=on_error)
        try:
            return StreamResponse(
                self._url, carrier, offset=offset, live=live, cursor=cursor, content_type=self._content_type
            ).open()
        except BaseException:
            carrier.close()
            raise

    def close_stream(self, data: Any = None) -> CloseResult:
        """Close the stream for good, with a last message if one is given. Closing twice is fine without one.

        ``data`` is as in `append`. It is stored at most once, however often the request has to be repeated: a
        closed stream takes no more. But if an answer was lost, `StreamClosedError` may be ``in_doubt``: then the
        stream was closed by that attempt, with its message, or by somebody else without.
        """
        return self._carrier.run(self._close_flow(data))

    def delete(self) -> None:
        """Delete the stream. Repeated when an answer is lost; it is enough that the stream is gone then."""
        self._carrier.run(self._delete_flow())

    def close(self) -> None:
        """Close this handle, not the stream. Appends under way in other threads are finished first."""
        with self._changed:
            while (self._leader is not None or self._queue) and self._leader_thread != threading.get_ident():
                self._changed.wait()
        self._carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- One POST at a time, sent by one of the threads that wait for it ----------------------------

    def _send_or_wait(self, entry: Waiting) -> None:
        """Send the next POST, which need not hold this entry, or wait while another thread does."""
        batch: list[Waiting] = []
        try:
            with self._changed:
                while self._leader is not None and not entry.settled:
                    self._changed.wait()
                if entry.settled:
                    return
                self._leader, self._leader_thread = entry, threading.get_ident()
            if self._queue.undecided:
                encode = encoder(self._carrier.run(self._content_type_flow()))
                with self._changed:
                    self._queue.encode(encode)
            with self._changed:
                self._queue.take(batch)
            self._go_on(batch, self._carrier.run(self._append_flow(batch)))
        # Supervision boundary: whatever goes wrong here (the caller's own callables run, too; Ctrl-C comes at any
        # time), the threads behind must be told and go on.
        except BaseException as error:
            if self._leader is entry:
                if isinstance(error, Exception) and not batch:
                    with self._changed:
                        self._queue.take_all(batch)  # nobody knows how to encode them
                self._go_on(batch, as_error(error))
            if not isinstance(error, Exception):
                raise

    def _go_on(self, batch: Sequence[Waiting], outcome: AppendResult | Exception) -> None:
        with self._changed:
            self._queue.settle(batch, outcome)
            self._leader, self._leader_thread = None, 0
            self._changed.notify_all()
