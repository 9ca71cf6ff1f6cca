"""What a type checker sees of the API without async. Nothing here runs: mypy and pyright read it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, assert_type, cast

import httpx

from durable_streams import (
    AppendResult,
    CloseResult,
    DurableStream,
    DurableStreamError,
    FetchError,
    HeadersLike,
    HeadResult,
    IdempotentAppendResult,
    ItemIterator,
    LiveMode,
    Offset,
    ParamsLike,
    RetryWith,
    StreamEvent,
    StreamResponse,
    SyncAcknowledgement,
    SyncIdempotentProducer,
    stream,
)
from durable_streams.testing import InMemoryStreamServer

URL = "https://streams.example.com/v1/stream/readings"


class Reading(TypedDict):
    """What the messages of a stream look like."""

    device: str
    value: float


def as_reading(value: Any) -> Reading:
    """Say what a message is; a real one would check it."""
    return cast("Reading", value)


def token() -> str:
    """A header's value that is asked for at each request."""
    return "Bearer x"


def tenants() -> list[str]:
    """A parameter's values, likewise."""
    return ["a", "b"]


def refresh(error: DurableStreamError) -> RetryWith | None:
    """Bring a new token, once the old one is refused."""
    if isinstance(error, FetchError) and error.status == 401:
        return {"headers": {"Authorization": token}}
    return None


HEADERS: HeadersLike = {"Authorization": token, "X-Fixed": "1"}
PARAMS: ParamsLike = {"tenant": "mine", "tag": ["a", "b"], "region": tenants}


def reading(client: httpx.Client, live: LiveMode, offset: Offset | None) -> None:
    with stream(
        URL,
        offset=offset,
        live=live,
        cursor="c",
        headers=HEADERS,
        params=PARAMS,
        on_error=refresh,
        client=client,
        timeout=5.0,
    ) as res:
        assert_type(res, StreamResponse)
        assert_type(iter(res), ItemIterator[bytes])
        assert_type(res.iter_bytes(), ItemIterator[bytes])
        assert_type(res.iter_text(), ItemIterator[str])
        assert_type(res.iter_text(encoding="latin-1"), ItemIterator[str])
        assert_type(res.iter_json(), ItemIterator[Any])
        assert_type(res.iter_json(decode=as_reading), ItemIterator[Reading])
        assert_type(res.iter_json_batches(), ItemIterator[list[Any]])
        for message in res.iter_json(decode=as_reading):
            assert_type(message["value"], float)


def events(res: StreamResponse) -> None:
    assert_type(res.iter_events(), ItemIterator[StreamEvent[bytes]])
    assert_type(res.iter_events("bytes"), ItemIterator[StreamEvent[bytes]])
    assert_type(res.iter_events(mode="text"), ItemIterator[StreamEvent[str]])
    assert_type(res.iter_events(mode="json"), ItemIterator[StreamEvent[list[Any]]])
    for event in res.iter_events(mode="text"):
        assert_type(event.data, str)
        assert_type(event.next_offset, str)
        assert_type(event.up_to_date, bool)
        assert_type(event.cursor, str | None)


def all_at_once(res: StreamResponse) -> None:
    assert_type(res.read_bytes(), bytes)
    assert_type(res.read_text(), str)
    assert_type(res.read_json(), list[Any])
    assert_type(res.read_json(decode=as_reading), list[Reading])
    assert_type(res.read_json_batches(), list[list[Any]])


def properties(res: StreamResponse) -> None:
    assert_type(res.url, str)
    assert_type(res.content_type, str | None)
    assert_type(res.live, LiveMode)
    assert_type(res.offset, str)
    assert_type(res.start_offset, str)
    assert_type(res.cursor, str | None)
    assert_type(res.up_to_date, bool)
    assert_type(res.stream_closed, bool)
    assert_type(res.headers, Mapping[str, str])
    assert_type(res.status, int)
    assert_type(res.ok, bool)
    assert_type(res.closed, bool)


class OwnHandle(DurableStream):
    """A subclass: what makes handles makes these, too."""


def handles(client: httpx.Client) -> None:
    handle = DurableStream(
        URL,
        content_type="application/json",
        headers=HEADERS,
        params=PARAMS,
        client=client,
        timeout=5,
        batching=True,
    )
    assert_type(
        DurableStream.create(
            URL, ttl_seconds=60, body=[1], closed=True, headers=HEADERS, params=PARAMS, client=client, timeout=5
        ),
        DurableStream,
    )
    assert_type(DurableStream.create(URL, expires_at=datetime.now(UTC)), DurableStream)
    assert_type(DurableStream.create(URL, expires_at="2030-01-01T00:00:00Z"), DurableStream)
    assert_type(OwnHandle.connect(URL, headers=HEADERS), OwnHandle)
    assert_type(DurableStream.head_static(URL), HeadResult)
    DurableStream.delete_static(URL)
    with handle as entered:
        assert_type(entered, DurableStream)
    assert_type(handle.url, str)
    assert_type(handle.content_type, str | None)
    assert_type(handle.create_stream(content_type="text/plain"), HeadResult)
    assert_type(handle.append({"n": 1}), AppendResult)
    assert_type(handle.append(b"x", seq="1").next_offset, str)
    assert_type(handle.stream(live="sse"), StreamResponse)
    assert_type(handle.close_stream(), CloseResult)
    assert_type(handle.close_stream({"n": 2}).final_offset, str)
    head = handle.head()
    assert_type(head.content_type, str | None)
    assert_type(head.offset, str)
    assert_type(head.stream_closed, bool)
    assert_type(head.etag, str | None)
    assert_type(head.cache_control, str | None)
    handle.delete()
    handle.close()


def producing(handle: DurableStream, client: httpx.Client) -> None:
    told: list[DurableStreamError] = []
    SyncIdempotentProducer(handle, "p").close()
    with SyncIdempotentProducer(
        URL,
        "p",
        client=client,
        epoch=1,
        auto_claim=True,
        max_batch_bytes=1024,
        linger_ms=0.5,
        max_in_flight=2,
        content_type="application/json",
        headers=HEADERS,
        params=PARAMS,
        on_error=told.append,
    ) as producer:
        acknowledgement = producer.append({"n": 1})
        assert_type(acknowledgement, SyncAcknowledgement)
        assert_type(acknowledgement.settled, bool)
        confirmed = acknowledgement.result(timeout_seconds=5)
        assert_type(confirmed, IdempotentAppendResult)
        assert_type(confirmed.offset, str | None)
        assert_type(confirmed.duplicate, bool)
        assert_type(producer.append_nowait("{}"), SyncAcknowledgement)
        producer.flush()
        producer.restart()
        assert_type(producer.producer_id, str)
        assert_type(producer.epoch, int)
        assert_type(producer.next_seq, int)
        assert_type(producer.pending_count, int)
        assert_type(producer.in_flight_count, int)
        assert_type(producer.close_stream({"n": 2}), CloseResult)


def errors(error: DurableStreamError) -> None:
    assert_type(error.code, str)
    assert_type(error.message, str)
    assert_type(error.status, int | None)
    assert_type(error.url, str | None)
    assert_type(error.headers, Mapping[str, str])
    assert_type(error.records, tuple[bytes, ...])


def testing() -> None:
    with InMemoryStreamServer(long_poll_timeout_seconds=0.1) as server:
        assert_type(server, InMemoryStreamServer)
        assert_type(server.url("/s"), str)
        httpx.Client(transport=server.transport()).close()
