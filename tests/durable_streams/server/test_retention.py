"""What a stream no longer keeps: by bytes, by age, and how readers and producers learn of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from durable_streams.server import Limits, MemoryStore, ServerThread, SqliteStore, StreamApp
from durable_streams.server._commands import Moment, sweep
from durable_streams.server._requests import offset
from durable_streams.server._retention import Retention
from durable_streams.server._store import Kept, Stream, StreamSettings
from durable_streams.testing import InProcessTransport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.clock import Clock

TEXT = {"content-type": "text/plain"}
HOUR = 3600.0


def a_stream(*, messages: int, size: int) -> Stream:
    return Stream(1, "uid", "/s", StreamSettings("text/plain"), tail=10 + messages, head=10, size=size)


class TestWhatGoes:
    """`Retention.surplus`: a count and its bytes, from the oldest message on."""

    @pytest.mark.parametrize(
        ("max_bytes", "expected"), [(None, (0, 0)), (60, (0, 0)), (59, (1, 10)), (45, (2, 30)), (30, (2, 30))]
    )
    def test_by_bytes_as_few_as_possible(self, max_bytes: int | None, expected: tuple[int, int]) -> None:
        stream = a_stream(messages=3, size=60)
        oldest = [Kept(10, 0.0), Kept(20, 0.0), Kept(30, 0.0)]
        assert Retention(max_bytes=max_bytes).surplus(stream, oldest, at=0.0) == expected

    def test_by_bytes_never_the_newest(self) -> None:
        stream = a_stream(messages=2, size=30)
        assert Retention(max_bytes=1).surplus(stream, [Kept(10, 0.0), Kept(20, 0.0)], at=0.0) == (1, 10)

    def test_by_age_the_newest_too(self) -> None:
        stream = a_stream(messages=2, size=30)
        oldest = [Kept(10, 1.0), Kept(20, 2.0)]
        by_age = Retention(max_age_seconds=10.0)
        assert [by_age.surplus(stream, oldest, at) for at in (11.0, 11.5, 12.0, 12.5)] == [
            (0, 0),
            (1, 10),
            (1, 10),
            (2, 30),
        ]

    def test_either_is_enough(self) -> None:
        stream = a_stream(messages=3, size=60)
        oldest = [Kept(10, 1.0), Kept(20, 2.0), Kept(30, 9.0)]
        assert Retention(max_bytes=55, max_age_seconds=5.0).surplus(stream, oldest, at=8.0) == (2, 30)

    def test_no_more_than_was_shown(self) -> None:
        assert Retention(max_bytes=1).surplus(a_stream(messages=9, size=90), [Kept(10, 0.0)] * 3, at=0.0) == (
            3,
            30,
        )


class TestByBytes:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(long_poll_timeout_seconds=0.2, page_bytes=1000, retain_bytes=30)

    def test_the_oldest_messages_go_as_others_come(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()
        for number in range(5):
            client.post("/s", headers=TEXT, content=f"message {number} ".encode())
        everything = client.get("/s?offset=-1")
        assert everything.content == b"message 2 message 3 message 4 "
        assert everything.headers["stream-next-offset"] == offset(5)
        assert client.get("/s").content == everything.content
        assert client.get(f"/s?offset={offset(3)}").content == b"message 3 message 4 "

    @pytest.mark.parametrize("live", ["", "&live=long-poll", "&live=sse"])
    def test_a_reader_of_what_is_gone_is_told_so(
        self, client: httpx.Client, create: Callable[..., str], live: str
    ) -> None:
        create()
        for _ in range(5):
            client.post("/s", headers=TEXT, content=b"x" * 10)
        gone = client.get(f"/s?offset={offset(1)}{live}")
        assert (gone.status_code, gone.text) == (
            410,
            f"the data before offset {offset(2)} are no longer kept: read from there, or from -1\n",
        )
        assert gone.headers["stream-next-offset"] == offset(5)
        assert client.get(f"/s?offset={offset(2)}{live and '&live=long-poll'}").status_code == 200

    def test_a_message_that_is_larger_than_all_that_is_kept_is_still_read(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        client.post("/s", headers=TEXT, content=b"small")
        client.post("/s", headers=TEXT, content=b"L" * 100)
        assert client.get("/s").content == b"L" * 100

    def test_a_producer_is_remembered_although_its_data_are_gone(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()

        def post(seq: int) -> int:
            mark = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}
            return client.post("/s", headers={**TEXT, **mark}, content=b"x" * 20).status_code

        assert [post(seq) for seq in (0, 1, 2, 0, 2, 3)] == [200, 200, 200, 204, 204, 200]
        assert client.head("/s").headers["stream-next-offset"] == offset(4)

    def test_what_a_lower_limit_leaves_over_goes_with_the_sweep(
        self, store: MemoryStore | SqliteStore, server: ServerThread, client: httpx.Client
    ) -> None:
        for path in ("/a", "/b"):
            client.put(path, headers=TEXT)
            for _ in range(3):
                client.post(path, headers=TEXT, content=b"x" * 10)

        def swept() -> bool:
            lower = Retention(max_bytes=10)
            return server.run(store.transact(lambda t: sweep(t, Moment(0.0), retention=lower))).result(20)

        assert [swept(), swept()] == [True, False]
        assert [client.get(path).content for path in ("/a", "/b")] == [b"x" * 10] * 2


class TestByAge:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(retain_seconds=HOUR)

    @staticmethod
    def sweep(server: ServerThread, store: MemoryStore | SqliteStore, at: float) -> bool:
        by_age = Retention(max_age_seconds=HOUR)
        return server.run(store.transact(lambda t: sweep(t, Moment(0.0, at), retention=by_age))).result(20)

    def test_what_is_too_old_goes_with_the_sweep(
        self, store: MemoryStore | SqliteStore, limits: Limits, clock: Clock
    ) -> None:
        server = ServerThread(StreamApp(store, limits=limits, clock=clock, monotonic=clock))
        server.start()
        try:
            with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
                client.put("/s", headers=TEXT, content=b"first ")
                clock.advance(HOUR / 2)
                client.post("/s", headers=TEXT, content=b"second")
                assert not self.sweep(server, store, HOUR)
                assert client.get("/s").content == b"first second"
                assert self.sweep(server, store, HOUR + 1)
                assert client.get("/s").content == b"second"
                assert client.get(f"/s?offset={offset(0)}").status_code == 410
                assert self.sweep(server, store, HOUR * 2)
                empty = client.get("/s")
                assert (empty.content, empty.headers["stream-next-offset"]) == (b"", offset(2))
                assert "stream-up-to-date" in empty.headers
                assert not self.sweep(server, store, HOUR * 9)
        finally:
            server.stop()

    def test_a_clock_that_jumps_makes_nothing_old(
        self, store: MemoryStore | SqliteStore, limits: Limits, clock: Clock
    ) -> None:
        app = StreamApp(store, limits=limits, clock=clock, monotonic=lambda: 5.0)
        server = ServerThread(app)
        server.start()
        try:
            with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
                client.put("/s", headers=TEXT, content=b"x")
                clock.advance(10 * 365 * 24 * HOUR)
                client.post("/s", headers=TEXT, content=b"y")
                assert not self.sweep(server, store, app._moment().at)
                assert client.get("/s").content == b"xy"
        finally:
            server.stop()

    def test_time_goes_on_where_the_last_process_ended(self, tmp_path: Path, clock: Clock) -> None:
        ages: list[float] = []
        for _ in range(3):
            app = StreamApp(SqliteStore(tmp_path / "data"), monotonic=clock)
            server = ServerThread(app)
            server.start()
            with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
                client.put("/s", headers=TEXT)
                clock.advance(100)
                client.post("/s", headers=TEXT, content=b"x")
                clock.advance(7)
                ages.append(app._moment().at)
            server.stop()
        assert ages == [107.0, 207.0, 307.0]
