"""`SyncIdempotentProducer`: exactly-once appends, without async."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from durable_streams import _http, _operations
from durable_streams._batches import WindowSettings, check_epoch
from durable_streams._drain_status import check_json
from durable_streams._drain_threads import ThreadedStoreEngine
from durable_streams._http_sync import SyncCarrier
from durable_streams._push_threads import SyncAcknowledgement, ThreadedEngine
from durable_streams._sqlite_store import SqliteProducerStore
from durable_streams._window import Window
from durable_streams.errors import DurableStreamError

if TYPE_CHECKING:
    import httpx

    from durable_streams._sync import DurableStream
    from durable_streams._types import CloseResult, HeadersLike, ParamsLike, ProducerErrorHandler


class SyncIdempotentProducer:
    """Appends to one stream so that a retry never stores anything twice: `IdempotentProducer` without async.

    `append` returns as soon as the message is taken, and waits only while the buffer is full. Threads of its own
    send the batches and call ``on_error``. Safe to use from several threads.

    With a ``store`` everything is as with `IdempotentProducer`, and `append` returns when the message is on the
    disk; appends of several threads at the same time share one write. `close` waits for a request on its way.
    """

    def __init__(
        self,
        url_or_stream: str | DurableStream,
        producer_id: str,
        *,
        client: httpx.Client | None = None,
        epoch: int = 0,
        auto_claim: bool = False,
        max_batch_bytes: int = 1024 * 1024,
        linger_ms: float = 5,
        max_in_flight: int = 5,
        content_type: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        on_error: ProducerErrorHandler | None = None,
        store: SqliteProducerStore | None = None,
    ) -> None:
        url = url_or_stream if isinstance(url_or_stream, str) else url_or_stream.url
        _http.check_target(url, client, asynchronous=False)
        known = None if isinstance(url_or_stream, str) else url_or_stream.content_type
        self._settings = WindowSettings(
            url=url,
            producer_id=producer_id,
            content_type=content_type or known or "",
            auto_claim=auto_claim,
            max_batch_bytes=max_batch_bytes,
            linger_seconds=linger_ms / 1000,
            max_in_flight=max_in_flight,
        )
        self._epoch = check_epoch(epoch)
        if isinstance(url_or_stream, str) or client is not None:
            self._carrier = SyncCarrier(client, _http.Extras(headers, params))
        else:
            self._carrier = url_or_stream.carrier(headers, params)
        self._policy = _http.default_policy()
        self._on_error = on_error
        self._starting = threading.Lock()
        self._engine: ThreadedEngine | None = None
        self._stored: ThreadedStoreEngine | None = None
        if store is not None:
            check_json(self._settings.content_type)
            if not isinstance(store, SqliteProducerStore):
                raise TypeError(
                    f"without async, a store is a SqliteProducerStore, not {type(store).__name__}: "
                    "IdempotentProducer drains any other"
                )
            self._stored = ThreadedStoreEngine(
                url,
                producer_id,
                store,
                self._carrier,
                epoch=epoch,
                max_batch_bytes=max_batch_bytes,
                on_error=on_error,
            )

    @property
    def producer_id(self) -> str:
        """The producer's id."""
        return self._settings.producer_id

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        if self._stored is not None:
            return self._stored.epoch
        return self._epoch if self._engine is None else self._engine.window.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch."""
        if self._stored is not None:
            return self._stored.next_seq
        return 0 if self._engine is None else self._engine.window.next_seq

    @property
    def pending_count(self) -> int:
        """Messages taken and neither confirmed nor failed."""
        if self._stored is not None:
            return self._stored.pending_count
        return 0 if self._engine is None else self._engine.window.pending_count

    @property
    def in_flight_count(self) -> int:
        """Requests under way."""
        if self._stored is not None:
            return self._stored.in_flight_count
        return 0 if self._engine is None else self._engine.window.in_flight_count

    def append(self, data: Any) -> SyncAcknowledgement:
        """Take one message, as soon as there is room; it is sent soon.

        ``append(x).result()`` waits for the server's confirmation. Raises `MessageError` for what the stream
        cannot take, `ProducerStoppedError` after a failure.
        """
        if self._stored is not None:
            return self._stored.append(data, wait=True)
        return self._started().append(data, wait=True)

    def append_nowait(self, data: Any) -> SyncAcknowledgement:
        """Take one message, or raise `ProducerFullError` when there is no room."""
        if self._stored is not None:
            return self._stored.append(data, wait=False)
        return self._started().append(data, wait=False)

    def flush(self) -> None:
        """Wait until everything appended so far is confirmed; raise the first error since the last restart."""
        if self._stored is not None:
            self._stored.flush()
            return
        engine = self._started()
        engine.drain()
        if engine.first_error is not None:
            raise engine.first_error

    def restart(self) -> None:
        """Go on after an error, in a new epoch; what is unconfirmed is sent again in it."""
        if self._stored is not None:
            self._stored.restart()
            return
        self._started().restart()

    def close_stream(self, data: Any = None) -> CloseResult:
        """Flush, then close the stream for good, with a last message if one is given."""
        if self._stored is not None:
            return self._stored.close_stream(data)
        engine = self._started()
        self.flush()
        return engine.close_stream(data)

    def close(self) -> None:
        """Flush and stop; raise the first error. The stream stays open."""
        if self._stored is not None:
            self._stored.close()
            return
        engine = self._engine
        try:
            if engine is not None:
                engine.end("the producer is closed")
                engine.drain()
        finally:
            if engine is not None:
                engine.stop()
            self._carrier.close()
        if engine is not None and engine.first_error is not None:
            error, engine.first_error = engine.first_error, None
            raise error

    def __enter__(self) -> Self:
        try:
            if self._stored is not None:
                self._stored.start()
            else:
                self._started()
        except BaseException:
            with suppress(DurableStreamError):  # the same error, once more
                self.close()
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self.close()
        except Exception as closing:
            if error is None:
                raise
            error.add_note(f"Closing the producer failed too: {closing!r}")

    def _started(self) -> ThreadedEngine:
        """Return the engine; the first call learns the content type, if it was not given."""
        with self._starting:
            if self._engine is None:
                if not self._settings.content_type:
                    head = self._carrier.run(_operations.head(self._settings.url, self._policy))
                    content_type = head.content_type or "application/octet-stream"
                    self._settings = replace(self._settings, content_type=content_type)
                window = Window(self._settings, self._policy, epoch=self._epoch)
                self._engine = ThreadedEngine(self._carrier, window, on_error=self._on_error)
            return self._engine
