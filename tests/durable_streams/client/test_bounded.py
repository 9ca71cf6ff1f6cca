"""Exchanges that survive any server: bounded in memory and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from durable_streams import _http
from durable_streams._http_async import AsyncCarrier
from durable_streams._wire import Failure, Reply, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

URL = "http://s.test/x"


class Endless(httpx.AsyncByteStream):
    """A body without an end; counts what was taken of it."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.taken += 1000
            yield bytes(1000)

    async def aclose(self) -> None:
        self.closed = True


async def test_an_endless_body_is_cut_and_its_connection_given_up() -> None:
    body = Endless()
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"stream-next-offset": "9"}, stream=body)
    )
    async with httpx.AsyncClient(transport=transport) as client:
        answer = await AsyncCarrier(client, _http.Extras(None, None)).exchange_bounded(
            Request("HEAD", URL), max_reply_bytes=5000, seconds=60
        )
    assert isinstance(answer, Reply)
    assert (answer.headers["stream-next-offset"], len(answer.body)) == ("9", 5000)
    assert body.taken < 10_000
    assert body.closed


async def test_an_answer_that_never_ends_is_none() -> None:
    async def drip(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError("nothing wakes it")

    async with httpx.AsyncClient(transport=httpx.MockTransport(drip)) as client:
        answer = await AsyncCarrier(client, _http.Extras(None, None)).exchange_bounded(
            Request("POST", URL, body=b"[1]"), max_reply_bytes=100, seconds=0.05
        )
    assert isinstance(answer, Failure)
    assert answer.sent, "it may have been stored: the stream has to be asked"
    assert "0 s" in answer.reason


async def test_a_body_leaves_in_pieces_and_arrives_whole() -> None:
    body = bytes(range(256)) * 1000
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as client:
        answer = await AsyncCarrier(client, _http.Extras({"authorization": "Bearer t"}, None)).exchange_bounded(
            Request("POST", URL, headers={"content-type": "x/y"}, body=body), max_reply_bytes=100, seconds=60
        )
    assert isinstance(answer, Reply)
    assert seen[0].content == body
    assert seen[0].headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in seen[0].headers
    assert seen[0].headers["authorization"] == "Bearer t"
