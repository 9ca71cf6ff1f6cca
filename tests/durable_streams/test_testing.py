"""The server for tests: starts by itself, over a socket or without one, and leaves nothing behind."""

from __future__ import annotations

import asyncio

import anyio
import httpx
import pytest

from durable_streams import testing
from durable_streams.testing import InMemoryStreamServer

TEXT = {"content-type": "text/plain"}

stream_server = pytest.fixture(testing.stream_server)


class TestOverASocket:
    def test_the_first_url_starts_it(self) -> None:
        server = InMemoryStreamServer()
        url = server.url("/test")
        assert httpx.put(url, headers=TEXT).status_code == 201
        assert server.url("test") == url == f"{server.url()}/test"
        server.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)

    def test_each_server_has_streams_of_its_own(self, stream_server: InMemoryStreamServer) -> None:
        httpx.put(stream_server.url("/s"), headers=TEXT)
        with InMemoryStreamServer() as other:
            assert httpx.head(other.url("/s")).status_code == 404

    def test_closing_twice_or_unused_is_fine_but_using_it_afterwards_is_not(self) -> None:
        server = InMemoryStreamServer()
        server.close()
        server.close()
        with pytest.raises(RuntimeError, match="closed"):
            server.url()


class TestWithoutASocket:
    def test_both_ways_reach_the_same_streams(self, stream_server: InMemoryStreamServer) -> None:
        with httpx.Client(transport=stream_server.transport()) as client:
            client.put("http://any.host/s", headers=TEXT, content=b"x")
        assert httpx.get(stream_server.url("/s")).content == b"x"

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_on_an_event_loop(self, backend: str, stream_server: InMemoryStreamServer) -> None:
        answers: dict[str, httpx.Response] = {}

        async def poll_and_append() -> None:
            async with httpx.AsyncClient(transport=stream_server.transport()) as client:
                await client.put("http://x/s", headers=TEXT)

                async def poll() -> None:
                    answers["poll"] = await client.get("http://x/s?offset=-1&live=long-poll")

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(poll)
                    answers["append"] = await client.post("http://x/s", headers=TEXT, content=b"data")

        anyio.run(poll_and_append, backend=backend)
        assert (answers["poll"].status_code, answers["poll"].content) == (200, b"data")
        assert answers["append"].status_code == 204

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_request_can_be_given_up(self, backend: str) -> None:
        async def give_up() -> None:
            async with httpx.AsyncClient(transport=server.transport()) as client:
                await client.put("http://x/s", headers=TEXT)
                with anyio.move_on_after(0.05) as scope:
                    await client.get("http://x/s?offset=now&live=long-poll")
                assert scope.cancelled_caught
                assert (await client.head("http://x/s")).status_code == 200

        with InMemoryStreamServer(long_poll_timeout_seconds=60) as server:
            anyio.run(give_up, backend=backend)

    def test_answers_come_in_pieces(self, stream_server: InMemoryStreamServer) -> None:
        async def tail() -> bytes:
            received = b""
            async with httpx.AsyncClient(transport=stream_server.transport()) as client:
                await client.put("http://x/s", headers=TEXT)
                async with client.stream("GET", "http://x/s?offset=-1&live=sse") as answer:
                    async for piece in answer.aiter_raw():
                        received += piece
                        if b"streamClosed" in received:
                            break
                        closing = {**TEXT, "stream-closed": "true"}
                        await client.post("http://x/s", headers=closing, content=b"data")
            return received

        assert b"data:data\n" in asyncio.run(tail())

    def test_the_read_timeout_is_kept(self) -> None:
        with (
            InMemoryStreamServer(long_poll_timeout_seconds=60) as server,
            httpx.Client(transport=server.transport(), timeout=0.05) as client,
        ):
            client.put("http://x/s", headers=TEXT)
            with pytest.raises(httpx.ReadTimeout):
                client.get("http://x/s?offset=now&live=long-poll")

    def test_a_closed_server_cannot_be_reached(self) -> None:
        server = InMemoryStreamServer()
        transport = server.transport()
        server.close()
        with httpx.Client(transport=transport) as client, pytest.raises(httpx.ConnectError):
            client.get("http://x/s")
