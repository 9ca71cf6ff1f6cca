"""What a type checker sees of the API with async. Nothing here runs: mypy and pyright read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_type

import httpx

from durable_streams import (
    Acknowledgement,
    Appended,
    AppendResult,
    AsyncDurableStream,
    AsyncItemIterator,
    AsyncStreamResponse,
    CloseResult,
    DurableStreamError,
    HeadersLike,
    HeadResult,
    IdempotentAppendResult,
    IdempotentProducer,
    LiveMode,
    Offset,
    ParamsLike,
    ProducerStore,
    RetryWith,
    StreamEvent,
    astream,
)

from .sync_api import URL, Reading, as_reading, token

if TYPE_CHECKING:
    from durable_streams.testing import InMemoryStreamServer


async def awaited_token() -> str:
    """A header's value that is awaited at each request."""
    return "Bearer x"


async def awaited_tenants() -> list[str]:
    """A parameter's values, likewise."""
    return ["a", "b"]


async def refresh(error: DurableStreamError) -> RetryWith | None:
    """Bring a new token, once the old one is refused."""
    return {"headers": {"Authorization": await awaited_token()}} if error.status == 401 else None


HEADERS: HeadersLike = {"Authorization": awaited_token, "X-Also": token, "X-Fixed": "1"}
PARAMS: ParamsLike = {"tenant": "mine", "tag": ("a", "b"), "region": awaited_tenants}


async def reading(client: httpx.AsyncClient, live: LiveMode, offset: Offset | None) -> None:
    async with astream(
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
        assert_type(res, AsyncStreamResponse)
        assert_type(aiter(res), AsyncItemIterator[bytes])
        assert_type(res.iter_bytes(), AsyncItemIterator[bytes])
        assert_type(res.iter_text(encoding="latin-1"), AsyncItemIterator[str])
        assert_type(res.iter_json(), AsyncItemIterator[Any])
        assert_type(res.iter_json(decode=as_reading), AsyncItemIterator[Reading])
        assert_type(res.iter_json_batches(), AsyncItemIterator[list[Any]])
        async for message in res.iter_json(decode=as_reading):
            assert_type(message["value"], float)
    assert_type(await astream(URL), AsyncStreamResponse)


async def events(res: AsyncStreamResponse) -> None:
    assert_type(res.iter_events(), AsyncItemIterator[StreamEvent[bytes]])
    assert_type(res.iter_events(mode="text"), AsyncItemIterator[StreamEvent[str]])
    assert_type(res.iter_events(mode="json"), AsyncItemIterator[StreamEvent[list[Any]]])


async def all_at_once(res: AsyncStreamResponse) -> None:
    assert_type(await res.read_bytes(), bytes)
    assert_type(await res.read_text(), str)
    assert_type(await res.read_json(), list[Any])
    assert_type(await res.read_json(decode=as_reading), list[Reading])
    assert_type(await res.read_json_batches(), list[list[Any]])
    assert_type(res.offset, str)
    assert_type(res.live, LiveMode)
    await res.aclose()


async def handles(client: httpx.AsyncClient) -> None:
    handle = AsyncDurableStream(
        URL,
        content_type="application/json",
        headers=HEADERS,
        params=PARAMS,
        client=client,
        timeout=5,
        batching=True,
    )
    created = await AsyncDurableStream.create(
        URL, ttl_seconds=60, body=[1], closed=True, headers=HEADERS, params=PARAMS, client=client, timeout=5
    )
    assert_type(created, AsyncDurableStream)
    assert_type(await AsyncDurableStream.create(URL, expires_at=datetime.now(UTC)), AsyncDurableStream)
    assert_type(await AsyncDurableStream.connect(URL, headers=HEADERS), AsyncDurableStream)
    assert_type(await AsyncDurableStream.head_static(URL), HeadResult)
    await AsyncDurableStream.delete_static(URL)
    async with handle as entered:
        assert_type(entered, AsyncDurableStream)
    assert_type(await handle.create_stream(), HeadResult)
    assert_type(await handle.head(), HeadResult)
    assert_type(await handle.append({"n": 1}), AppendResult)
    assert_type(await handle.append(b"x", seq="1"), AppendResult)
    assert_type(await handle.stream(), AsyncStreamResponse)
    async with handle.stream(live="long-poll") as res:
        assert_type(res, AsyncStreamResponse)
    assert_type(await handle.close_stream({"n": 2}), CloseResult)
    await handle.delete()
    await handle.aclose()


async def producing(handle: AsyncDurableStream, client: httpx.AsyncClient, store: ProducerStore) -> None:
    told: list[DurableStreamError] = []
    await IdempotentProducer(handle, "p").close()
    await IdempotentProducer(URL, "p", store=store).aclose()
    async with IdempotentProducer(
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
        taken = producer.append({"n": 1})
        assert_type(taken, Appended)
        acknowledgement = await taken
        assert_type(acknowledgement, Acknowledgement)
        assert_type(acknowledgement.settled, bool)
        assert_type(await acknowledgement, IdempotentAppendResult)
        assert_type(producer.append_nowait("{}"), Acknowledgement)
        await producer.flush()
        await producer.restart()
        assert_type(producer.epoch, int)
        assert_type(producer.next_seq, int)
        assert_type(producer.pending_count, int)
        assert_type(producer.in_flight_count, int)
        assert_type(await producer.close_stream(), CloseResult)


async def testing(server: InMemoryStreamServer) -> None:
    await httpx.AsyncClient(transport=server.transport()).aclose()
