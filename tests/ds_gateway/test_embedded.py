"""The server in the gateway's process: how it opens, listens, tries again, and what is told about it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ds_gateway import embedded as module
from ds_gateway.config.credential import Credential
from ds_gateway.config.models import JournalSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.embedded import (
    EmbeddedOptions,
    EmbeddedServer,
    default_max_bytes,
    free_bytes,
    open_server,
    options,
    used_bytes,
    why_closed,
    why_unheard,
)
from durable_streams.server import (
    ServerThread,
    SqliteStore,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StreamApp,
)
from harness.ports import free_port
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ds_gateway.embedded import EmbeddedSnapshot

pytestmark = pytest.mark.anyio

DIRECTORY = Path("/d/streams")
JSON = {"content-type": "application/json"}


class TestOptions:
    async def test_are_what_the_configuration_says(self) -> None:
        server = ServerSettings.model_validate(
            {
                "url": "embedded",
                "listen": "[::1]:80",
                "max_bytes": "1GiB",
                "retain_bytes": "1MiB",
                "retain_age": "1d",
                "token": Credential("s"),
            }
        )
        assert options("/d", server, JournalSettings(min_free_bytes=7), listen=True) == EmbeddedOptions(
            directory=DIRECTORY,
            listen=("::1", 80),
            base_url="http://[::1]:80/v1/stream",
            token="s",
            max_bytes=2**30,
            min_free_bytes=7,
            retain_bytes=2**20,
            retain_seconds=86400.0,
        )

    async def test_without_listening(self) -> None:
        plain = options("/d", ServerSettings(url="embedded"), JournalSettings(), listen=False)
        assert (plain.listen, plain.token, plain.max_bytes) == (None, None, None)


class TestQuota:
    async def test_half_of_what_is_free_beside_what_there_is(self) -> None:
        assert default_max_bytes(10 * 2**20, 100 * 2**20) == 60 * 2**20

    async def test_a_full_disk_leaves_a_quota_that_a_store_takes(self) -> None:
        assert default_max_bytes(10, 100) == 2**20

    async def test_what_the_files_take(self, tmp_path: Path) -> None:
        assert used_bytes(tmp_path / "none") == 0
        (tmp_path / "a").write_bytes(b"123")
        (tmp_path / "b").write_bytes(b"4567")
        assert used_bytes(tmp_path) == 7

    async def test_free_bytes_of_a_folder_that_is_not_there_yet(self, tmp_path: Path) -> None:
        assert free_bytes(tmp_path / "a" / "b") > 0


class TestWhy:
    """What an operator reads has the way out."""

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (StoreLockedError("x"), "another process serves /d/streams: stop it"),
            (StoreFormatError("/d/streams/streams.db is damaged"), "is damaged; restore /d/streams from a copy"),
            (StoreError("cannot create /d: Permission denied"), "denied; give /d/streams to the user"),
            (RuntimeError("can't start new thread"), "can't start new thread; if something is used up, raise"),
            (ValueError("no number: 'x'"), "no number: 'x' (see the log); restore it from a copy"),
        ],
    )
    async def test_the_store_is_closed(self, error: Exception, words: str) -> None:
        told = why_closed(error, DIRECTORY)
        assert words in told
        assert told.endswith("; records wait in the journal meanwhile")

    async def test_nobody_is_heard(self) -> None:
        told = why_unheard(OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), "127.0.0.1", 4437)
        assert told == (
            "cannot listen on 127.0.0.1 port 4437: Address already in use; streams are written, but nobody can "
            "read them there: free the port, or set server.listen"
        )


class Bench:
    """An embedded server with this process's way to it."""

    def __init__(self, directory: Path, port: int | None, **more: Any) -> None:
        base_url = f"http://127.0.0.1:{port or 4437}/v1/stream"
        self.url = f"{base_url}/s"
        listen = None if port is None else ("127.0.0.1", port)
        given = {"token": None, "max_bytes": None, "min_free_bytes": 0, **more}
        self.server = EmbeddedServer(EmbeddedOptions(directory, listen, base_url, **given))
        self.client = httpx.AsyncClient(transport=self.server.transport(), trust_env=False)

    async def wait(self, state: str) -> EmbeddedSnapshot:
        await await_until(
            lambda: self.server.snapshot().state == state, what=f"{state}; it is {self.server.snapshot()}"
        )
        return self.server.snapshot()

    async def close(self) -> None:
        await self.client.aclose()
        await self.server.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "TURN_SECONDS", 0.01)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    """Makes benches over one directory; started."""
    benches: list[Bench] = []

    def make(port: int | None = None, **more: Any) -> Bench:
        benches.append(Bench(tmp_path / "streams", port, **more))
        benches[-1].server.start()
        return benches[-1]

    yield make
    for bench in benches:
        await bench.close()


class TestServing:
    async def test_a_request_in_this_process_waits_until_the_store_is_open(
        self, make: Callable[..., Bench]
    ) -> None:
        bench = make()
        assert bench.server.snapshot().state == "opening"
        assert (await bench.client.put(bench.url, headers=JSON)).status_code == 201
        snapshot = bench.server.snapshot()
        assert (snapshot.state, snapshot.url, snapshot.reason) == ("unheard", "", "")

    async def test_others_read_on_the_port(self, make: Callable[..., Bench]) -> None:
        bench = make(free_port())
        snapshot = await bench.wait("listening")
        assert f"{snapshot.url}/s" == bench.url
        await bench.client.put(bench.url, headers=JSON)
        await bench.client.post(bench.url, headers=JSON, content=b'[{"n":1}]')
        async with httpx.AsyncClient(trust_env=False) as reader:
            assert (await reader.get(bench.url, params={"offset": "-1"})).json() == [{"n": 1}]

    async def test_a_token_is_for_others_only(self, make: Callable[..., Bench]) -> None:
        bench = make(free_port(), token="right")
        await bench.wait("listening")
        assert (await bench.client.put(bench.url, headers=JSON)).status_code == 201
        async with httpx.AsyncClient(trust_env=False) as reader:
            assert (await reader.head(bench.url)).status_code == 401
            right = {"authorization": "Bearer right"}
            assert (await reader.head(bench.url, headers=right)).status_code == 200

    async def test_this_process_is_served_whatever_the_tokens_file_has_by_now(
        self, make: Callable[..., Bench]
    ) -> None:
        bench = make(token="right")
        answer = await bench.client.put(bench.url, headers={**JSON, "authorization": "Bearer new"})
        assert answer.status_code == 201

    async def test_what_it_was_given_to_keep_is_there_after_the_next_start(
        self, make: Callable[..., Bench]
    ) -> None:
        first = make()
        await first.client.put(first.url, headers=JSON)
        await first.close()
        second = make()
        assert (await second.client.head(second.url)).status_code == 200

    async def test_a_stopped_one_refuses(self, make: Callable[..., Bench]) -> None:
        bench = make()
        await bench.client.put(bench.url, headers=JSON)
        await bench.server.stop()
        with pytest.raises(httpx.ConnectError, match="the embedded server is stopped"):
            await bench.client.head(bench.url)

    async def test_a_full_store_says_so_and_is_read_all_the_same(self, make: Callable[..., Bench]) -> None:
        bench = make(max_bytes=2**20)
        await bench.client.put(bench.url, headers=JSON)
        body = b'["%s"]' % (b"x" * 100_000)
        status = 204
        while status == 204:
            status = (await bench.client.post(bench.url, headers=JSON, content=body)).status_code
        assert status == 507
        assert (await bench.client.get(bench.url, params={"offset": "-1"})).status_code == 200
        snapshot = bench.server.snapshot()
        assert snapshot.max_bytes == 2**20
        assert "the store is full: raise server.max_bytes" in snapshot.reason
        await bench.close()
        larger = make(max_bytes=2**22)
        assert (await larger.client.post(larger.url, headers=JSON, content=body)).status_code == 204
        assert larger.server.snapshot().reason == ""

    async def test_a_store_that_fails_says_so_until_it_stores_again(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        async def fail(_store: SqliteStore, _work: object) -> None:
            raise StoreError("disk I/O error")

        bench = make()
        await bench.client.put(bench.url, headers=JSON)
        with monkeypatch.context() as patched:
            patched.setattr(SqliteStore, "transact", fail)
            assert (await bench.client.post(bench.url, headers=JSON, content=b"[1]")).status_code == 500
        told = (
            f"the store fails (HTTP 500, see the log): stop the gateway, check the disk, restore {tmp_path}"
            "/streams from a copy; records wait in the journal meanwhile"
        )
        assert bench.server.snapshot().reason == told
        assert (await bench.client.get(bench.url, params={"offset": "-1"})).status_code == 200
        assert (await bench.client.post(f"{bench.url}/none", headers=JSON, content=b"[1]")).status_code == 404
        assert bench.server.snapshot().reason == told, "neither says that it stores again"
        assert (await bench.client.post(bench.url, headers=JSON, content=b"[1]")).status_code == 204
        assert bench.server.snapshot().reason == ""

    async def test_a_disk_that_is_nearly_full_is_left_alone(self, make: Callable[..., Bench]) -> None:
        bench = make(min_free_bytes=2**60)
        assert (await bench.client.put(bench.url, headers=JSON)).status_code == 507
        assert "the store is full" in bench.server.snapshot().reason

    async def test_what_is_older_than_what_it_keeps_is_gone(self, make: Callable[..., Bench]) -> None:
        bench = make(retain_bytes=1)
        await bench.client.put(bench.url, headers=JSON)
        body = b'["%s"]' % (b"x" * 100_000)

        async def is_gone() -> bool:
            await bench.client.post(bench.url, headers=JSON, content=body)
            return (await bench.client.get(bench.url, params={"offset": "0" * 16})).status_code == 410

        for _ in range(100):
            if await is_gone():
                break
        else:
            pytest.fail("everything is kept")
        newest = await bench.client.get(bench.url, params={"offset": "-1"})
        assert newest.status_code == 200, "the beginning is the oldest that there is"


class TestTrouble:
    async def test_a_port_in_use_is_had_when_it_is_free(self, make: Callable[..., Bench]) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as occupied:
            bench = make(occupied.getsockname()[1])
            await await_until(lambda: bench.server.snapshot().reason, what="it says that it cannot listen")
            snapshot = bench.server.snapshot()
            assert snapshot.state == "unheard"
            assert "Address already in use" in snapshot.reason
            assert (await bench.client.put(bench.url, headers=JSON)).status_code == 201, "uplinks go on"
        snapshot = await bench.wait("listening")
        assert snapshot.reason == ""

    async def test_a_locked_store_is_opened_when_it_is_free(
        self, make: Callable[..., Bench], tmp_path: Path
    ) -> None:
        holder = SqliteStore(tmp_path / "streams")
        bench = make()
        snapshot = await bench.wait("closed")
        assert "another process serves" in snapshot.reason
        with pytest.raises(httpx.ConnectError, match="another process serves"):
            await bench.client.head(bench.url)
        await holder.close()
        assert (await self.put_until_open(bench)).status_code == 201

    @staticmethod
    async def put_until_open(bench: Bench) -> httpx.Response:
        await bench.wait("unheard")
        return await bench.client.put(bench.url, headers=JSON)

    @pytest.mark.parametrize(
        "error",
        [
            StoreError("the disk is away"),
            OSError(errno.EMFILE, "Too many open files"),
            ValueError("no number: 'x'"),
        ],
    )
    async def test_a_start_that_fails_gives_the_lock_back(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        async def fail(_app: StreamApp) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(StreamApp, "start", fail)
            bench = make()
            earlier = (await bench.wait("closed")).reason
            assert str(error) in earlier
            tried_at = bench.server.alive_at
            await await_until(lambda: bench.server.alive_at > tried_at, what="it tries again")
            assert bench.server.snapshot().reason == earlier, "no other process serves it"
        assert (await self.put_until_open(bench)).status_code == 201

    async def test_a_thread_that_cannot_be_started_gives_the_lock_back(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(server: ServerThread) -> None:
            server._loop.close()  # or the garbage collector would warn of it in some later test
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(ServerThread, "start", fail)
            bench = make()
            assert "can't start new thread" in (await bench.wait("closed")).reason
        assert (await self.put_until_open(bench)).status_code == 201

    async def test_a_damaged_store_is_told_and_left_alone(
        self, make: Callable[..., Bench], tmp_path: Path
    ) -> None:
        (tmp_path / "streams").mkdir()
        (tmp_path / "streams" / "streams.db").write_bytes(b"not a database" * 100)
        snapshot = await make().wait("closed")
        assert "is damaged or not a store" in snapshot.reason
        assert f"restore {tmp_path}/streams from a copy" in snapshot.reason
        assert (tmp_path / "streams" / "streams.db").read_bytes() == b"not a database" * 100

    async def test_a_newer_store_is_told_and_left_alone(self, make: Callable[..., Bench], tmp_path: Path) -> None:
        await SqliteStore(tmp_path / "streams").close()
        with closing(sqlite3.connect(tmp_path / "streams" / "streams.db")) as connection:
            connection.execute("PRAGMA user_version = 99")
        assert "has format 99" in (await make().wait("closed")).reason

    async def test_a_folder_that_cannot_be_made_is_told(self, make: Callable[..., Bench], tmp_path: Path) -> None:
        (tmp_path / "streams").touch()
        snapshot = await make().wait("closed")
        assert f"cannot create {tmp_path}/streams" in snapshot.reason
        assert "give" in snapshot.reason

    async def test_while_it_is_closed_it_does_not_count_as_stalled(
        self, make: Callable[..., Bench], tmp_path: Path
    ) -> None:
        (tmp_path / "streams").touch()
        bench = make()
        await bench.wait("closed")
        earlier = bench.server.alive_at
        await await_until(lambda: bench.server.alive_at > earlier, what="it tries again")


class TestPatience:
    """What takes long in a thread does not count as stalled: a restart would begin it anew, for ever."""

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        monkeypatch.setattr(module, "DEAD_SECONDS", 0.05)
        event = threading.Event()
        yield event
        event.set()

    async def lives_on(self, bench: Bench) -> None:
        begun = bench.server.alive_at
        long = begun + 3 * module.DEAD_SECONDS
        await await_until(lambda: bench.server.alive_at > long, what="it lives")

    async def test_with_a_store_that_takes_long_to_open(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, held: threading.Event
    ) -> None:
        def slowly(options: EmbeddedOptions) -> tuple[int, ServerThread]:
            held.wait()
            return open_server(options)

        monkeypatch.setattr(module, "open_server", slowly)
        bench = make()
        await self.lives_on(bench)
        assert bench.server.snapshot().state == "opening"
        held.set()
        await bench.wait("unheard")

    async def test_with_an_address_that_takes_long_to_be_had(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, held: threading.Event
    ) -> None:
        listen = ServerThread.listen

        def slowly(server: ServerThread, host: str, port: int) -> str:
            held.wait()
            return listen(server, host, port)

        monkeypatch.setattr(ServerThread, "listen", slowly)
        bench = make(free_port())
        await bench.wait("unheard")
        await self.lives_on(bench)
        assert bench.server.snapshot().state == "unheard"
        hanging = HangingLoop(await bench.server.serving())
        try:
            await bench.wait("dead")
        finally:
            hanging.release()
        held.set()
        await bench.wait("listening")


class TestDead:
    @pytest.fixture
    async def thread(self, make: Callable[..., Bench]) -> ServerThread:
        self.bench = make()
        await self.bench.client.put(self.bench.url, headers=JSON)
        earlier = self.bench.server.alive_at
        await await_until(lambda: self.bench.server.alive_at > earlier, what="its loop turns")
        return await self.bench.server.serving()

    async def test_a_thread_that_ended_is_noticed(self, thread: ServerThread) -> None:
        await asyncio.to_thread(thread.stop)
        snapshot = await self.bench.wait("dead")
        assert "restart the gateway" in snapshot.reason
        stood_still = self.bench.server.alive_at
        with pytest.raises(httpx.ConnectError):
            await self.bench.client.head(self.bench.url)
        assert self.bench.server.alive_at == stood_still

    async def test_a_thread_that_hangs_is_noticed(
        self, thread: ServerThread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "DEAD_SECONDS", 0.05)
        hanging = HangingLoop(thread)
        try:
            assert (await self.bench.wait("dead")).state == "dead"
        finally:
            hanging.release()
        await self.bench.wait("unheard")


class HangingLoop:
    """Keeps a server's event loop from turning."""

    def __init__(self, thread: ServerThread) -> None:
        self._near, self._far = socket.socketpair()

        async def hang() -> None:
            self._far.recv(1)

        self._hanging = thread.run(hang())

    def release(self) -> None:
        self._near.send(b"x")
        self._hanging.result()
        self._near.close()
        self._far.close()
