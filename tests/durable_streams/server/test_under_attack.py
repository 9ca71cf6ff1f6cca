"""What attacks on the server found, each as the attack that it was."""

from __future__ import annotations

import random
import shutil
import socket
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import orjson
import pytest

from durable_streams.server import (
    ConnectionLimits,
    Limits,
    MemoryStore,
    ServerThread,
    SqliteStore,
    StreamApp,
    _app,
    _reads,
    _rows,
)
from durable_streams.server._database import FILE_NAME
from durable_streams.server._store import EARLIEST, MAX_PAGE_MESSAGES, Change
from durable_streams.testing import InMemoryStreamServer, InProcessTransport
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from durable_streams.server._store import Transaction

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
CHUNKED = b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def address(server: ServerThread) -> tuple[str, int]:
    """Where the server listens."""
    url = httpx.URL(server.listen())
    assert url.port is not None
    return url.host, url.port


def exchanged(address: tuple[str, int], *pieces: bytes) -> bytes:
    """What the server answers to these bytes: its first piece."""
    with socket.create_connection(address, timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return connection.recv(65536)


async def status_of_post(application: Any, receive: Any, headers: list[tuple[bytes, bytes]]) -> int:
    """Call an application by hand with a POST of text to ``/s``; return the status of its answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "scheme": "http", "path": "/s", "query_string": b""}
    await application({**scope, "headers": [(b"content-type", b"text/plain"), *headers]}, receive, send)
    status: int = sent[0]["status"]
    return status


class TestBodies:
    @pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"nonsense"])
    def test_one_that_offers_an_upgrade_is_stored(
        self, address: tuple[str, int], client: httpx.Client, protocol: bytes
    ) -> None:
        """curl --http2 and Java's client do; the body was lost, and its loss acknowledged."""
        head = b"%b /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\nconnection: upgrade\r\nupgrade: %b\r\n"
        put, post = (head % (method, protocol) for method in (b"PUT", b"POST"))
        assert exchanged(address, put + b"content-length: 5\r\n\r\nhello").startswith(b"HTTP/1.1 201 ")
        closing = post + b"stream-closed: true\r\ncontent-length: 3\r\n\r\nend"
        assert exchanged(address, closing).startswith(b"HTTP/1.1 204 ")
        assert client.get("/s").content == b"helloend"

    def test_trailers_are_no_headers(
        self, address: tuple[str, int], client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        exchanged(address, CHUNKED + b"2\r\nhi\r\n0\r\nstream-closed: true\r\n\r\n")
        assert "stream-closed" not in client.head("/s").headers

    def test_trailers_without_end_are_refused(self, address: tuple[str, int], client: httpx.Client) -> None:
        client.put("/s", headers=TEXT)
        head = (
            b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        )
        try:
            answer = exchanged(address, head, *[b"x: y\r\n" * 1000] * 100)
        except ConnectionError:
            answer = b""  # it was reset behind its answer
        assert not answer.startswith(b"HTTP/1.1 2")
        assert client.get("/s").content == b""

    def test_one_that_is_not_as_long_as_it_says_is_never_stored(self) -> None:
        """No HTTP server should hand it on; one did."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"content-length", b"5"), (b"stream-closed", b"true")]
        assert anyio.run(status_of_post, StreamApp(MemoryStore()), receive, headers) == 400

    def test_json_is_never_nested_deeper_than_a_page_can_be_read(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        for depth, status in {1000: 204, 1023: 204, 1024: 400}.items():
            path = create("application/json", path=f"/{depth}")
            content = b'{"a":' * depth + b"1" + b"}" * depth
            assert client.post(path, headers=JSON, content=content).status_code == status
            assert len(orjson.loads(client.get(path).content)) == (status == 204)

    @pytest.mark.parametrize("content", [b"1, 2", b"[1], [2]", b"1] [2", b"", b" ", b"]", b"1,"])
    def test_what_is_json_only_between_brackets_is_none(
        self, client: httpx.Client, create: Callable[..., str], content: bytes
    ) -> None:
        create("application/json")
        assert client.post("/s", headers=JSON, content=content).status_code == 400
        assert client.get("/s").content == b"[]"

    def test_a_slow_one_is_given_up_although_it_never_stops(self) -> None:
        async def receive() -> dict[str, Any]:
            await anyio.sleep(0.03)  # a byte at a time, each well before the idle time is over
            return {"type": "http.request", "body": b"x", "more_body": True}

        app = StreamApp(MemoryStore(), limits=Limits(body_idle_seconds=0.1))
        assert anyio.run(status_of_post, app, receive, [(b"content-length", b"1000000")]) == 408


class TestPages:
    def test_it_ends_behind_many_small_messages(
        self, server: ServerThread, store: MemoryStore | SqliteStore, create: Callable[..., str]
    ) -> None:
        create()

        def append(transaction: Transaction) -> None:
            for _ in range(MAX_PAGE_MESSAGES + 1):
                stream = transaction.find("/s")
                assert stream is not None
                transaction.apply(stream, Change(data=b"x"))

        server.run(store.transact(append)).result(60)
        page = server.run(store.read("/s", EARLIEST, 10**9)).result(20)
        assert page is not None
        assert (len(page.messages), page.up_to_date) == (MAX_PAGE_MESSAGES, False)

    def test_a_long_poll_that_retention_overtook_is_told_that_data_are_gone(self) -> None:
        store = MemoryStore()
        server = ServerThread(StreamApp(store, limits=Limits(retain_bytes=10, long_poll_timeout_seconds=20)))
        server.start()
        with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
            client.put("/s", headers=TEXT)

            async def poll_while_much_is_appended() -> httpx.Response:
                transport = InProcessTransport(server)
                answers: list[httpx.Response] = []
                async with httpx.AsyncClient(transport=transport, base_url="http://x") as polling:

                    async def poll() -> None:
                        answers.append(await polling.get("/s?offset=now&live=long-poll"))

                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(poll)
                        while not store._watchers.waiting:
                            await anyio.lowlevel.checkpoint()
                        # In one turn of the server's loop: the reader wakes up behind all of them.
                        await anyio.to_thread.run_sync(server.run(append_three_times(server)).result)
                return answers[0]

            answer = anyio.run(poll_while_much_is_appended)
        server.stop()
        assert (answer.status_code, "no longer kept" in answer.text) == (410, True)

    def test_a_tag_does_not_survive_a_backup_that_is_put_back(self) -> None:
        with InMemoryStreamServer() as server, httpx.Client(base_url=server.url()) as client:
            client.put("/s", headers=TEXT, content=b"one")
            backup = server.snapshot()
            client.post("/s", headers=TEXT, content=b"old")
            tag = client.get("/s").headers["etag"]
            server.restore(backup)
            client.post("/s", headers=TEXT, content=b"new")
            answer = client.get("/s", headers={"if-none-match": tag})
        assert (answer.status_code, answer.content) == (200, b"onenew")

    def test_a_refusal_is_not_kept_by_caches(self, client: httpx.Client) -> None:
        assert client.get("/nowhere").headers["cache-control"] == "no-store"


async def append_three_times(server: ServerThread) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 8, "more_body": False}

    for _ in range(3):
        assert await status_of_post(server.application, receive, [(b"content-length", b"8")]) == 204


class TestWebPagesOfOtherMachines:
    @pytest.fixture
    def guarded(self) -> Iterator[httpx.Client]:
        server = ServerThread(StreamApp(MemoryStore(), local_only=True))
        server.start()
        with httpx.Client(transport=InProcessTransport(server), base_url="http://127.0.0.1:4437") as made:
            yield made
        server.stop()

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"host": "evil.example:4437"},
            {"host": "[::1"},
            {"host": ""},
            {"origin": "http://127.0.0.1.evil.example"},
        ],
    )
    @pytest.mark.parametrize("method", ["PUT", "POST", "GET", "HEAD", "DELETE"])
    def test_they_are_refused(self, guarded: httpx.Client, method: str, headers: dict[str, str]) -> None:
        refused = guarded.request(method, "/s", headers={**TEXT, **headers})
        assert refused.status_code == 403
        assert method == "HEAD" or "token" in refused.text

    @pytest.mark.parametrize(
        "headers", [{}, {"origin": "http://localhost:3000"}, {"host": "[::1]:4437"}, {"host": "localhost"}]
    )
    def test_those_of_this_one_are_not(self, guarded: httpx.Client, headers: dict[str, str]) -> None:
        assert guarded.put("/s", headers={**TEXT, **headers}).status_code == 201


class TestUpkeep:
    def test_a_directory_that_is_swapped_is_not_written_to(self, tmp_path: Path) -> None:
        """What was acknowledged would be in a file that nobody finds again."""
        data = tmp_path / "data"
        server = ServerThread(StreamApp(SqliteStore(data)))
        server.start()
        with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
            client.put("/s", headers=TEXT, content=b"one")
            shutil.copytree(data, tmp_path / "copy")
            data.rename(tmp_path / "moved")
            assert client.post("/s", headers=TEXT, content=b"two").status_code == 500
            (tmp_path / "copy").rename(data)
            assert client.post("/s", headers=TEXT, content=b"two").status_code == 500
            shutil.rmtree(data)
            (tmp_path / "moved").rename(data)
            assert client.post("/s", headers=TEXT, content=b"two").status_code == 204
            assert client.get("/s").content == b"onetwo"
        server.stop()

    def test_the_sweeper_survives_what_nobody_foresaw(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_app, "_SWEEP_SECONDS", 0.01)
        store, swept = MemoryStore(), []
        transact = store.transact

        async def failing(work: Any) -> Any:
            swept.append(work)
            if len(swept) < 3:
                raise ZeroDivisionError
            return await transact(work)

        monkeypatch.setattr(store, "transact", failing)
        server = ServerThread(StreamApp(store))
        server.start()
        wait_until(lambda: len(swept) > 4, what="it goes on")
        server.stop()

    def test_a_purge_that_failed_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        purge = _rows.purge
        failures = [sqlite3.OperationalError("disk I/O error")]

        def fail_once(connection: sqlite3.Connection) -> bool:
            if failures:
                raise failures.pop()
            return purge(connection)

        monkeypatch.setattr(_rows, "purge", fail_once)
        server = ServerThread(StreamApp(SqliteStore(tmp_path)))
        server.start()
        onlooker = sqlite3.connect(tmp_path / FILE_NAME)
        with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
            client.put("/old", headers=TEXT, content=b"x")
            client.delete("/old")
            wait_until(lambda: not failures, what="the purge failed")
            client.put("/new", headers=TEXT)
            wait_until(lambda: not onlooker.execute("SELECT 1 FROM trash").fetchall(), what="it is purged")
        onlooker.close()
        server.stop()

    def test_a_reader_in_this_process_that_pauses_makes_the_server_wait(self) -> None:
        sent: list[int] = []

        class Talker:
            """An application that sends for ever."""

            async def start(self) -> None: ...
            async def close(self) -> None: ...
            def stop_waiting(self) -> None: ...
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    await anyio.lowlevel.checkpoint()
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
                    sent.append(1)

        server = ServerThread(Talker())
        server.start()
        with (
            httpx.Client(transport=InProcessTransport(server)) as client,
            client.stream("GET", "http://x/") as answer,
        ):
            pieces = answer.iter_raw()
            for _ in range(1000):
                next(pieces)
            assert len(sent) <= 1000 + 10
        server.stop()


class TestConnections:
    def test_a_flood_of_them_is_cut_off(self) -> None:
        limits = ConnectionLimits(max_connections=2)
        server = ServerThread(StreamApp(MemoryStore()), connections=limits)
        server.start()
        url = httpx.URL(server.listen())
        assert url.port is not None
        flood = [socket.create_connection((url.host, url.port), timeout=20) for _ in range(100)]
        try:
            # The last one is beyond even those that are told that there are too many.
            with pytest.raises(ConnectionResetError):
                flood[-1].recv(1)
        finally:
            for connection in flood:
                connection.close()
            server.stop()


def test_cursors_are_not_negative_in_1970() -> None:
    assert _reads.cursor(0.0, None, random.Random(1)) == 0
