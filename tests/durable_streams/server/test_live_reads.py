"""PROTOCOL sections 5.7 (long-poll), 5.8 (server-sent events) and 10.1 (cursors)."""

from __future__ import annotations

import base64
import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from durable_streams.server import Limits, MemoryStore, SqliteStore, _reads
from durable_streams.server._store import Change
from harness.waiting import wait_until

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    import httpx

    from durable_streams.server._store import Transaction
    from harness.clock import Clock

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
CLOSE = {"stream-closed": "true"}


class TestLongPoll:
    def test_what_is_there_comes_at_once(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x")
        page = client.get("/s?offset=-1&live=long-poll")
        assert (page.status_code, page.content) == (200, b"x")
        assert page.headers["stream-up-to-date"] == "true"
        assert page.headers["stream-cursor"].isdigit()

    @pytest.mark.parametrize("offset", ["-1", "now"])
    def test_when_nothing_comes_it_says_so_in_the_end(
        self, client: httpx.Client, create: Callable[..., str], offset: str
    ) -> None:
        create()
        page = client.get("/s", params={"offset": offset, "live": "long-poll"})
        assert (page.status_code, page.content) == (204, b"")
        assert page.headers["stream-up-to-date"] == "true"
        assert page.headers["stream-next-offset"] == client.head("/s").headers["stream-next-offset"]
        assert page.headers["stream-cursor"].isdigit()
        assert page.headers["cache-control"] == "no-store"

    def test_the_end_of_a_closed_stream_is_told_at_once(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        client.post(create(content=b"x"), headers=CLOSE)
        for offset in ("now", client.head("/s").headers["stream-next-offset"]):
            page = client.get("/s", params={"offset": offset, "live": "long-poll"})
            assert (page.status_code, page.headers["stream-closed"]) == (204, "true")
            assert page.headers["stream-up-to-date"] == "true"


class TestWaking:
    """With a timeout so long that only a change can end the wait."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(long_poll_timeout_seconds=600.0)

    @pytest.fixture
    def polls(
        self, client: httpx.Client, create: Callable[..., str], store: MemoryStore | SqliteStore
    ) -> Iterator[list[Future[httpx.Response]]]:
        """Five readers that wait at the end of the stream."""
        create(content=b"old")
        with ThreadPoolExecutor(5) as pool:
            found = [pool.submit(client.get, "/s?offset=now&live=long-poll", timeout=20) for _ in range(5)]
            wait_until(lambda: store._watchers.waiting == 5, what="all readers wait")
            yield found

    @pytest.mark.parametrize("headers", [TEXT, {**TEXT, **CLOSE}], ids=["append", "append and close"])
    def test_data_wake_every_reader(
        self, client: httpx.Client, polls: list[Future[httpx.Response]], headers: dict[str, str]
    ) -> None:
        client.post("/s", headers=headers, content=b"new")
        for poll in polls:
            page = poll.result()
            assert page.content == b"new"
            assert ("stream-closed" in page.headers) == ("stream-closed" in headers)

    def test_closure_wakes_them(self, client: httpx.Client, polls: list[Future[httpx.Response]]) -> None:
        client.post("/s", headers=CLOSE)
        for poll in polls:
            page = poll.result()
            assert (page.status_code, page.headers["stream-closed"]) == (204, "true")
            assert "stream-cursor" not in page.headers

    def test_deletion_wakes_them(self, client: httpx.Client, polls: list[Future[httpx.Response]]) -> None:
        client.delete("/s")
        assert [poll.result().status_code for poll in polls] == [404] * 5

    def test_another_stream_does_not(
        self,
        client: httpx.Client,
        create: Callable[..., str],
        store: MemoryStore | SqliteStore,
        polls: list[Future[httpx.Response]],
    ) -> None:
        create(path="/other", content=b"x")
        client.post("/other", headers=TEXT, content=b"y")
        assert store._watchers.waiting == 5
        assert not any(poll.done() for poll in polls)
        client.delete("/s")


class RacingStore(MemoryStore):
    """A store to which somebody appends right before the first watch begins."""

    raced = False

    def watch(self, stream_id: int) -> AbstractContextManager[asyncio.Event]:
        if not self.raced:
            self.raced = True
            with contextlib.suppress(StopIteration):
                self.transact(self._append).send(None)
        return super().watch(stream_id)

    @staticmethod
    def _append(transaction: Transaction) -> None:
        stream = transaction.find("/s")
        assert stream is not None
        transaction.apply(stream, Change(data=b"in between"))


class TestRaces:
    @pytest.fixture
    def store(self) -> MemoryStore:
        return RacingStore()

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(long_poll_timeout_seconds=600.0, sse_seconds=600.0)

    def test_long_poll_sees_what_came_before_it_watched(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        assert client.get("/s?offset=-1&live=long-poll", timeout=20).content == b"in between"

    def test_so_do_events(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()
        with client.stream("GET", "/s?offset=-1&live=sse", timeout=20) as answer:
            pieces = answer.iter_raw()
            assert b"event: data" not in next(pieces)
            assert b"data:in between\n" in next(pieces)


class TestCursors:
    def test_it_counts_intervals_of_20_seconds(self) -> None:
        start = 1_728_432_000.0
        assert [_reads.cursor(start + seconds, None, Fixed(1)) for seconds in (0, 19.9, 20, 6000)] == [
            0, 0, 1, 300,
        ]  # fmt: skip

    @pytest.mark.parametrize(("jitter_seconds", "step"), [(1, 1), (20, 1), (59, 2), (3600, 180)])
    def test_it_is_always_greater_than_the_readers(self, jitter_seconds: int, step: int) -> None:
        now = 1_728_432_000.0 + 2000
        assert _reads.cursor(now, 99, Fixed(jitter_seconds)) == 100
        assert _reads.cursor(now, 100, Fixed(jitter_seconds)) == 100 + step
        assert _reads.cursor(now, 5000, Fixed(jitter_seconds)) == 5000 + step

    def test_a_reader_that_echoes_gets_another(
        self, client: httpx.Client, create: Callable[..., str], clock: Clock
    ) -> None:
        create(content=b"x")
        url = "/s?offset=-1&live=long-poll"
        first = int(client.get(url).headers["stream-cursor"])
        assert int(client.get(f"{url}&cursor={first}").headers["stream-cursor"]) > first
        clock.advance(40)
        assert int(client.get(f"{url}&cursor={first}").headers["stream-cursor"]) == first + 2


class TestEvents:
    def test_catching_up_is_data_and_control_in_turn(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create("application/json")
        for number in range(3):
            client.post("/s", headers=JSON, content=b'{"n": %d, "x": "%s"}' % (number, b"x" * 600))
        client.post("/s", headers=CLOSE)
        answer = client.get("/s?offset=-1&live=sse")
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        assert "stream-sse-data-encoding" not in answer.headers
        found = events(answer.content)
        assert [name for name, _ in found] == ["data", "control"] * 3
        assert [orjson.loads(data)[0]["n"] for name, data in found if name == "data"] == [0, 1, 2]
        controls = [orjson.loads(data) for name, data in found if name == "control"]
        assert [control.get("streamClosed") for control in controls] == [None, None, True]
        assert [control.get("upToDate") for control in controls] == [None, None, True]
        assert "streamCursor" in controls[0]
        assert "streamCursor" not in controls[-1]
        assert controls[-1]["streamNextOffset"] == client.head("/s").headers["stream-next-offset"]

    def test_the_tail_begins_with_a_control_event_and_ends_after_a_while(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create(content=b"old")
        found = events(client.get("/s?offset=now&live=sse").content)
        assert [name for name, _ in found] == ["control"]
        control = orjson.loads(found[0][1])
        assert control["upToDate"] is True
        assert control["streamNextOffset"] == client.head("/s").headers["stream-next-offset"]

    def test_new_data_is_pushed_until_the_stream_is_closed(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        received = b""
        with client.stream("GET", "/s?offset=now&live=sse") as answer:
            for chunk in answer.iter_raw():
                received += chunk
                last = orjson.loads(events(received)[-1][1])
                if last.get("streamClosed"):
                    break
                assert last["upToDate"] is True
                more = len(re.findall(rb"event: data", received)) < 3
                client.post("/s", headers=TEXT if more else {**TEXT, **CLOSE}, content=b"piece ")
        data = [text for name, text in events(received) if name == "data"]
        assert data == [b"piece "] * 4

    def test_deletion_ends_the_events(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()
        with client.stream("GET", "/s?offset=now&live=sse") as answer:
            chunks = answer.iter_raw()
            next(chunks)
            client.delete("/s")
            assert b"".join(chunks) == b""

    def test_a_closed_stream_ends_them_at_once(self, client: httpx.Client, create: Callable[..., str]) -> None:
        client.post(create(content=b"x"), headers=CLOSE)
        found = events(client.get("/s?offset=now&live=sse").content)
        assert [(name, orjson.loads(data).get("streamClosed")) for name, data in found] == [("control", True)]

    @pytest.mark.parametrize("kind", ["application/octet-stream", "image/png", "application/x-protobuf"])
    def test_bytes_are_base64(self, client: httpx.Client, create: Callable[..., str], kind: str) -> None:
        content = bytes(range(256)) * 300
        client.post(create(kind, content=content), headers=CLOSE)
        answer = client.get("/s?offset=-1&live=sse")
        assert answer.headers["stream-sse-data-encoding"] == "base64"
        (_, data), _ = events(answer.content)
        assert b"\n" in data
        assert base64.b64decode(data.replace(b"\n", b""), validate=True) == content

    @pytest.mark.parametrize(
        ("content", "read"),
        [
            (b"safe\r\n\r\nevent: control\r\ndata: {}\r\n\r\nmore", b"safe\n\nevent: control\ndata: {}\n\nmore"),
            (b"a\n\nevent: data\ndata: b\n\n", b"a\n\nevent: data\ndata: b\n\n"),
            (b"a\r\revent: control\rdata:{}\r\r", b"a\n\nevent: control\ndata:{}\n\n"),
            (b"  two spaces\n one", b"  two spaces\n one"),
            ("naïve ✓".encode(), "naïve ✓".encode()),
        ],
    )
    def test_text_can_hold_anything_but_an_event(
        self, client: httpx.Client, create: Callable[..., str], content: bytes, read: bytes
    ) -> None:
        client.post(create(content=content), headers=CLOSE)
        found = events(client.get("/s?offset=-1&live=sse").content)
        assert [name for name, _ in found] == ["data", "control"]
        assert found[0][1] == read


class Fixed:
    """A random source that is not."""

    def __init__(self, value: int) -> None:
        self._value = value

    def randint(self, a: int, b: int) -> int:
        assert a <= self._value <= b
        return self._value


def events(raw: bytes) -> list[tuple[str, bytes]]:
    """Name and data of each event, parsed as the HTML standard says."""
    found: list[tuple[str, bytes]] = []
    name, data = "", []
    for line in re.split(rb"\r\n|\n|\r", raw):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data.append(value)
        elif not line and data:
            found.append((name, b"\n".join(data)))
            name, data = "", []
    return found


def test_the_parser_of_these_tests_reads_an_example_of_the_protocol() -> None:
    raw = b'event: data\ndata: AQID\ndata: BA==\n\nevent: control\ndata: {"upToDate":true}\n\n'
    expected: list[tuple[str, Any]] = [("data", b"AQID\nBA=="), ("control", b'{"upToDate":true}')]
    assert events(raw) == expected
