"""Producers that keep their messages in memory: interrupted, cancelled, forked, closed at the worst moment."""

from __future__ import annotations

import dataclasses
import dis
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

from durable_streams import (
    DurableStream,
    DurableStreamError,
    IdempotentProducer,
    MessageError,
    ProducerError,
    ProducerStoppedError,
    StreamClosedError,
    StreamNotFoundError,
    SyncIdempotentProducer,
)
from durable_streams._batches import WindowSettings
from durable_streams.testing import DropAfter, Hold, Status
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from durable_streams.testing import InMemoryStreamServer
    from harness.stream_client import Front, Wire

JSON = "application/json"
BOTH_LOOPS = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
PATIENCE_SECONDS = 20.0


def content(handle: DurableStream) -> list[Any]:
    with handle.stream(live=False) as response:
        return response.read_json()


def within_patience(step: Callable[[], Any]) -> Any:
    """Do something that must not hang, in a thread, because it could."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(step())
        except BaseException as error:  # noqa: BLE001 - it is the outcome
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert outcome, "it hangs"
    return outcome[0]


class TestWhatWasTaken:
    """It is a copy, and what becomes of it is told."""

    @pytest.mark.parametrize("content_type", [JSON, "text/plain"])
    def test_is_what_the_caller_had_at_that_moment(self, front: Front, url: str, content_type: str) -> None:
        data: Any = {"n": 0} if content_type == JSON else bytearray(b"0")
        with DurableStream.create(url, content_type=content_type) as handle:
            producer = front.producer(url, "p")

            def append_each() -> None:
                for number in range(3):
                    if isinstance(data, dict):
                        data["n"] = number
                    else:
                        data[0] = ord(str(number))
                    producer.append(data)

            async def append_each_in_a_loop() -> None:
                append_each()

            if front.name == "async":
                front.run(append_each_in_a_loop())
            else:
                append_each()
            front.run(producer.close())
            with handle.stream(live=False) as response:
                assert response.read_bytes().replace(b"\n", b"") in {b'[{"n":0},{"n":1},{"n":2}]', b"012"}

    @pytest.mark.anyio
    @BOTH_LOOPS
    async def test_has_an_error_with_all_of_it_when_there_is_no_stream(self, url: str) -> None:
        told: list[DurableStreamError] = []
        producer = IdempotentProducer(url, "p", on_error=told.append)
        for message in ({"n": 1}, "[2]", b"3"):
            producer.append(message)
        with pytest.raises(StreamNotFoundError) as raised:
            await producer.flush()
        assert raised.value.records == (b'{"n":1}', b"[2]", b"3")
        assert told == [raised.value]
        with pytest.raises(StreamNotFoundError):
            await producer.close()

    @pytest.mark.anyio
    @BOTH_LOOPS
    async def test_is_refused_at_once_if_no_stream_can_take_it(self, url: str) -> None:
        producer = IdempotentProducer(url, "p")
        with pytest.raises(MessageError):
            producer.append({"a": object()})
        assert producer.pending_count == 0

    def test_is_nothing_after_close(self, front: Front, handle: DurableStream) -> None:
        producer = front.producer(handle.url, "p", content_type=JSON)
        front.run(producer.close())
        with pytest.raises(ProducerStoppedError):
            front.produce(producer, [1])
        assert content(handle) == []

    def test_by_threads_is_in_the_stream_whenever_the_producer_is_closed(
        self, handle: DurableStream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(WindowSettings, "buffer_bytes", 1000)  # so that some of them wait for room
        producer = SyncIdempotentProducer(handle.url, "p", content_type=JSON, max_batch_bytes=200)
        taken: list[list[int]] = [[] for _ in range(4)]

        def append_on(mine: list[int], start: int) -> None:
            number = start
            while True:
                try:
                    producer.append(number)
                except ProducerStoppedError:
                    return
                mine.append(number)
                number += 1

        threads = [
            threading.Thread(target=append_on, args=(mine, 1_000_000 * place)) for place, mine in enumerate(taken)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(len(mine) > 50 for mine in taken), what="all of them are appending")
        producer.close()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        stored = content(handle)
        for place, mine in enumerate(taken):
            assert [number for number in stored if number // 1_000_000 == place] == mine


class TestRestarting:
    def test_a_healthy_producer_stores_nothing_twice(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client, content_type=JSON)
        front.produce(producer, [0])
        wire.inject(DropAfter(), *[Status(503)] * 3)

        async def append_and_restart() -> None:
            producer.append_nowait(1)
            await await_until(lambda: wire.count("POST") > 1, what="its answer is lost")
            await producer.restart()

        if front.name == "async":
            front.run(append_and_restart())
        else:
            producer.append(1)
            wait_until(lambda: wire.count("POST") > 1, what="its answer is lost")
            producer.restart()
        front.produce(producer, [2])
        assert producer.epoch == 1
        front.run(producer.close())
        front.close(client)
        assert content(handle) == [0, 1, 2]


@pytest.mark.anyio
@BOTH_LOOPS
class TestCancelling:
    async def test_a_close_leaves_nobody_waiting(self, handle: DurableStream, wire: Wire) -> None:
        gate = wire.hold()
        told: list[DurableStreamError] = []
        errors: list[ProducerStoppedError] = []

        async def expect_the_end(what: Callable[[], Any]) -> None:
            with pytest.raises(ProducerStoppedError) as raised:
                await what()
            errors.append(raised.value)

        async with httpx.AsyncClient(transport=wire.transport) as client:
            producer = IdempotentProducer(handle.url, "p", client=client, content_type=JSON, on_error=told.append)
            acknowledgement = producer.append_nowait(1)

            async def confirmed() -> None:
                await acknowledgement

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(expect_the_end, confirmed)
                tasks.start_soon(expect_the_end, producer.flush)
                await await_until(lambda: gate.requests, what="the message is under way")
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await producer.close()
            gate.release()
        assert (producer.pending_count, producer.in_flight_count) == (0, 0)
        assert len(errors) == 2
        (error,) = told
        assert set(errors) == {error}
        assert (error.records, error.in_doubt) == ((b"1",), True)

    async def test_a_close_while_others_append_leaves_nothing_running(
        self, handle: DurableStream, wire: Wire
    ) -> None:
        gate = wire.hold()
        appended = 0

        async def append_on() -> None:
            nonlocal appended
            while True:
                try:
                    await producer.append(appended)
                except DurableStreamError:
                    return
                appended += 1
                await anyio.lowlevel.checkpoint()

        async with httpx.AsyncClient(transport=wire.transport) as client:
            producer = IdempotentProducer(
                handle.url, "p", client=client, content_type=JSON, linger_ms=0, max_batch_bytes=50
            )
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(append_on)
                await await_until(lambda: gate.requests and appended > 20, what="they are appending")
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await producer.close()
            gate.release()
        assert (producer.pending_count, producer.in_flight_count) == (0, 0)

    async def test_flushes_leaves_nothing_behind(self, handle: DurableStream, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client:
            producer = IdempotentProducer(handle.url, "p", client=client, content_type=JSON)
            producer.append(1)
            for _ in range(50):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await producer.flush()
            assert len(producer._engine._watchers) == 0  # type: ignore[attr-defined]
            gate.release()
            await producer.close()

    async def test_nothing_makes_two_of_those_that_close_the_stream(self, handle: DurableStream) -> None:
        outcomes: list[Any] = []

        async def close_with(word: str) -> None:
            try:
                outcomes.append(await producer.close_stream({"last": word}))
            except StreamClosedError as error:
                outcomes.append(error)

        async with IdempotentProducer(handle.url, "p", content_type=JSON) as producer:
            producer.append(0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(close_with, "a")
                tasks.start_soon(close_with, "b")
        assert [type(outcome).__name__ for outcome in outcomes] in (
            ["CloseResult", "StreamClosedError"],
            ["StreamClosedError", "CloseResult"],
        )
        assert len(await anyio.to_thread.run_sync(content, handle)) == 2

    async def test_a_handler_may_append_what_failed_again(self, handle: DurableStream, wire: Wire) -> None:
        wire.inject(Status(400))
        restarts: list[DurableStreamError] = []

        async with httpx.AsyncClient(transport=wire.transport) as client:
            producer = IdempotentProducer(
                handle.url, "p", client=client, content_type=JSON, on_error=restarts.append
            )
            producer.append(1)
            await await_until(lambda: restarts, what="it failed")
            await producer.restart()
            for record in restarts[0].records:
                producer.append(record)
            await producer.close()
        assert await anyio.to_thread.run_sync(content, handle) == [1]


class LeavingError(SystemExit):
    """What `sys.exit` raises, to be told from one that pytest raises."""


def test_a_handler_that_ends_the_program_ends_it(handle: DurableStream, wire: Wire) -> None:
    wire.inject(Status(400))

    def leave(error: DurableStreamError) -> None:
        raise LeavingError(str(error))

    async def run() -> None:
        async with (
            httpx.AsyncClient(transport=wire.transport) as client,
            IdempotentProducer(handle.url, "p", client=client, content_type=JSON, on_error=leave) as producer,
        ):
            producer.append(1)
            await anyio.sleep_forever()

    outcome = within_patience(lambda: anyio.run(run))
    assert isinstance(outcome, LeavingError)


def never_give_up(producer: Any) -> None:
    """Let batches be tried again for ever: the tests' back-off takes no time."""
    window = producer._engine._window
    window.settings = dataclasses.replace(window.settings, max_attempts=10**9)


class TestClosing:
    def test_after_it_nothing_runs_and_nobody_is_told_anything(self, front: Front, url: str) -> None:
        told: list[DurableStreamError] = []
        producer = front.producer(url, "p", on_error=told.append)
        front.run(producer.close())
        with pytest.raises(ProducerStoppedError, match="the producer is closed"):
            front.produce(producer, [1])
        front.run(producer.flush())
        assert told == [], "there is no stream, and nobody asked"

    def test_is_not_undone_by_a_closing_of_the_stream_that_fails(self, handle: DurableStream, wire: Wire) -> None:
        slow = wire.inject((Hold(), Status(401)))
        with httpx.Client(transport=wire.transport) as client:
            producer = SyncIdempotentProducer(handle.url, "p", client=client, content_type=JSON)
            outcomes: list[Any] = []
            closer = threading.Thread(
                target=lambda: outcomes.append(within_patience(lambda: producer.close_stream(["last"])))
            )
            closer.start()
            wait_until(lambda: slow.requests, what="the request is under way")
            ender = threading.Thread(target=lambda: outcomes.append(within_patience(producer.close)))
            ender.start()
            wait_until(lambda: producer._engine._closed, what="close waits")  # type: ignore[attr-defined]
            slow.release()
            for thread in (closer, ender):
                thread.join(PATIENCE_SECONDS)
            assert len(outcomes) == 2
            with pytest.raises(DurableStreamError):
                producer.append(1)

    def test_of_the_stream_does_not_begin_after_that_of_the_producer(
        self, handle: DurableStream, wire: Wire
    ) -> None:
        slow = wire.inject(Hold(), method="HEAD")
        with httpx.Client(transport=wire.transport) as client:
            producer = SyncIdempotentProducer(handle.url, "p", client=client)
            outcomes: list[Any] = []
            closer = threading.Thread(target=lambda: outcomes.append(within_patience(producer.close_stream)))
            closer.start()
            wait_until(lambda: slow.requests, what="it asks for the content type")
            producer.close()
            slow.release()
            closer.join(PATIENCE_SECONDS)
        assert isinstance(outcomes[0], DurableStreamError)
        assert not handle.head().stream_closed

    def test_does_not_wait_for_a_handler_that_waits_for_what_it_will_fail(
        self, handle: DurableStream, server: InMemoryStreamServer, wire: Wire
    ) -> None:
        second = wire.inject(Status(401), where=lambda request: request.body == b"[2]", times=None)
        held = wire.inject((Hold(), Status(503)), where=lambda request: request.body == b"[1]", times=None)
        told = threading.Event()
        outcomes: list[Any] = []

        def handler(_: DurableStreamError) -> None:
            told.set()
            outcomes.append(within_patience(first.result))

        with httpx.Client(transport=wire.transport) as client:
            producer = SyncIdempotentProducer(
                handle.url, "p", client=client, content_type=JSON, on_error=handler, linger_ms=0
            )
            producer.append(0).result(PATIENCE_SECONDS)
            never_give_up(producer)
            first = producer.append(1)
            wait_until(lambda: held.requests, what="the first is under way")
            producer.append(2)
            wait_until(lambda: second.requests, what="the second has come")
            held.release()
            assert told.wait(PATIENCE_SECONDS)
            producer._engine._stop()  # type: ignore[attr-defined]
        assert [type(each) for each in outcomes] == [ProducerStoppedError] * len(outcomes)
        assert outcomes

    def test_twice_gives_up_what_the_first_one_could_not_wait_for(self, handle: DurableStream, wire: Wire) -> None:
        slow = wire.inject(Hold())
        with httpx.Client(transport=wire.transport) as client:
            producer = SyncIdempotentProducer(
                handle.url, "p", client=client, content_type=JSON, max_in_flight=1, linger_ms=0
            )
            producer.append('"slow"')
            wait_until(lambda: slow.requests, what="the request is under way")
            behind = producer.append(2)
            producer._engine._stopping = True  # type: ignore[attr-defined]
            ender = threading.Thread(target=lambda: within_patience(producer.close))
            ender.start()
            slow.release()
            ender.join(PATIENCE_SECONDS)
            assert isinstance(within_patience(lambda: behind.result(PATIENCE_SECONDS)), ProducerStoppedError)


def test_an_error_that_is_raised_again_does_not_gather_tracebacks(front: Front, url: str) -> None:
    producer = front.producer(url, "p", content_type=JSON)
    front.produce(producer, [1])
    depths = set()
    for _ in range(3):
        with pytest.raises(StreamNotFoundError) as raised:
            front.run(producer.flush())
        depths.add(len(raised.traceback))
    assert len(depths) == 1
    with pytest.raises(StreamNotFoundError):
        front.run(producer.close())


class TestThreads:
    @pytest.mark.parametrize("max_in_flight", [1, 5])
    @pytest.mark.parametrize("what", ["close", "flush", "restart", "again", "exit"])
    def test_a_handler_may_do_whatever_it_likes(
        self, handle: DurableStream, wire: Wire, what: str, max_in_flight: int
    ) -> None:
        wire.inject(Status(400))
        outcomes: list[Any] = []

        def again() -> None:
            producer.restart()
            outcomes.append(producer.append(2).result(PATIENCE_SECONDS))

        def leave() -> None:
            raise LeavingError

        steps: dict[str, Callable[[], Any]] = {
            "close": lambda: producer.close(),  # noqa: PLW0108 - it is made later
            "flush": lambda: producer.flush(),  # noqa: PLW0108
            "restart": lambda: producer.restart(),  # noqa: PLW0108
            "again": again,
            "exit": leave,
        }

        def handler(error: DurableStreamError) -> None:
            try:
                outcomes.append(steps[what]())
            except DurableStreamError as raised:
                outcomes.append(raised)
            except LeavingError:
                outcomes.append(None)
                raise
            del error

        with httpx.Client(transport=wire.transport) as client:
            producer = SyncIdempotentProducer(
                handle.url,
                "p",
                client=client,
                content_type=JSON,
                on_error=handler,
                max_in_flight=max_in_flight,
            )
            producer.append(1)
            wait_until(lambda: outcomes, what="the handler has done it")
            if what in {"flush", "exit"}:
                within_patience(producer.restart)
            if what != "close":
                assert within_patience(lambda: producer.append(3).result(PATIENCE_SECONDS)).duplicate is False
            assert within_patience(producer.close) is None
        assert content(handle) == {"close": [], "again": [2, 3]}.get(what, [3])

    def test_a_header_that_ends_its_thread_fails_the_batch_and_nothing_hangs(self, handle: DurableStream) -> None:
        def token() -> str:
            raise LeavingError

        producer = SyncIdempotentProducer(handle.url, "p", content_type=JSON, headers={"X-T": token})
        acknowledgement = producer.append(1)
        error = within_patience(lambda: acknowledgement.result(PATIENCE_SECONDS))
        assert isinstance(error, ProducerError)
        assert isinstance(error.__cause__, LeavingError)
        assert within_patience(producer.close) is error

    def test_without_a_thread_nothing_is_taken(
        self, handle: DurableStream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = threading.Thread.start
        available = 0

        def start_some(thread: threading.Thread) -> None:
            nonlocal available
            if thread.name.startswith("producer-"):
                if available == 0:
                    raise RuntimeError("can't start new thread")
                available -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_some)
        producer = SyncIdempotentProducer(handle.url, "p", content_type=JSON, max_batch_bytes=20)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            producer.append(0)
        assert producer.pending_count == 0
        available = 1
        for number in range(1, 100):
            producer.append(number)
        assert within_patience(producer.close) is None, "one thread does it all"
        assert content(handle) == list(range(1, 100))

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_process_is_told_to_make_its_own(self, handle: DurableStream) -> None:
        producer = SyncIdempotentProducer(handle.url, "p", content_type=JSON)
        acknowledgement = producer.append(1)
        acknowledgement.result(PATIENCE_SECONDS)
        process = os.fork()
        if process == 0:  # pragma: no cover - another process
            signal.alarm(10)
            failed = 0
            for step in (lambda: producer.append(2), producer.flush, producer.restart, producer.close):
                try:
                    step()
                except DurableStreamError as error:
                    failed += "forked process" in str(error)
            os._exit(40 + failed)
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == 44
        producer.append(3)
        producer.close()
        assert content(handle) == [1, 3]


@pytest.mark.parametrize("ends", ["", "producer.flush()"])
def test_a_program_that_ends_without_close_is_told_what_it_loses(url: str, ends: str) -> None:
    program = f"""
from durable_streams import DurableStream, SyncIdempotentProducer
handle = DurableStream.create({url!r}, content_type="application/json")
producer = SyncIdempotentProducer(handle, "p", linger_ms=1e6)
producer.append(1)
{ends}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.count("producer.unsent") == (0 if ends else 1)
    assert ends or f"{url} messages=1" in done.stderr


class Interruption:
    """Raises KeyboardInterrupt in this thread at the n-th point where Python looks for signals: as Ctrl-C may."""

    POINTS = frozenset({"RESUME", "CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "FOR_ITER", "SEND"})
    """Behind these instructions; more than there are in fact, but none in the middle of entering a lock."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._last: dict[FrameType, str] = {}
        self.happened: str | None = None
        """Where it did."""

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if not ("durable_streams" in code.co_filename or code.co_filename == threading.__file__):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self._last.get(frame) in self.POINTS:
                self._left -= 1
                if self._left == 0:
                    sys.settrace(None)
                    self.happened = f"{code.co_name} in line {frame.f_lineno}"
                    raise KeyboardInterrupt
            self._last[frame] = dis.opname[code.co_code[frame.f_lasti]]
        return self._trace


class TestCtrlC:
    """At whatever step it comes: nothing hangs, nothing that was taken is lost, nothing is stored twice."""

    @pytest.mark.parametrize("what", ["append", "append_nowait", "flush", "restart", "result"])
    def test_leaves_a_producer_that_goes_on(self, handle: DurableStream, what: str) -> None:
        producer = SyncIdempotentProducer(handle.url, "p", content_type=JSON, max_batch_bytes=60)
        taken = []
        step = 0
        interruption = Interruption(0)
        while step == 0 or interruption.happened:
            step += 1
            acknowledgement = producer.append(2 * step)
            taken.append(2 * step)
            interruption = Interruption(step)
            try:
                with interruption:
                    match what:
                        case "flush":
                            producer.flush()
                        case "restart":
                            producer.restart()
                        case "result":
                            acknowledgement.result(PATIENCE_SECONDS)
                        case _:
                            getattr(producer, what)(2 * step + 1)
                            taken.append(2 * step + 1)
            except KeyboardInterrupt:
                pass
            assert within_patience(producer.flush) is None, f"interrupted at {interruption.happened}"
        assert within_patience(producer.close) is None
        stored = content(handle)
        assert stored == sorted(set(stored))
        assert set(taken) <= set(stored)
        assert step > 10

    def test_in_close_leaves_nobody_waiting(self, url: str, server: InMemoryStreamServer) -> None:
        step = 0
        client = httpx.Client(
            transport=server.transport()
        )  # one for all streams; a producer has its own, to close
        while True:
            step += 1
            interruption = Interruption(step)
            with DurableStream.create(f"{url}-{step}", content_type=JSON, client=client) as handle:
                producer = SyncIdempotentProducer(handle.url, "p", content_type=JSON)
                acknowledgement = producer.append(1)
                try:
                    with interruption:
                        producer.close()
                except (KeyboardInterrupt, ProducerStoppedError):
                    pass
                outcome = within_patience(producer.close)
                assert outcome is None or isinstance(outcome, ProducerStoppedError)
                assert acknowledgement.settled, f"interrupted at {interruption.happened}"
                if outcome is None:
                    acknowledgement.result(0)
                assert content(handle) in ([], [1])
            if not interruption.happened:
                break
        assert step > 10
