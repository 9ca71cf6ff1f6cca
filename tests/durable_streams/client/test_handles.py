"""Handles on a stream, over both fronts: writing, and writing at the same time."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from durable_streams import (
    AsyncDurableStream,
    ContentTypeMismatchError,
    DurableStream,
    FetchError,
    IdempotentProducer,
    MessageError,
    SeqConflictError,
    StreamClosedError,
    StreamExistsError,
    StreamNotFoundError,
    _http,
)
from durable_streams.testing import DropAfter, DropBefore, Hold, Status
from harness.stream_client import Front, Refusing, Wire, params_of
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import TaskGroup

    from durable_streams.testing import FaultPlan, InMemoryStreamServer

JSON = "application/json"


def content(url: str) -> Any:
    with DurableStream(url) as handle, handle.stream(live=False) as response:
        return response.read_json() if handle.head().content_type == JSON else response.read_bytes()


class TestLife:
    def test_from_creation_to_deletion(self, front: Front, url: str) -> None:
        handle = front.run(front.handle.create(url, content_type=JSON, body=[1, 2], ttl_seconds=3600))
        described = front.run(handle.head())
        assert (described.content_type, described.stream_closed) == (JSON, False)
        end = front.run(handle.append(3)).next_offset
        assert end > described.offset
        assert front.run(handle.close_stream({"last": True})).final_offset > end
        assert content(url) == [1, 2, 3, {"last": True}]
        assert front.run(handle.head()).stream_closed
        front.run(handle.delete())
        with pytest.raises(StreamNotFoundError):
            front.run(handle.head())
        front.run(handle.close())

    def test_creating_what_exists_differently_is_a_conflict(self, front: Front, url: str) -> None:
        front.run(front.run(front.handle.create(url, content_type=JSON)).close())
        front.run(front.run(front.handle.create(url, content_type=JSON)).close())
        with pytest.raises(StreamExistsError):
            front.run(front.handle.create(url, content_type="text/plain"))

    def test_connecting_to_nothing_fails(self, front: Front, url: str) -> None:
        with pytest.raises(StreamNotFoundError):
            front.run(front.handle.connect(url))

    def test_closing_twice_is_fine(self, front: Front, url: str) -> None:
        handle = front.run(front.handle.create(url, content_type="text/plain", body="x"))
        assert front.run(handle.close_stream()) == front.run(handle.close_stream())
        with pytest.raises(StreamClosedError):
            front.run(handle.append("y"))
        front.run(handle.close())

    def test_reading_through_a_handle_uses_its_client_and_headers(
        self, front: Front, wire: Wire, url: str
    ) -> None:
        client = front.client(wire.transport)
        handle = front.run(
            front.handle.create(url, content_type=JSON, body=[1], client=client, headers={"X-A": "a", "X-B": "b"})
        )
        opening = handle.stream(live=False, headers={"X-B": "other"})
        response = opening if front.name == "sync" else front.run(opening)
        assert front.run(response.read_json()) == [1]
        front.run(response.close())
        front.run(handle.close())
        front.close(client)
        sent = wire.requests[-1].headers
        assert (sent["x-a"], sent["x-b"]) == ("a", "other")


class TestAppend:
    @pytest.mark.parametrize("value", [{"a": [1]}, [1, [2]], [], "text", 7, 1.5, True, None])
    def test_any_json_value_is_one_message(self, front: Front, url: str, value: Any) -> None:
        handle = front.run(front.handle.create(url, content_type=JSON))
        front.run(handle.append('"text"' if value == "text" else value))
        assert content(url) == [value]
        front.run(handle.close())

    @pytest.mark.parametrize("form", ['{"a":[1]}', b'{"a":[1]}', bytearray(b' {"a":[1]} ')])
    def test_json_text_is_stored_as_what_it_says(self, front: Front, url: str, form: Any) -> None:
        handle = front.run(front.handle.create(url, content_type=JSON))
        front.run(handle.append(form))
        assert content(url) == [{"a": [1]}]
        front.run(handle.close())

    def test_a_handle_without_content_type_learns_it_once(self, front: Front, wire: Wire, url: str) -> None:
        front.run(front.run(front.handle.create(url, content_type=JSON)).close())
        client = front.client(wire.transport)
        handle = front.handle(url, client=client)
        front.run(handle.append({"a": 1}))
        front.run(handle.append({"a": 2}))
        assert wire.methods == ["PUT", "HEAD", "POST", "POST"]
        assert content(url) == [{"a": 1}, {"a": 2}]
        front.close(client)

    def test_what_is_no_message_is_refused_before_anything_is_sent(
        self, front: Front, wire: Wire, url: str
    ) -> None:
        client = front.client(wire.transport)
        with pytest.raises(MessageError):
            front.run(front.handle(url, content_type=JSON, client=client).append("not JSON"))
        assert wire.requests == []
        front.close(client)

    def test_the_wrong_content_type_has_an_error_of_its_own(self, front: Front, url: str) -> None:
        front.run(front.run(front.handle.create(url, content_type=JSON)).close())
        handle = front.handle(url, content_type="text/plain")
        with pytest.raises(ContentTypeMismatchError):
            front.run(handle.append("x"))
        front.run(handle.close())

    def test_the_callers_own_order_is_kept(self, front: Front, url: str) -> None:
        handle = front.run(front.handle.create(url, content_type=JSON))
        front.run(handle.append(1, seq="b"))
        with pytest.raises(SeqConflictError):
            front.run(handle.append(2, seq="a"))
        assert content(url) == [1]
        front.run(handle.close())

    @pytest.mark.parametrize("batching", [True, False])
    def test_json_values_are_encoded_once(self, front: Front, url: str, batching: bool) -> None:  # noqa: FBT001
        handle = front.run(front.handle.create(url, content_type=JSON, batching=batching))
        for value in ({"a": 1}, [1, 2], '{"b":2}', b"[3]", '"text"'):
            front.run(handle.append(value))
        front.run(handle.close())
        assert content(url) == [{"a": 1}, [1, 2], {"b": 2}, [3], "text"]

    def test_a_stream_without_a_content_type_takes_bytes(self, front: Front, url: str, wire: Wire) -> None:
        wire.inject(Status(200, headers={"stream-next-offset": "0"}), method="HEAD")
        wire.inject(Status(204, headers={"stream-next-offset": "1"}), times=2)
        client = front.client(wire.transport)
        handle = front.handle(url, client=client)
        for message in ("x", b"y"):
            assert front.run(handle.append(message)).next_offset == "1"
        assert wire.methods == ["HEAD", "POST", "POST"]
        assert wire.requests[1].headers["content-type"] == "application/octet-stream"
        front.close(client)

    def test_a_closed_stream_says_so(self, front: Front, url: str) -> None:
        handle = front.run(front.handle.create(url, content_type=JSON))
        with DurableStream(url) as other:
            other.close_stream()
        for operation in (handle.append, handle.close_stream):
            with pytest.raises(StreamClosedError) as raised:
                front.run(operation(1))
            assert not raised.value.in_doubt
        front.run(handle.close())
        assert content(url) == []

    def test_transient_answers_are_tried_again_by_every_operation(
        self, front: Front, wire: Wire, url: str
    ) -> None:
        wire.inject(Status(503), DropAfter(), method="PUT")
        wire.inject(Status(500), DropBefore(), method="HEAD")
        wire.inject(Status(429), method="POST")
        wire.inject(Status(502), DropAfter(), method="DELETE")
        refusing = Refusing(wire.transport, "POST", [False, True])
        client = front.client(refusing)
        handle = front.run(front.handle.create(url, content_type=JSON, client=client))
        front.run(handle.head())
        front.run(handle.append(1))
        front.run(handle.delete())
        assert [wire.count(method) for method in ("PUT", "HEAD", "POST", "DELETE")] == [3, 3, 2, 3]
        assert refusing.turns == [], "one more POST was refused"
        front.close(client)

    @pytest.mark.parametrize("method", ["PUT", "HEAD", "POST", "DELETE"])
    def test_no_exception_of_the_http_library_comes_through(
        self, front: Front, wire: Wire, url: str, method: str
    ) -> None:
        wire.inject(DropBefore(), method=method, times=7)
        client = front.client(wire.transport)
        handle = front.handle(url, content_type=JSON, client=client)
        operation = {
            "PUT": handle.create_stream,
            "HEAD": handle.head,
            "POST": lambda: handle.append(1),
            "DELETE": handle.delete,
        }[method]
        with pytest.raises(FetchError) as raised:
            front.run(operation())
        assert isinstance(raised.value.__cause__, httpx.HTTPError)
        assert (raised.value.url, raised.value.status, raised.value.code) == (url, None, "FETCH_ERROR")
        assert raised.value.in_doubt is (method != "HEAD")
        front.close(client)


class TestHeadersAndParameters:
    def test_are_asked_for_once_a_request(self, front: Front, wire: Wire, url: str) -> None:
        numbers = {"X-N": itertools.count(), "n": itertools.count()}
        wire.inject(Status(503), method="HEAD")
        client = front.client(wire.transport)
        handle = front.handle(
            url,
            client=client,
            headers={"X-N": lambda: str(next(numbers["X-N"]))},
            params={"n": lambda: str(next(numbers["n"]))},
        )
        front.run(handle.create_stream(content_type=JSON))
        front.run(handle.head())
        front.run(handle.append(1))
        front.run(handle.close_stream(2))
        front.run(handle.delete())
        assert wire.methods == ["PUT", "HEAD", "HEAD", "POST", "POST", "DELETE"]
        expected = [str(number) for number in range(6)]
        assert [request.headers["x-n"] for request in wire.requests] == expected
        assert [params_of(request)["n"] for request in wire.requests] == expected
        front.close(client)

    def test_parameters_that_occur_twice_are_sent_twice(self, front: Front, wire: Wire, url: str) -> None:
        client = front.client(wire.transport)
        handle = front.handle(f"{url}?tag=a&tag=b", client=client, params={"tag": ["c", "d"]})
        front.run(handle.create_stream(content_type=JSON))
        front.run(handle.append(1))
        for request in wire.requests:
            assert params_of(request).get_list("tag") == ["a", "b", "c", "d"]
        front.close(client)

    def test_our_own_clients_share_a_tls_context(self, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        _http.shared_tls_context()

        def build(**_: object) -> None:
            raise AssertionError("20 ms for each handle")

        monkeypatch.setattr(httpx, "create_ssl_context", build)
        monkeypatch.setattr(ssl, "create_default_context", build)
        front.run(front.handle("https://streams.test/s").close())


class Appends:
    """Appends from several threads, one after the other joining the queue."""

    def __init__(self, handle: DurableStream) -> None:
        self._handle = handle
        self._threads: list[threading.Thread] = []
        self.outcomes: dict[int, Any] = {}

    def start(self, number: int, value: Any, *, waiting: int) -> None:
        """Append in a thread; return when so many appends wait behind the first one."""
        thread = threading.Thread(target=self._append, args=(number, value))
        thread.start()
        self._threads.append(thread)
        wait_until(lambda: len(self._handle._queue) == waiting, what="the append is queued")

    def _append(self, number: int, value: Any) -> None:
        try:
            self.outcomes[number] = self._handle.append(value).next_offset
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.outcomes[number] = error

    def join(self) -> dict[int, Any]:
        """Wait for all; none may hang."""
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "an append hangs"
        return self.outcomes


class TestAppendingFromThreads:
    @pytest.fixture
    def gate(self, wire: Wire) -> FaultPlan:
        return wire.hold()

    @pytest.fixture
    def handle(self, wire: Wire, url: str) -> Iterator[DurableStream]:
        with httpx.Client(transport=wire.transport) as client:
            yield DurableStream.create(url, content_type=JSON, client=client)

    def test_those_that_wait_go_together_in_their_order(self, gate: FaultPlan, handle: DurableStream) -> None:
        appends = Appends(handle)
        for number in range(5):
            appends.start(number, number, waiting=number)
            wait_until(lambda: gate.requests, what="the first append is under way")
        gate.release()
        outcomes = appends.join()
        assert [request.body for request in gate.requests] == [b"[0]", b"[1,2,3,4]"]
        assert len({outcomes[number] for number in range(1, 5)}) == 1
        assert content(handle.url) == [0, 1, 2, 3, 4]

    def test_the_failure_of_one_leaves_nobody_waiting(self, url: str, wire: Wire) -> None:
        gate = wire.inject((Hold(), DropBefore()))
        with httpx.Client(transport=wire.transport) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            appends = Appends(handle)
            for number in range(3):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.requests, what="the first append is under way")
            gate.release()
            outcomes = appends.join()
        assert isinstance(outcomes[0], FetchError)
        assert content(url) == [1, 2]

    def test_a_callers_broken_header_fails_its_batch_only(self, url: str, server: InMemoryStreamServer) -> None:
        calls: list[int] = []

        def token() -> str:
            calls.append(len(calls))
            if len(calls) == 2:
                raise RuntimeError("no token")
            return "t"

        with httpx.Client(transport=server.transport()) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client, headers={"X-T": token})
            with pytest.raises(RuntimeError, match="no token"):
                handle.append(1)
            handle.append(2)
        assert content(url) == [2]

    def test_each_caller_gets_an_exception_of_its_own(self, url: str, wire: Wire) -> None:
        gate = wire.inject(Hold(), Status(404))
        with httpx.Client(transport=wire.transport) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            appends = Appends(handle)
            for number in range(3):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.requests, what="the first append is under way")
            gate.release()
            outcomes = appends.join()
        assert isinstance(outcomes[1], StreamNotFoundError)
        assert isinstance(outcomes[2], StreamNotFoundError)
        assert outcomes[1] is not outcomes[2]

    def test_a_batch_that_is_refused_as_a_whole_is_sent_message_by_message(self, url: str, wire: Wire) -> None:
        gate = wire.inject(Hold(), Status(413), None, Status(400), None)
        with httpx.Client(transport=wire.transport) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            appends = Appends(handle)
            for number in range(4):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.requests, what="the first append is under way")
            gate.release()
            outcomes = appends.join()
        assert [type(outcomes[number]).__name__ for number in range(4)] == ["str", "str", "BadRequestError", "str"]
        assert content(url) == [0, 1, 3]

    def test_without_batching_each_is_a_post_of_its_own(self, url: str, wire: Wire) -> None:
        gate = wire.hold()
        with httpx.Client(transport=wire.transport) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client, batching=False)
            appends = Appends(handle)
            for number in range(4):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.requests, what="the first append is under way")
            gate.release()
            outcomes = appends.join()
        assert [request.body for request in gate.requests] == [b"[0]", b"[1]", b"[2]", b"[3]"]
        assert len(set(outcomes.values())) == 4

    def test_an_interrupted_thread_leaves_nobody_waiting(self, url: str, wire: Wire) -> None:
        calls = itertools.count()

        def token() -> str:
            if next(calls) == 1:
                raise KeyboardInterrupt
            return "t"

        gate = wire.hold()
        with httpx.Client(transport=wire.transport) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client, headers={"X-T": token})
            with pytest.raises(KeyboardInterrupt):
                handle.append(0)
            appends = Appends(handle)
            appends.start(1, 1, waiting=0)
            gate.release()
            appends.join()
        assert content(url) == [1]

    def test_closing_the_handle_lets_appends_under_way_finish(
        self, gate: FaultPlan, handle: DurableStream
    ) -> None:
        appends = Appends(handle)
        for number in range(3):
            appends.start(number, number, waiting=number)
            wait_until(lambda: gate.requests, what="the first append is under way")
        closing = threading.Thread(target=handle.close)
        closing.start()
        assert closing.is_alive()
        gate.release()
        closing.join(20)
        assert not closing.is_alive()
        assert all(isinstance(each, str) for each in appends.join().values())
        assert content(handle.url) == [0, 1, 2]

    def test_a_crowd_asks_a_dead_server_once_and_nobody_hangs(self) -> None:
        gate = threading.Event()
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            assert gate.wait(20)
            return httpx.Response(404)

        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            handle = DurableStream("http://streams.test/s", client=client)
            appends = Appends(handle)
            for number in range(10):
                appends.start(number, number, waiting=number + 1)
            wait_until(lambda: asked, what="one has asked")
            gate.set()
            outcomes = appends.join()
        assert [type(each) for each in outcomes.values()] == [StreamNotFoundError] * 10
        assert len(asked) == 1


class AsyncAppends:
    """Appends from several tasks, each of which can be cancelled."""

    def __init__(
        self, handle: AsyncDurableStream, tasks: TaskGroup, *, encode: dict[int, object] | None = None
    ) -> None:
        self._handle = handle
        self._encode = encode or {}
        self._tasks = tasks
        self._scopes: dict[int, anyio.CancelScope] = {}
        self.outcomes: dict[int, Any] = {}

    async def start(self, *numbers: int, waiting: int) -> None:
        """Append the numbers; return when so many appends wait behind the one under way."""
        for number in numbers:
            self._scopes[number] = anyio.CancelScope()
            self._tasks.start_soon(self._append, number)
            await anyio.lowlevel.checkpoint()  # so that they begin in this order, on trio as well
        await await_until(lambda: len(self._handle._queue) == waiting, what="all are queued")

    async def _append(self, number: int) -> None:
        with self._scopes[number]:
            try:
                self.outcomes[number] = await self._handle.append(self._encode.get(number, number))
            except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
                self.outcomes[number] = error
        if self._scopes[number].cancelled_caught:
            self.outcomes[number] = "cancelled"

    async def cancel(self, *numbers: int) -> None:
        """Cancel some, and wait until they have noticed."""
        for number in numbers:
            self._scopes[number].cancel()
        await await_until(lambda: self.outcomes.keys() >= set(numbers), what="they are cancelled")

    def kinds(self) -> list[str]:
        """What became of each: the name of a type, or 'cancelled'."""
        ordered = [self.outcomes[number] for number in sorted(self.outcomes)]
        return [each if isinstance(each, str) else type(each).__name__ for each in ordered]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
class TestAppendingFromTasks:
    async def test_cancelling_one_neither_hangs_nor_fails_another(self, url: str, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client, anyio.create_task_group() as tasks:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            appends = AsyncAppends(handle, tasks)
            await appends.start(0, waiting=0)
            await await_until(lambda: gate.requests, what="the first append is under way")
            await appends.start(1, 2, 3, waiting=3)
            await appends.cancel(0)  # under way: it may be stored
            await appends.cancel(2)  # waiting: it is not sent
            gate.release()
        await handle.aclose()
        assert appends.kinds() == ["cancelled", "AppendResult", "cancelled", "AppendResult"]
        assert content(url) == [0, 1, 3]

    async def test_cancelling_all_leaves_a_handle_that_works(self, url: str, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client, anyio.create_task_group() as tasks:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            appends = AsyncAppends(handle, tasks)
            await appends.start(0, waiting=0)
            await await_until(lambda: gate.requests, what="the first append is under way")
            await appends.start(1, 2, waiting=2)
            await appends.cancel(1, 2, 0)
            gate.release()
            await handle.append(3)
        assert content(url) == [0, 3]

    async def test_the_failure_of_one_leaves_nobody_waiting(self, url: str, wire: Wire) -> None:
        gate = wire.inject((Hold(), DropBefore()))
        async with httpx.AsyncClient(transport=wire.transport) as client, anyio.create_task_group() as tasks:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            appends = AsyncAppends(handle, tasks)
            await appends.start(0, waiting=0)
            await await_until(lambda: gate.requests, what="the first append is under way")
            await appends.start(1, 2, waiting=2)
            gate.release()
        assert appends.kinds() == ["FetchError", "AppendResult", "AppendResult"]
        assert content(url) == [1, 2]

    async def test_without_batching_each_is_a_post_of_its_own_in_the_order_of_the_calls(
        self, url: str, wire: Wire
    ) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client, anyio.create_task_group() as tasks:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client, batching=False)
            appends = AsyncAppends(handle, tasks)
            for number in range(5):
                await appends.start(number, waiting=number)
                await await_until(lambda: gate.requests, what="the first append is under way")
            gate.release()
        assert [request.body for request in gate.requests] == [f"[{number}]".encode() for number in range(5)]
        assert len({each.next_offset for each in appends.outcomes.values()}) == 5

    async def test_a_crowd_asks_for_the_content_type_once(self, url: str, wire: Wire) -> None:
        async with httpx.AsyncClient(transport=wire.transport) as client:
            with DurableStream.create(url, content_type=JSON):
                pass
            handle = AsyncDurableStream(url, client=client)
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(handle.append, number)
        assert wire.count("HEAD") == 1
        assert sorted(content(url)) == list(range(20))

    async def test_the_order_of_the_calls_holds_while_the_content_type_is_being_asked_for(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        with DurableStream.create(url, content_type=JSON):
            pass
        async with httpx.AsyncClient(transport=server.transport()) as client:
            handle = AsyncDurableStream(url, client=client)
            called: list[int] = []

            async def append(number: int) -> None:
                called.append(number)
                await handle.append(number)

            async def append_as_soon_as_it_is_known() -> None:
                await await_until(lambda: handle.content_type is not None, what="it is known")
                for number in range(100, 103):
                    await append(number)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append_as_soon_as_it_is_known)
                for number in range(30):
                    tasks.start_soon(append, number)
        assert content(url) == called

    async def test_what_is_no_json_fails_alone_also_before_the_content_type_is_known(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        with DurableStream.create(url, content_type=JSON):
            pass
        async with httpx.AsyncClient(transport=server.transport()) as client, anyio.create_task_group() as tasks:
            appends = AsyncAppends(AsyncDurableStream(url, client=client), tasks, encode={1: "not JSON"})
            await appends.start(0, 1, 2, waiting=0)
        assert appends.kinds() == ["AppendResult", "MessageError", "AppendResult"]
        assert content(url) == [0, 2]

    async def test_a_crowd_asks_a_dead_server_once(self) -> None:
        asked: list[str] = []
        gate = anyio.Event()

        async def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.method)
            await gate.wait()
            return httpx.Response(404)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            handle = AsyncDurableStream("http://streams.test/s", client=client)
            async with anyio.create_task_group() as tasks:
                appends = AsyncAppends(handle, tasks)
                await appends.start(*range(20), waiting=20)
                gate.set()
            assert appends.kinds() == ["StreamNotFoundError"] * 20
            assert len({id(error) for error in appends.outcomes.values()}) == 20
            assert asked == ["HEAD"]
            with pytest.raises(StreamNotFoundError):
                await handle.append(1)
            assert asked == ["HEAD"] * 2, "a later append asks again"

    async def test_closing_the_handle_lets_appends_under_way_finish(self, url: str, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client, anyio.create_task_group() as tasks:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            appends = AsyncAppends(handle, tasks)
            await appends.start(0, waiting=0)
            await await_until(lambda: gate.requests, what="the first append is under way")
            await appends.start(1, waiting=1)
            tasks.start_soon(handle.aclose)
            gate.release()
        assert appends.kinds() == ["AppendResult", "AppendResult"]

    async def test_a_close_that_is_cancelled_leaves_nobody_waiting(self, url: str, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client, anyio.create_task_group() as tasks:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            appends = AsyncAppends(handle, tasks)
            await appends.start(0, waiting=0)
            await await_until(lambda: gate.requests, what="the first append is under way")
            await appends.start(1, waiting=1)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await handle.aclose()
        assert appends.kinds() == ["FetchError", "FetchError"]
        assert appends.outcomes[0].in_doubt

    async def test_what_the_callers_own_callable_raises_reaches_the_caller(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        calls = itertools.count()

        async def token() -> str:
            if next(calls) == 1:
                raise RuntimeError("no token")
            return "t"

        async with httpx.AsyncClient(transport=server.transport()) as client:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client, headers={"X-T": token})
            with pytest.raises(RuntimeError, match="no token"):
                await handle.append(1)
            await handle.append(2)
        assert content(url) == [2]

    async def test_the_whole_life_of_a_stream_over_a_socket(self, url: str) -> None:
        async with await AsyncDurableStream.create(url, content_type=JSON, ttl_seconds=3600) as handle:
            await handle.append({"a": 1})
            async with handle.stream(live=False) as response:
                assert await response.read_json() == [{"a": 1}]
            await handle.close_stream([2])
        assert (await AsyncDurableStream.head_static(url)).stream_closed
        assert content(url) == [{"a": 1}, [2]]
        await AsyncDurableStream.delete_static(url)
        with pytest.raises(StreamNotFoundError):
            await AsyncDurableStream.connect(url)

    async def test_async_callables_give_headers_and_parameters(self, url: str, wire: Wire) -> None:
        async def token() -> str:
            return "t"

        async def tags() -> list[str]:
            return ["a", "b"]

        async with httpx.AsyncClient(transport=wire.transport) as client:
            await AsyncDurableStream.create(url, client=client, headers={"X-T": token}, params={"tag": tags})
        assert wire.requests[0].headers["x-t"] == "t"
        assert wire.requests[0].query == "tag=a&tag=b"


def test_an_async_callable_in_the_sync_front_is_a_mistake_that_is_named(url: str) -> None:
    async def token() -> str:
        return "t"

    with DurableStream(url, headers={"X-T": token}) as handle, pytest.raises(TypeError, match="'X-T'"):
        handle.head()


class TestALoopWhoseTasksAreAllCancelled:
    """As signal handlers do; also a task that has not begun is cancelled, and runs not even its `finally`."""

    def test_leaves_a_handle_that_works(self, url: str, server: InMemoryStreamServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient(transport=server.transport()) as client:
                handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
                append = asyncio.create_task(handle.append(1))
                await asyncio.sleep(0)  # no wait: it has begun, and its sender has not
                assert cancel_all() > 1
                with anyio.fail_after(20):
                    await asyncio.wait([append])
                    await handle.append(2)
                    await handle.aclose()

        asyncio.run(main())
        assert content(url) == [2]

    def test_leaves_a_producer_that_works(self, url: str, server: InMemoryStreamServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient(transport=server.transport()) as client:
                producer = IdempotentProducer(url, "p", client=client, content_type=JSON, linger_ms=0)
                for turns in range(8):
                    producer.append_nowait(turns)
                    for _ in range(turns):
                        await asyncio.sleep(0)  # no wait: each turn of the loop takes the request a step further
                    cancel_all()
                    await asyncio.sleep(0)  # no wait: they take note
                with anyio.fail_after(20):
                    await producer.close()

        with DurableStream.create(url, content_type=JSON):
            asyncio.run(main())
        assert content(url) == list(range(8))


def cancel_all() -> int:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    return len(others)
