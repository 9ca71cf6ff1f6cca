"""The application itself: tokens, live reads that end, failures of the store."""

from __future__ import annotations

import socket
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from durable_streams.server import (
    Limits,
    MemoryStore,
    ServerThread,
    SqliteStore,
    StoreError,
    StreamApp,
    is_loopback,
)
from durable_streams.testing import InProcessTransport
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from durable_streams.server._store import Result, Transaction

TEXT = {"content-type": "text/plain"}
PATIENT = Limits(long_poll_timeout_seconds=60.0, sse_seconds=60.0)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def server(store: MemoryStore) -> Iterator[ServerThread]:
    thread = ServerThread(StreamApp(store, limits=PATIENT))
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def client(server: ServerThread) -> Iterator[httpx.Client]:
    with httpx.Client(transport=InProcessTransport(server), base_url="http://streams.test") as made:
        made.put("/s", headers=TEXT)
        yield made


def test_an_answers_second_half_does_not_wait_for_the_first_to_be_acknowledged(server: ServerThread) -> None:
    server.listen()
    [(listening, _)] = server._servers
    [listener] = [each for server in listening.servers for each in server.sockets]
    # Its connections inherit the option: without it each answer with a body takes 40 ms longer.
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("live", ["long-poll", "sse"])
class TestLiveReads:
    def test_end_when_the_server_stops(self, server: ServerThread, store: MemoryStore, live: str) -> None:
        url = server.listen()
        httpx.put(f"{url}/s", headers=TEXT)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx.get, f"{url}/s?offset=now&live={live}", timeout=30)
            wait_until(lambda: store._watchers.waiting == 1, what="the reader waits")
            server.stop()
            assert answer.result(20).status_code in {200, 204}

    def test_are_forgotten_when_the_client_goes_away(
        self, server: ServerThread, store: MemoryStore, live: str
    ) -> None:
        url = httpx.URL(server.listen())
        httpx.put(f"{url}/s", headers=TEXT)

        async def come_and_go() -> None:
            assert url.port is not None
            async with await anyio.connect_tcp(url.host, url.port) as connection:
                await connection.send(f"GET /s?offset=now&live={live} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                wait_until(lambda: store._watchers.waiting == 1, what="the reader waits")

        anyio.run(come_and_go)
        wait_until(lambda: store._watchers.waiting == 0, what="nobody waits any more")


class TestTokens:
    @pytest.fixture
    def guarded(self, store: MemoryStore) -> Iterator[httpx.Client]:
        thread = ServerThread(StreamApp(store, token="s3cret"))
        thread.start()
        with httpx.Client(transport=InProcessTransport(thread), base_url="http://streams.test") as made:
            yield made
        thread.stop()

    @pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "s3cret", "Basic s3cret", "Bearer ü"])
    def test_every_request_needs_the_token(self, guarded: httpx.Client, given: str | None) -> None:
        headers = [] if given is None else [(b"authorization", given.encode())]
        for method in ("PUT", "POST", "GET", "HEAD", "DELETE"):
            refused = guarded.request(method, "/s", headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert not any(name.startswith(("stream-", "producer-")) for name in refused.headers)

    def test_with_it_all_is_well_and_shared_caches_are_kept_out(self, guarded: httpx.Client) -> None:
        guarded.headers["authorization"] = "bearer s3cret"
        assert guarded.put("/s", headers=TEXT, content=b"x").status_code == 201
        assert guarded.get("/s").headers["cache-control"].startswith("private, ")

    def test_a_preflight_cannot_carry_one(self, guarded: httpx.Client) -> None:
        assert guarded.options("/s").status_code == 204


class BrokenStore(MemoryStore):
    """A store whose writes fail."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def transact(self, work: Callable[[Transaction], Result]) -> Result:
        raise self._error


@pytest.mark.parametrize("error", [StoreError("the disk is gone"), ZeroDivisionError("a bug")], ids=repr)
def test_a_failing_store_is_500_without_a_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def exchange() -> list[Any]:
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "PUT", "path": "/s", "raw_path": b"/s", "query_string": b"",
            "scheme": "http", "headers": [],
        }  # fmt: skip

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await StreamApp(BrokenStore(error))(scope, receive, send)
        return sent

    start, body = anyio.run(exchange)
    assert start["status"] == 500
    assert body["body"] in {b"the store failed\n", b"internal error\n"}
    assert str(error) in caplog.text  # the log has it


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_what_is_loopback(host: str, local: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_loopback(host) is local


def test_listening_needs_a_server_that_runs() -> None:
    thread = ServerThread(StreamApp(MemoryStore()))
    with pytest.raises(RuntimeError, match=r"call start\(\) before listen\(\)"):
        thread.listen()
    thread.start()
    assert thread.listen().startswith("http://127.0.0.1:")
    thread.stop()
    with pytest.raises(RuntimeError, match=r"not after stop\(\)"):
        thread.listen()


def test_a_listener_that_failed_does_not_keep_the_rest_from_ending(tmp_path: Path) -> None:
    thread = ServerThread(StreamApp(SqliteStore(tmp_path)))
    thread.start()
    thread.listen()
    ((_, serving),) = thread._servers
    serving.cancel()
    with pytest.raises(CancelledError):
        thread.stop()
    assert not thread.alive
    thread.stop()  # once is enough
    again = ServerThread(StreamApp(SqliteStore(tmp_path)))  # its lock was given back
    again.start()
    again.stop()


def test_the_lifespan_protocol_starts_and_closes_the_application() -> None:
    async def live() -> list[str]:
        sent: list[str] = []
        incoming = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> dict[str, str]:
            return {"type": next(incoming)}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await StreamApp(MemoryStore())({"type": "lifespan"}, receive, send)
        return sent

    assert anyio.run(live) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
