"""`SyncIdempotentProducer`: exactly-once appends, without async."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self

from durable_streams import _checks, _http
from durable_streams._batches import WindowSettings, check_epoch
from durable_streams._drain_status import check_json
from durable_streams._drain_threads import ThreadedStoreEngine
from durable_streams._http_sync import SyncCarrier
from durable_streams._push_threads import ThreadedEngine
from durable_streams._sqlite_store import SqliteProducerStore
from durable_streams._sync import DurableStream
from durable_streams.errors import DurableStreamError

if TYPE_CHECKING:
    import httpx

    from durable_streams._acknowledgements import SyncAcknowledgement
    from durable_streams._types import CloseResult, HeadersLike, ParamsLike, ProducerErrorHandler


class SyncProducerEngine(Protocol):
    """What stands behind a `SyncIdempotentProducer`: messages in memory (`ThreadedEngine`), or in a store."""

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        ...  # pragma: no cover

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch."""
        ...  # pragma: no cover

    @property
    def pending_count(self) -> int:
        """Messages taken and neither confirmed nor failed."""
        ...  # pragma: no cover

    @property
    def in_flight_count(self) -> int:
        """Requests under way."""
        ...  # pragma: no cover

    def start(self) -> None:
        """Do what must be done before the first message."""
        ...  # pragma: no cover

    def append(self, data: Any, *, wait: bool) -> SyncAcknowledgement:
        """Take a message, as soon as there is room, or at once."""
        ...  # pragma: no cover

    def flush(self) -> None:
        """Wait until everything taken so far is confirmed."""
        ...  # pragma: no cover

    def restart(self) -> None:
        """Begin a new epoch."""
        ...  # pragma: no cover

    def close_stream(self, data: Any) -> CloseResult:
        """Flush, then close the stream."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Flush and stop."""
        ...  # pragma: no cover


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
        if not isinstance(url_or_stream, str | DurableStream):
            raise TypeError(
                f"a SyncIdempotentProducer takes a URL or a DurableStream, not {type(url_or_stream).__name__}"
            )
        _checks.callback("on_error", on_error)
        url = url_or_stream if isinstance(url_or_stream, str) else url_or_stream.url
        _http.check_target(url, client, asynchronous=False)
        known = None if isinstance(url_or_stream, str) else url_or_stream.content_type
        self._producer_id = producer_id
        settings = WindowSettings(
            url=url,
            producer_id=producer_id,
            content_type=content_type or known or "",
            auto_claim=auto_claim,
            max_batch_bytes=max_batch_bytes,
            linger_seconds=linger_ms / 1000,
            max_in_flight=max_in_flight,
        )
        check_epoch(epoch)
        if isinstance(url_or_stream, str) or client is not None:
            carrier = SyncCarrier(client, _http.Extras(headers, params))
        else:
            carrier = url_or_stream.carrier(headers, params)
        self._engine: SyncProducerEngine
        if store is None:
            self._engine = ThreadedEngine(carrier, settings, epoch=epoch, on_error=on_error)
            return
        check_json(settings.content_type)
        if not isinstance(store, SqliteProducerStore):
            raise TypeError(
                f"without async, a store is a SqliteProducerStore, not {type(store).__name__}: "
                "IdempotentProducer drains any other"
            )
        self._engine = ThreadedStoreEngine(
            url, producer_id, store, carrier, epoch=epoch, max_batch_bytes=max_batch_bytes, on_error=on_error
        )

    @property
    def producer_id(self) -> str:
        """The producer's id."""
        return self._producer_id

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._engine.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch."""
        return self._engine.next_seq

    @property
    def pending_count(self) -> int:
        """Messages taken and neither confirmed nor failed."""
        return self._engine.pending_count

    @property
    def in_flight_count(self) -> int:
        """Requests under way."""
        return self._engine.in_flight_count

    def append(self, data: Any) -> SyncAcknowledgement:
        """Take one message, as soon as there is room; it is sent soon.

        ``append(x).result()`` waits for the server's confirmation. Raises `MessageError` for what the stream
        cannot take, `ProducerStoppedError` after a failure.
        """
        return self._engine.append(data, wait=True)

    def append_nowait(self, data: Any) -> SyncAcknowledgement:
        """Take one message, or raise `ProducerFullError` when there is no room."""
        return self._engine.append(data, wait=False)

    def flush(self) -> None:
        """Wait until everything appended so far is confirmed; raise the first error since the last restart."""
        self._engine.flush()

    def restart(self) -> None:
        """Go on after an error, in a new epoch; what is unconfirmed is sent again in it."""
        self._engine.restart()

    def close_stream(self, data: Any = None) -> CloseResult:
        """Flush, then close the stream for good, with a last message if one is given."""
        return self._engine.close_stream(data)

    def close(self) -> None:
        """Flush and stop; raise the first error. The stream stays open."""
        self._engine.close()

    def __enter__(self) -> Self:
        try:
            self._engine.start()
        except BaseException:
            with suppress(DurableStreamError):  # the same error, once more
                self._engine.close()
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self._engine.close()
        except Exception as closing:
            if error is None:
                raise
            error.add_note(f"Closing the producer failed too: {closing!r}")
