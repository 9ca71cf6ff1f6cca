"""Exchanges that survive any server: bounded in memory and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest

from durable_streams import AsyncDurableStream, PayloadTooLargeError, StreamNotFoundError, _http
from durable_streams._http_async import AsyncCarrier
from durable_streams._http_sync import SyncCarrier
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
            await anyio.lowlevel.checkpoint()  # as a socket
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


async def test_an_exception_of_nobodys_family_is_no_answer() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise KeyError("transport")

    request, limits = Request("POST", URL, body=b"[1]"), {"max_reply_bytes": 100, "seconds": 60.0}
    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
        answer = await AsyncCarrier(client, _http.Extras(None, None)).exchange_bounded(request, **limits)  # type: ignore[arg-type]
    with httpx.Client(transport=httpx.MockTransport(fail)) as sync_client:
        carrier = SyncCarrier(sync_client, _http.Extras(None, None))
        assert carrier.exchange_bounded(request, **limits) == answer  # type: ignore[arg-type]
    assert answer == Failure("KeyError: 'transport'")


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("status", "piece", "error"),
    [
        pytest.param(413, b"2710\r\n" + b"x" * 10_000 + b"\r\n", PayloadTooLargeError, id="endless"),
        pytest.param(404, b"", StreamNotFoundError, id="silent"),
    ],
)
async def test_the_answer_to_a_write_is_cut_over_a_socket_and_nothing_is_left(
    status: int, piece: bytes, error: type[Exception]
) -> None:
    """Warnings are errors here, also those about generators that were left to the garbage collector."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                await stream.receive()
                await stream.send(b"HTTP/1.1 %d X\r\ntransfer-encoding: chunked\r\n\r\n" % status)
                while piece:
                    await stream.send(piece)
                await stream.receive()  # until the client gives up
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with AsyncDurableStream(f"http://127.0.0.1:{port}/s", content_type="a/b", timeout=0.2) as handle:
            for operation in (handle.delete(), handle.append("x")):
                with pytest.raises(error):
                    await operation
            with pytest.raises(error):
                await handle.stream(live=False)
        tasks.cancel_scope.cancel()
