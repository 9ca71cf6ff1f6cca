"""An application may break the connection of a request: over a socket and in process it looks the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx
import pytest

from durable_streams.server import MemoryStore, ServerThread, StreamApp
from durable_streams.testing import InProcessTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams.server._http import Message, Receive, Scope, Send


class Breaking(StreamApp):
    """Breaks off where the path of a request says: before the answer, or behind the first piece of its body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        abort = scope["extensions"]["durable_streams.abort"]
        if scope["path"] == "/whole":
            await super().__call__(scope, receive, send)
            return
        if scope["path"] == "/before":
            # A client that still sends its body may find the reset there, and then just the end.
            while (await receive())["more_body"]:
                pass
            abort()
            abort()  # is not more than once
            return
        start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]}
        await send(start)
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        abort(flush=scope["path"] == "/flushed")


@pytest.fixture(params=["socket", "in process"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    server = ServerThread(Breaking(MemoryStore()))
    server.start()
    try:
        if request.param == "socket":
            made = httpx.Client(base_url=server.listen())
        else:
            made = httpx.Client(base_url="http://any.host", transport=InProcessTransport(server))
        with made:
            yield made
    finally:
        server.stop()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_before_the_answer(client: httpx.Client, method: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx.ReadError):
        client.request(method, "/before", content=b"body" if method == "POST" else None)
    assert client.get("/whole").status_code == 404, "the server goes on"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_in_the_middle_of_the_answer(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx.ReadError):
        client.get("/middle")
    assert client.get("/whole").status_code == 404, "the server goes on"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_behind_what_was_sent_so_far(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with client.stream("GET", "/flushed") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"begun"
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    assert client.get("/whole").status_code == 404, "the server goes on"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
