"""A producer over a store, with the real journal as the store and real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.records import Item, Record
from durable_streams import AsyncDurableStream, DurableStream, IdempotentProducer, ProducerStoppedError, stream
from durable_streams.testing import InMemoryStreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.journal import Intake

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as server:
        yield server


class Store:
    """A journal with one stream, written to as a source would."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.committed = 0
        self.journal = Journal.open(
            folder, gateway="g", url=base_url, limits=JournalLimits(min_free_bytes=0, max_delay_seconds=0.0)
        )
        self.intake: Intake = self.journal.intake("s", max_items=1000, on_committed=self._count)
        self.journal.start()

    def _count(self, items: object, _commit: int) -> None:
        assert isinstance(items, list)
        self.committed += len(items)

    def write(self, *values: int) -> None:
        before = self.committed
        self.intake.offer([Item(Record("one", "d", b'"data":{"n":%d}}' % value)) for value in values])
        wait_until(lambda: self.committed == before + len(values), what="the records are committed")


def stored(url: str) -> list[int]:
    with stream(url, live=False) as response:
        return [message["data"]["n"] for message in response.read_json() if "data" in message]


async def test_it_drains_the_store_and_goes_on_after_a_restart(
    server: InMemoryStreamServer, tmp_path: Path
) -> None:
    url = server.url("/one")
    for round_number in range(3):
        store = Store(tmp_path, server.url("/"))
        store.write(*range(round_number * 10, round_number * 10 + 10))
        async with IdempotentProducer(url, "ignored", store=store.journal.store(1, birth={})) as producer:
            await producer.flush()
            assert producer.pending_count == 0
            assert producer.epoch == 0
        store.journal.stop()
    assert stored(url) == list(range(30))


async def test_closing_leaves_the_rest_for_the_next_one(server: InMemoryStreamServer, tmp_path: Path) -> None:
    store = Store(tmp_path, server.url("/"))
    store.write(1, 2, 3)
    producer = IdempotentProducer(server.url("/one"), "ignored", store=store.journal.store(1, birth={}))
    await producer.close()
    assert producer.pending_count == 3
    async with IdempotentProducer(server.url("/one"), "x", store=store.journal.store(1, birth={})) as following:
        await following.flush()
    store.journal.stop()
    assert stored(server.url("/one")) == [1, 2, 3]


async def test_what_stops_it_is_raised_by_flush_and_by_close(server: InMemoryStreamServer, tmp_path: Path) -> None:
    url = server.url("/one")
    handle = await AsyncDurableStream.create(url, content_type="application/json")
    await handle.close_stream()
    await handle.aclose()
    store = Store(tmp_path, server.url("/"))
    store.write(1)
    producer = IdempotentProducer(url, "ignored", store=store.journal.store(1, birth={}))
    with pytest.raises(Exception, match="closed"):
        await producer.flush()
    with pytest.raises(ProducerStoppedError, match="closed"):
        await producer.close()
    store.journal.stop()


async def test_a_message_belongs_into_the_store(server: InMemoryStreamServer, tmp_path: Path) -> None:
    store = Store(tmp_path, server.url("/"))
    store.write(1)
    producer = IdempotentProducer(server.url("/one"), "ignored", store=store.journal.store(1, birth={}))
    with pytest.raises(TypeError, match="to the store"):
        producer.append({"n": 1})
    await producer.close()
    store.journal.stop()


async def test_an_answer_that_was_lost_is_looked_up_in_the_stream(
    server: InMemoryStreamServer, tmp_path: Path
) -> None:
    """The server appends, the answer never arrives, and the stream says so."""
    url = server.url("/one")
    lost = 0

    class LosesTheSecondAnswer(httpx.AsyncHTTPTransport):
        posts = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal lost
            response = await super().handle_async_request(request)
            if request.method == "POST":
                self.posts += 1
                if self.posts == 2:
                    await response.aread()
                    await response.aclose()
                    lost += 1
                    raise httpx.ReadError("connection reset", request=request)
            return response

    store = Store(tmp_path, server.url("/"))
    store.write(1, 2)
    async with httpx.AsyncClient(transport=LosesTheSecondAnswer()) as client:
        producer = IdempotentProducer(url, "ignored", client=client, store=store.journal.store(1, birth={}))
        await producer.flush()
        store.write(3)
        await producer.flush()
        await producer.close()
    store.journal.stop()
    assert lost == 1
    assert stored(url) == [1, 2, 3]
    with DurableStream.connect(url) as handle, handle.stream(live=False) as response:
        kinds = [message.get("kind") for message in response.read_json()]
    assert kinds == ["birth", None, None, None]
