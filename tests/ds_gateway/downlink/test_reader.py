"""Reading commands from a real stream server, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import httpx
import pytest

from ds_gateway.downlink.book import Place
from ds_gateway.downlink.reader import Page, PlaceLostError, Reader
from ds_gateway.errors import DownlinkError
from durable_streams import DurableStream, DurableStreamError, StreamNotFoundError
from durable_streams.testing import DropBefore, InMemoryStreamServer, Status
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PATH = "commands/g"
PATIENCE_SECONDS = 10.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as server:
        yield server


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A reader, and a sender beside it."""

    def __init__(self, server: InMemoryStreamServer, client: httpx.AsyncClient) -> None:
        self.server = server
        self.clock = Clock()
        self.client = client
        self.url = server.url(PATH)
        self.reader = Reader(self.url, client=client, headers={}, create=True, clock=self.clock)

    async def send(self, *values: object) -> None:
        def send() -> None:
            with DurableStream(self.url, content_type="application/json") as handle:
                for value in values:
                    handle.append(value)

        await asyncio.to_thread(send)


@pytest.fixture
async def bench(server: InMemoryStreamServer) -> AsyncIterator[Bench]:
    async with httpx.AsyncClient() as client:
        yield Bench(server, client)


async def until(pages: AsyncIterator[Page], count: int) -> list[Page]:
    """Pages, until they have so many elements together; the empty ones before are left out."""
    found: list[Page] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for page in pages:
            if page.elements:
                found.append(page)
            if sum(len(each.elements) for each in found) >= count:
                return found
    raise AssertionError("the pages ended")


async def caught_up(pages: AsyncIterator[Page]) -> Page:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for page in pages:
            if page.is_up_to_date and not page.elements:
                return page
    raise AssertionError("the pages ended")


class TestLooking:
    async def test_a_missing_stream_is_made(self, bench: Bench) -> None:
        end = await bench.reader.look(None)
        assert await bench.reader.look(Place(end, 0)) == end
        await bench.send(1)
        assert await bench.reader.look(Place(end, 0)) > end

    async def test_unless_that_is_not_wanted(self, bench: Bench) -> None:
        reader = Reader(bench.url, client=bench.client, headers={}, create=False)
        with pytest.raises(StreamNotFoundError):
            await reader.look(None)

    async def test_a_stream_of_something_else_is_refused(self, bench: Bench) -> None:
        await asyncio.to_thread(lambda: DurableStream.create(bench.url, content_type="text/plain").close())
        with pytest.raises(DownlinkError, match="holds text/plain"):
            await bench.reader.look(None)

    async def test_a_stream_that_was_made_anew_is_another_place(self, bench: Bench) -> None:
        await bench.reader.look(None)
        await bench.send(1, 2)
        end = await bench.reader.look(None)
        await asyncio.to_thread(DurableStream.delete_static, bench.url)
        with pytest.raises(PlaceLostError, match="read to"):
            await bench.reader.look(Place(end, 0))

    async def test_even_if_it_is_as_long_as_the_old_one(self, bench: Bench) -> None:
        await bench.reader.look(None)
        await bench.send(1)
        async with contextlib.aclosing(bench.reader.pages(Place("-1", 0))) as pages:
            (page,) = await until(pages, 1)
        place = Place(page.next_offset, 1, page.mark)
        await bench.send(2)
        await bench.reader.look(place)
        await asyncio.to_thread(DurableStream.delete_static, bench.url)
        await bench.reader.look(None)
        await bench.send(7, 8, 9)
        with pytest.raises(PlaceLostError, match="made anew"):
            await bench.reader.look(place)


class TestReading:
    async def test_a_catch_up_is_not_live_and_what_comes_then_is(self, bench: Bench) -> None:
        await bench.reader.look(None)
        await bench.send(1, 2)
        async with contextlib.aclosing(bench.reader.pages(Place("-1", 0))) as pages:
            found = await until(pages, 2)
            assert [each for page in found for each in page.elements] == [b"1", b"2"]
            assert not any(page.is_live for page in found)
            await caught_up(pages)
            await bench.send(3)
            (live,) = await until(pages, 1)
            assert (live.elements, live.is_live) == ([b"3"], True)

    async def test_what_the_first_answer_brings_is_not_live(self, bench: Bench) -> None:
        end = await bench.reader.look(None)
        await bench.send(1)
        async with contextlib.aclosing(bench.reader.pages(Place(end, 0))) as pages:
            (page,) = await until(pages, 1)
            assert page.is_up_to_date
            assert not page.is_live

    async def test_long_polls_that_follow_at_once_are_live(self, bench: Bench) -> None:
        end = await bench.reader.look(None)
        bench.server.inject(Status(406), path=PATH, where=lambda request: "live=sse" in request.query, times=None)
        async with contextlib.aclosing(bench.reader.pages(Place(end, 0))) as pages:
            await caught_up(pages)
            await caught_up(pages)
            await bench.send(1)
            (page,) = await until(pages, 1)
            assert page.is_live

    async def test_what_came_while_nobody_looked_is_not_live(self, bench: Bench) -> None:
        end = await bench.reader.look(None)
        async with contextlib.aclosing(bench.reader.pages(Place(end, 0))) as pages:
            await caught_up(pages)
            bench.clock.now += 60
            await bench.send(1)
            (page,) = await until(pages, 1)
            assert not page.is_live

    async def test_what_came_while_the_connection_was_broken_is_not_live(self, bench: Bench) -> None:
        await bench.reader.look(None)
        async with contextlib.aclosing(bench.reader.pages(Place("-1", 0))) as pages:
            await caught_up(pages)
            await caught_up(pages)
            snapshot = bench.server.snapshot()
            with bench.server.inject(DropBefore(), method="GET", times=None) as plan:
                bench.server.restore(snapshot)  # breaks the connections
                waiting = asyncio.create_task(until(pages, 1))
                await await_until(lambda: len(plan.requests) >= 2, what="it tried again")
                bench.clock.now += 60
                await bench.send(1)
            (page,) = await waiting
            assert not page.is_live
            await bench.send(2)
            (page,) = await until(pages, 1)
            assert page.is_live

    async def test_a_server_that_went_back_is_found_out(self, bench: Bench) -> None:
        await bench.reader.look(None)
        await bench.send(1)
        old = bench.server.snapshot()
        await bench.send(2)
        async with contextlib.aclosing(bench.reader.pages(Place("-1", 0))) as pages:
            await until(pages, 2)
            bench.server.restore(old)
            with pytest.raises(PlaceLostError):
                await until(pages, 1)

    async def test_an_offset_that_is_refused_again_and_again_is_lost(self, bench: Bench) -> None:
        await bench.reader.look(None)
        await bench.send(1)
        bench.server.inject(Status(410), method="GET", times=None)
        for _ in range(2):
            with pytest.raises(DurableStreamError):
                await until(bench.reader.pages(Place("-1", 0)), 1)
        with pytest.raises(PlaceLostError, match="cannot be read"):
            await until(bench.reader.pages(Place("-1", 0)), 1)

    async def test_a_page_that_is_none_is_said_so(self, bench: Bench) -> None:
        end = await bench.reader.look(None)
        bench.server.inject(
            Status(200, headers={"stream-next-offset": "9", "content-type": "application/json"}, body=b"<html>"),
            method="GET",
        )
        with pytest.raises(DownlinkError, match="no JSON array"):
            await until(bench.reader.pages(Place(end, 0)), 1)
