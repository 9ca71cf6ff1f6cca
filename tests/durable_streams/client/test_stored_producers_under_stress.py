"""Producers with a store that are interrupted, cancelled, forked, restarted meanwhile, or run out of threads."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
import tracemalloc
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from durable_streams import (
    DurableStream,
    DurableStreamError,
    IdempotentProducer,
    ProducerError,
    ProducerStoppedError,
    ProducerStoreError,
    SqliteProducerStore,
    SyncIdempotentProducer,
    is_control_message,
)
from durable_streams._store_calls import StoreCalls
from durable_streams.testing import Status
from harness.interrupts import interrupted, within_seconds
from harness.stream_client import AsyncFront, Front
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from durable_streams._types import ProducerErrorHandler
    from durable_streams.testing import InMemoryStreamServer
    from harness.stream_client import Wire

REFUSAL = {"stream-next-offset": "0"}
"""With it a 400 is the stream server's own, and stops a producer."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def handle(url: str) -> Iterator[DurableStream]:
    with DurableStream.create(url, content_type="application/json") as created:
        yield created


def content(handle: DurableStream) -> list[Any]:
    """The messages in the stream, without what producers put there for their own sake."""
    with handle.stream(live=False) as response:
        return [message for message in response.read_json() if not is_control_message(message)]


class TestAnInterrupt:
    """Ctrl-C at each step, one after the other: nothing hangs, and what was taken arrives once and in order."""

    def test_of_an_append(self, handle: DurableStream, path: Path) -> None:
        taken: list[int] = []

        def append(number: int) -> None:
            acknowledgement = producer.append(number)
            taken.append(number)
            acknowledgement.result(20)

        producer = SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path))
        append(0)
        for step in itertools.count(1):
            arrived = interrupted(partial(append, 2 * step - 1), step)
            within_seconds(partial(append, 2 * step), what=f"a message is taken after an interrupt at step {step}")
            within_seconds(producer.flush, what=f"all is flushed after an interrupt at step {step}")
            assert producer.pending_count == 0
            if not arrived:
                break
        within_seconds(producer.close, what="the producer is closed")
        found = content(handle)
        assert found == sorted(set(found))
        assert set(taken) <= set(found)
        assert step > 20, "the steps were counted"

    def test_of_a_flush(self, handle: DurableStream, path: Path) -> None:
        def work() -> None:
            producer.append(1)
            producer.flush()

        producer = SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path))
        for step in itertools.count(1):
            arrived = interrupted(work, step)
            within_seconds(producer.flush, what=f"all is flushed after an interrupt at step {step}")
            assert producer.pending_count == 0
            if not arrived:
                break
        within_seconds(producer.close, what="the producer is closed")

    @pytest.mark.parametrize("what", ["start", pytest.param("restart", marks=pytest.mark.soak), "close"])
    def test_of_what_starts_or_ends_it(
        self, url: str, server: InMemoryStreamServer, tmp_path: Path, what: str
    ) -> None:
        client = httpx.Client(
            transport=server.transport()
        )  # one for all streams; a producer has its own, to close
        for step in itertools.count(1):
            with DurableStream.create(f"{url}-{step}", content_type="application/json", client=client) as stream:
                producer = SyncIdempotentProducer(stream.url, "p", store=SqliteProducerStore(tmp_path / str(step)))
                if what != "start":
                    producer.append(1)
                call = producer.__enter__ if what == "start" else getattr(producer, what)
                arrived = interrupted(call, step)
                if what != "close":
                    with suppress(ProducerStoppedError):  # entering closes what it could not start
                        within_seconds(partial(producer.append, 2), what=f"an append after step {step}")
                        within_seconds(producer.flush, what=f"all is flushed after an interrupt at step {step}")
                within_seconds(producer.close, what=f"it is closed after an interrupt at step {step}")
                following = SyncIdempotentProducer(
                    stream.url, "p", store=SqliteProducerStore(tmp_path / str(step))
                )
                within_seconds(following.flush, what=f"the file opens after an interrupt at step {step}")
                following.close()
                found = content(stream)
                assert found in ([], [1], [2], [1, 2])
                assert what == "start" or 1 in found
            if not arrived:
                break


class Busy(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Holds what ``hold`` is in until it is opened, also when it is given up; knows how many requests overlap."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.holding = threading.Event()
        self.open = threading.Event()
        self.given_up = threading.Event()
        self._active = 0
        self.most = 0

    def _begin(self, body: bytes) -> bool:
        self._active += 1
        self.most = max(self.most, self._active)
        if b"hold" not in body or self.open.is_set():
            return False
        self.holding.set()
        return True

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response: httpx.Response = self._inner.handle_request(request)
            response.read()
            if self._begin(request.read()):
                assert self.open.wait(20)
            return response
        finally:
            self._active -= 1

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response: httpx.Response = await self._inner.handle_async_request(request)
            await response.aread()
            if self._begin(await request.aread()):
                try:
                    await anyio.sleep_forever()
                finally:
                    self.given_up.set()
                    with anyio.CancelScope(shield=True):
                        await await_until(self.open.is_set, what="the request may end")
            return response
        finally:
            self._active -= 1


class TestARestartDuringARequest:
    def test_never_has_two_drains(
        self, handle: DurableStream, server: InMemoryStreamServer, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        restarting = threading.Event()
        hurry = StoreCalls.hurry

        def hurry_and_tell(calls: StoreCalls) -> None:
            hurry(calls)
            restarting.set()

        monkeypatch.setattr(StoreCalls, "hurry", hurry_and_tell)
        told: list[DurableStreamError] = []
        transport = Busy(server.transport())
        with httpx.Client(transport=transport) as client:
            store = SqliteProducerStore(path)
            producer = SyncIdempotentProducer(handle.url, "p", client=client, store=store, on_error=told.append)
            producer.append('"hold"')
            assert transport.holding.wait(20)
            restart = threading.Thread(target=producer.restart)
            restart.start()
            assert restarting.wait(20)
            within_seconds(lambda: producer.append(2), what="a message is taken meanwhile")
            drains = [thread for thread in threading.enumerate() if thread.name == "drain-p"]
            transport.open.set()
            restart.join()
            producer.flush()
            producer.close()
        assert len(drains) == 1
        assert transport.most == 1
        assert told == []
        assert content(handle) == ["hold", 2]

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_never_has_two_drains_with_async(
        self, handle: DurableStream, server: InMemoryStreamServer, path: Path, backend: str
    ) -> None:
        told: list[DurableStreamError] = []
        transport = Busy(server.transport())

        async def main() -> None:
            async with (
                httpx.AsyncClient(transport=transport) as client,
                IdempotentProducer(
                    handle.url, "p", client=client, store=SqliteProducerStore(path), on_error=told.append
                ) as producer,
            ):
                await producer.append('"hold"')
                await await_until(transport.holding.is_set, what="the request is on its way")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(producer.restart)
                    await await_until(transport.given_up.is_set, what="the restart waits for its end")
                    await producer.append(2)
                    await anyio.wait_all_tasks_blocked()
                    transport.open.set()
                await producer.flush()

        anyio.run(main, backend=backend)
        assert transport.most == 1
        assert told == []
        assert content(handle) == ["hold", 2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestACancelled:
    def test_restart_goes_on(
        self, handle: DurableStream, server: InMemoryStreamServer, path: Path, backend: str
    ) -> None:
        transport = Busy(server.transport())

        async def main() -> None:
            async with (
                httpx.AsyncClient(transport=transport) as client,
                IdempotentProducer(handle.url, "p", client=client, store=SqliteProducerStore(path)) as producer,
            ):
                acknowledgement = await producer.append('"hold"')
                await await_until(transport.holding.is_set, what="the request is on its way")
                transport.open.set()
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await producer.restart()
                with anyio.fail_after(20):
                    await acknowledgement

        anyio.run(main, backend=backend)
        assert content(handle) == ["hold"]

    def test_close_has_closed(self, handle: DurableStream, path: Path, backend: str) -> None:
        async def main() -> None:
            producer = IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path))
            await producer.append(1)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await producer.close()
            async with IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as following:
                await following.flush()

        anyio.run(main, backend=backend)
        assert content(handle) == [1]


@pytest.mark.parametrize("what", ["restart", "close"])
def test_a_change_goes_on_when_its_asyncio_task_is_cancelled(
    handle: DurableStream, server: InMemoryStreamServer, path: Path, what: str
) -> None:
    """No shield of anyio keeps this off."""
    transport = Busy(server.transport())

    async def main() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            producer = IdempotentProducer(handle.url, "p", client=client, store=SqliteProducerStore(path))
            acknowledgement = await producer.append('"hold"')
            await await_until(transport.holding.is_set, what="the request is on its way")
            change = asyncio.create_task(getattr(producer, what)())
            await await_until(transport.given_up.is_set, what="it waits for the request to end")
            change.cancel()
            with pytest.raises(asyncio.CancelledError):
                await change
            transport.open.set()
            async with asyncio.timeout(20):
                if what == "restart":
                    await acknowledgement
                else:
                    with pytest.raises(ProducerStoppedError):
                        await acknowledgement
            await producer.close()

    asyncio.run(main())
    with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as following:
        following.flush()
    assert content(handle) == ["hold"]


class TestAHandlerOfErrors:
    """``on_error`` is called by the producer's own thread, and may call the producer."""

    @pytest.fixture
    def make(
        self, handle: DurableStream, wire: Wire, path: Path
    ) -> Iterator[Callable[[ProducerErrorHandler], SyncIdempotentProducer]]:
        wire.inject(None, Status(400, headers=REFUSAL))
        with httpx.Client(transport=wire.transport) as client:
            yield lambda on_error: SyncIdempotentProducer(
                handle.url, "p", client=client, store=SqliteProducerStore(path), on_error=on_error
            )

    def test_may_restart_it(
        self, make: Callable[[ProducerErrorHandler], SyncIdempotentProducer], handle: DurableStream
    ) -> None:
        told: list[DurableStreamError] = []

        def restart(error: DurableStreamError) -> None:
            producer.restart()
            told.append(error)

        producer = make(restart)
        producer.append(1)
        wait_until(lambda: told, what="it was restarted")
        within_seconds(producer.flush, what="all is flushed")
        within_seconds(producer.close, what="it is closed")
        assert content(handle) == [1]
        assert len(told) == 1

    def test_may_close_it(
        self,
        make: Callable[[ProducerErrorHandler], SyncIdempotentProducer],
        handle: DurableStream,
        path: Path,
    ) -> None:
        raised: list[BaseException] = []

        def close(_: DurableStreamError) -> None:
            try:
                producer.close()
            except ProducerStoppedError as error:
                raised.append(error)

        producer = make(close)
        producer.append(1)
        wait_until(lambda: raised, what="it was closed")
        with pytest.raises(ProducerStoppedError, match="the producer is closed"):
            producer.append(2)
        within_seconds(producer.close, what="it is closed once more")
        with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as following:
            following.flush()
        assert content(handle) == [1]

    def test_may_append(
        self, make: Callable[[ProducerErrorHandler], SyncIdempotentProducer], handle: DurableStream
    ) -> None:
        told: list[DurableStreamError] = []

        def append(error: DurableStreamError) -> None:
            producer.append(2)
            told.append(error)

        producer = make(append)
        producer.append(1)
        wait_until(lambda: told, what="it has appended")
        within_seconds(producer.restart, what="it is restarted")
        within_seconds(producer.flush, what="all is flushed")
        producer.close()
        assert content(handle) == [1, 2]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_may_end_its_thread(self, make: Callable[[ProducerErrorHandler], SyncIdempotentProducer]) -> None:
        def leave(_: DurableStreamError) -> None:
            raise SystemExit

        producer = make(leave)
        acknowledgement = producer.append(1)
        with pytest.raises(ProducerError, match="malformed"):
            acknowledgement.result(20)
        with pytest.raises(ProducerError, match="malformed"):
            within_seconds(producer.flush, what="the flush ends")
        with pytest.raises(ProducerStoppedError):
            within_seconds(producer.close, what="it is closed")


def test_a_header_that_ends_its_thread_stops_the_producer(handle: DurableStream, path: Path) -> None:
    def leave() -> str:
        raise SystemExit(3)

    store = SqliteProducerStore(path)
    producer = SyncIdempotentProducer(handle.url, "p", store=store, headers={"authorization": leave})
    acknowledgement = producer.append(1)
    with pytest.raises(ProducerError, match=r"SystemExit\(3\)"):
        acknowledgement.result(20)
    with pytest.raises(ProducerError, match=r"SystemExit\(3\)"):
        within_seconds(producer.flush, what="the flush ends")
    with pytest.raises(ProducerStoppedError):
        within_seconds(producer.close, what="it is closed")


@pytest.mark.parametrize("name", ["store outbox.db", "drain-p"])
def test_a_thread_that_cannot_be_started_is_tried_again(
    handle: DurableStream, path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    producer = SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_others)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                producer.append(1)
    assert producer.append(2).result(20).offset is not None
    within_seconds(producer.close, what="it is closed")
    assert content(handle) == [2]


FORKING = """
import os, sys, httpx
from durable_streams import ProducerStoreError, SqliteProducerStore, SyncIdempotentProducer

def no_network(request):
    raise httpx.ConnectError("no network", request=request)

client = httpx.Client(transport=httpx.MockTransport(no_network))
producer = SyncIdempotentProducer("http://h/s", "p", store=SqliteProducerStore(sys.argv[1]), client=client)
acknowledgement = producer.append(1)
child = os.fork()
if not child:
    refused = 0
    for call in (lambda: producer.append(2), producer.flush, producer.restart, acknowledgement.result):
        try:
            call()
        except ProducerStoreError as error:
            refused += f"was opened in process {os.getppid()}" in str(error)
    producer.close()
    sys.exit(refused)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
producer.append(3)
producer.close()
print(producer.pending_count)
"""


def test_a_forked_process_leaves_the_file_to_its_parent(handle: DurableStream, path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(path)], capture_output=True, timeout=60, check=False
    )
    assert ran.stdout.split() == [b"4", b"2"], ran.stderr
    again = SqliteProducerStore(path)
    again.begin_again(handle.url)
    with SyncIdempotentProducer(handle.url, "p", store=again) as producer:
        producer.flush()
    assert content(handle) == [1, 3]


def test_asking_again_and_again_for_a_confirmation_keeps_nothing(
    front: Front, handle: DurableStream, wire: Wire, path: Path
) -> None:
    gate = wire.hold()
    client = front.client(wire.transport)
    producer = front.producer(handle.url, "p", client=client, store=SqliteProducerStore(path))

    async def append() -> Any:
        return await producer.append(1)

    async def poll(acknowledgement: Any) -> None:
        for _ in range(2000):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await acknowledgement

    if isinstance(front, AsyncFront):
        acknowledgement = front.run(append())
        front.run(poll(acknowledgement))  # once, for what is kept for good
        tracemalloc.start()
        front.run(poll(acknowledgement))
    else:
        acknowledgement = producer.append(1)
        tracemalloc.start()
        for _ in range(2000):
            with pytest.raises(TimeoutError):
                acknowledgement.result(0)
    grown_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gate.release()
    front.run(producer.close())
    front.close(client)
    assert grown_bytes < 500_000, "2000 polls"


def test_after_the_last_epoch_no_other_is_begun(handle: DurableStream, path: Path) -> None:
    last = 2**53 - 1
    with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path), epoch=last) as producer:
        producer.append(1).result(20)
    with pytest.raises(ProducerStoreError, match=f"epoch {last}, .* is the last one that a server takes"):
        SqliteProducerStore(path).begin_again()
    with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as producer:
        producer.append(2).result(20)
    assert content(handle) == [1, 2]
