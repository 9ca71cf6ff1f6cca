"""`IdempotentProducer`: exactly-once appends, with async."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self

from durable_streams import _checks, _http
from durable_streams._async import AsyncDurableStream
from durable_streams._batches import WindowSettings, check_epoch
from durable_streams._drain_async import drain_engine
from durable_streams._http_async import AsyncCarrier
from durable_streams._push_async import PushEngine
from durable_streams.errors import DurableStreamError

if TYPE_CHECKING:
    import httpx

    from durable_streams._acknowledgements import Acknowledgement, Appended
    from durable_streams._store import ProducerStore
    from durable_streams._types import CloseResult, HeadersLike, ParamsLike, ProducerErrorHandler


class ProducerEngine(Protocol):
    """What stands behind an `IdempotentProducer`: messages in memory (`PushEngine`), or in a store."""

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

    async def start(self) -> None:
        """Do what must be done before the first message."""
        ...  # pragma: no cover

    def append(self, data: Any) -> Appended:
        """Take a message at once."""
        ...  # pragma: no cover

    def append_nowait(self, data: Any) -> Acknowledgement:
        """Take a message at once, unless a careful caller would wait."""
        ...  # pragma: no cover

    async def flush(self) -> None:
        """Wait until everything taken so far is confirmed."""
        ...  # pragma: no cover

    async def restart(self) -> None:
        """Begin a new epoch."""
        ...  # pragma: no cover

    async def close_stream(self, data: Any) -> CloseResult:
        """Flush, then close the stream."""
        ...  # pragma: no cover

    async def close(self) -> None:
        """Flush and stop."""
        ...  # pragma: no cover


class IdempotentProducer:
    """Appends to one stream so that a retry never stores anything twice (PROTOCOL section 5.2.1).

    `append` returns at once; messages are sent in batches, several at a time. ``epoch`` is this producer's
    incarnation: give a higher one after a restart, or set ``auto_claim`` to take the next free one by yourself
    (the last producer to start with an id wins). ``content_type`` is asked of the server when it is not given.
    ``on_error`` is called with each error that cost messages; its ``records`` are these messages.

    Memory is bounded: ``await producer.append(...)`` waits for room. A batch that gets no answer for about two
    minutes fails. After an error nothing more is taken until `restart`: sending on would reorder the stream.

    What is certain: a message is stored at most once, and at least once if it was acknowledged; in order; as long
    as this process lives. What a crash leaves unsent is lost. A batch whose answer was
    lost just before another producer claimed the epoch may be stored twice when ``auto_claim`` takes it back.

    With a ``store`` a message is on the disk before it is sent: it is in the stream exactly once and in order,
    whatever happens to this process. With `SqliteProducerStore`, awaiting `append` waits until the message is
    stored, awaiting the acknowledgement until the server has it. Batches are sent one at a time, again and again
    for as long as it takes; epochs are claimed as needed, and ``epoch`` is only the first one of a new store. So
    ``auto_claim``, ``linger_ms`` and ``max_in_flight`` say nothing then. `flush` waits until the store is drained,
    `close` leaves the rest for the next producer, `restart` looks again at what stopped this one. After a stop
    messages are still taken; nothing that is in the store is lost. Any other `ProducerStore` is only drained.
    """

    def __init__(
        self,
        url_or_stream: str | AsyncDurableStream,
        producer_id: str,
        *,
        client: httpx.AsyncClient | None = None,
        epoch: int = 0,
        auto_claim: bool = False,
        max_batch_bytes: int = 1024 * 1024,
        linger_ms: float = 5,
        max_in_flight: int = 5,
        content_type: str | None = None,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        on_error: ProducerErrorHandler | None = None,
        store: ProducerStore | None = None,
    ) -> None:
        if not isinstance(url_or_stream, str | AsyncDurableStream):
            raise TypeError(
                f"an IdempotentProducer takes a URL or an AsyncDurableStream, not {type(url_or_stream).__name__}"
            )
        _checks.callback("on_error", on_error)
        self._producer_id = producer_id
        url = url_or_stream if isinstance(url_or_stream, str) else url_or_stream.url
        _http.check_target(url, client, asynchronous=True)
        known = None if isinstance(url_or_stream, str) else url_or_stream.content_type
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
            carrier = AsyncCarrier(client, _http.Extras(headers, params))
        else:
            carrier = url_or_stream.carrier(headers, params)
        self._engine: ProducerEngine
        if store is not None:
            self._engine = drain_engine(
                url,
                producer_id,
                store,
                carrier,
                epoch=epoch,
                max_batch_bytes=max_batch_bytes,
                content_type=content_type or known,
                on_error=on_error,
            )
            return
        self._engine = PushEngine(carrier, settings, epoch=epoch, on_error=on_error)

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

    def append(self, data: Any) -> Appended:
        """Take one message; it is sent soon. Needs a running event loop.

        ``await producer.append(x)`` waits for room in the buffer and returns an `Acknowledgement`; awaiting that
        one waits for the server. Neither is needed to have the message sent. Raises `MessageError` for what the
        stream cannot take, `ProducerStoppedError` after a failure.
        """
        return self._engine.append(data)

    def append_nowait(self, data: Any) -> Acknowledgement:
        """Take one message, or raise `ProducerFullError` when there is no room."""
        return self._engine.append_nowait(data)

    async def flush(self) -> None:
        """Wait until everything appended so far is confirmed; raise the first error since the last restart."""
        await self._engine.flush()

    async def restart(self) -> None:
        """Go on after an error, in a new epoch; what is unconfirmed is sent again in it."""
        await self._engine.restart()

    async def close_stream(self, data: Any = None) -> CloseResult:
        """Flush, then close the stream for good, with a last message if one is given."""
        return await self._engine.close_stream(data)

    async def close(self) -> None:
        """Flush and stop; raise the first error. The stream stays open."""
        await self._engine.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        await self.close()

    async def __aenter__(self) -> Self:
        try:
            await self._engine.start()
        except BaseException:
            with suppress(DurableStreamError):  # the same error, once more
                await self._engine.close()
            raise
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            await self._engine.close()
        except Exception as closing:
            if error is None:
                raise
            error.add_note(f"Closing the producer failed too: {closing!r}")
