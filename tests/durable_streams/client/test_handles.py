"""Handles on a stream, over both fronts: writing, and writing at the same time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams import (
    AsyncDurableStream,
    ContentTypeMismatchError,
    DurableStream,
    FetchError,
    MessageError,
    SeqConflictError,
    StreamClosedError,
    StreamExistsError,
    StreamNotFoundError,
)
from harness.stream_client import Fault, FaultyTransport, Front, Gate
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams.testing import InMemoryStreamServer

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
        self, front: Front, server: InMemoryStreamServer, url: str
    ) -> None:
        transport = FaultyTransport(server.transport())
        client = front.client(transport)
        handle = front.run(
            front.handle.create(url, content_type=JSON, body=[1], client=client, headers={"X-A": "a", "X-B": "b"})
        )
        opening = handle.stream(live=False, headers={"X-B": "other"})
        response = opening if front.name == "sync" else front.run(opening)
        assert front.run(response.read_json()) == [1]
        front.run(response.close())
        front.run(handle.close())
        front.close(client)
        sent = transport.requests[-1].headers
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

    def test_a_handle_without_content_type_learns_it_once(
        self, front: Front, server: InMemoryStreamServer, url: str
    ) -> None:
        front.run(front.run(front.handle.create(url, content_type=JSON)).close())
        transport = FaultyTransport(server.transport())
        client = front.client(transport)
        handle = front.handle(url, client=client)
        front.run(handle.append({"a": 1}))
        front.run(handle.append({"a": 2}))
        assert content(url) == [{"a": 1}, {"a": 2}]
        assert [request.method for request in transport.requests] == ["HEAD", "POST", "POST"]
        front.close(client)

    def test_what_is_no_message_is_refused_before_anything_is_sent(
        self, front: Front, server: InMemoryStreamServer, url: str
    ) -> None:
        transport = FaultyTransport(server.transport())
        client = front.client(transport)
        with pytest.raises(MessageError):
            front.run(front.handle(url, content_type=JSON, client=client).append("not JSON"))
        assert transport.requests == []
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

    def test_a_lost_answer_is_never_answered_with_a_second_append(
        self, front: Front, server: InMemoryStreamServer, url: str
    ) -> None:
        transport = FaultyTransport(server.transport(), {"POST": [Fault.REFUSED, 429, Fault.UNANSWERED]})
        client = front.client(transport)
        handle = front.run(front.handle.create(url, content_type=JSON, client=client))
        with pytest.raises(FetchError) as raised:
            front.run(handle.append(1))
        assert "may have been stored" in "".join(raised.value.__notes__)
        assert content(url) == [1]
        assert transport.count("POST") == 3
        front.close(client)


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
    def gate(self, server: InMemoryStreamServer) -> Gate:
        return Gate(server.transport())

    @pytest.fixture
    def handle(self, gate: Gate, url: str) -> Iterator[DurableStream]:
        with httpx.Client(transport=gate) as client:
            yield DurableStream.create(url, content_type=JSON, client=client)

    def test_those_that_wait_go_together_in_their_order(self, gate: Gate, handle: DurableStream) -> None:
        appends = Appends(handle)
        for number in range(5):
            appends.start(number, number, waiting=number)
            wait_until(lambda: gate.bodies, what="the first append is under way")
        gate.open()
        outcomes = appends.join()
        assert gate.bodies == [b"[0]", b"[1,2,3,4]"]
        assert len({outcomes[number] for number in range(1, 5)}) == 1
        assert content(handle.url) == [0, 1, 2, 3, 4]

    def test_the_failure_of_one_leaves_nobody_waiting(self, url: str, server: InMemoryStreamServer) -> None:
        gate = Gate(FaultyTransport(server.transport(), {"POST": [Fault.DROPPED, None]}))
        with httpx.Client(transport=gate) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            appends = Appends(handle)
            for number in range(3):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.bodies, what="the first append is under way")
            gate.open()
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

    def test_each_caller_gets_an_exception_of_its_own(self, url: str, server: InMemoryStreamServer) -> None:
        gate = Gate(FaultyTransport(server.transport(), {"POST": [None, 404]}))
        with httpx.Client(transport=gate) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            appends = Appends(handle)
            for number in range(3):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.bodies, what="the first append is under way")
            gate.open()
            outcomes = appends.join()
        assert isinstance(outcomes[1], StreamNotFoundError)
        assert isinstance(outcomes[2], StreamNotFoundError)
        assert outcomes[1] is not outcomes[2]

    def test_a_batch_that_is_refused_as_a_whole_is_sent_message_by_message(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        gate = Gate(FaultyTransport(server.transport(), {"POST": [None, 413, None, 400, None]}))
        with httpx.Client(transport=gate) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            appends = Appends(handle)
            for number in range(4):
                appends.start(number, number, waiting=number)
                wait_until(lambda: gate.bodies, what="the first append is under way")
            gate.open()
            outcomes = appends.join()
        assert [type(outcomes[number]).__name__ for number in range(4)] == ["str", "str", "BadRequestError", "str"]
        assert content(url) == [0, 1, 3]


@pytest.mark.anyio
class TestAppendingFromTasks:
    async def test_cancelling_one_neither_hangs_nor_fails_another(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        gate = Gate(server.transport())
        async with httpx.AsyncClient(transport=gate) as client:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            tasks = [asyncio.create_task(handle.append(0))]
            await await_until(lambda: gate.bodies, what="the first append is under way")
            tasks += [asyncio.create_task(handle.append(number)) for number in range(1, 4)]
            await await_until(lambda: len(handle._queue) == 3, what="the others wait")
            tasks[0].cancel()  # under way: it may be stored
            tasks[2].cancel()  # waiting: it is not sent
            await asyncio.wait([tasks[0], tasks[2]], timeout=20)
            gate.open()
            async with asyncio.timeout(20):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            await handle.aclose()
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False, True, False]
        assert content(url) == [0, 1, 3]

    async def test_the_failure_of_one_leaves_nobody_waiting(self, url: str, server: InMemoryStreamServer) -> None:
        gate = Gate(FaultyTransport(server.transport(), {"POST": [Fault.DROPPED, None]}))
        async with httpx.AsyncClient(transport=gate) as client:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            first = asyncio.create_task(handle.append(0))
            await await_until(lambda: gate.bodies, what="the first append is under way")
            others = [asyncio.create_task(handle.append(number)) for number in (1, 2)]
            await await_until(lambda: len(handle._queue) == 2, what="the others wait")
            gate.open()
            async with asyncio.timeout(20):
                results = await asyncio.gather(first, *others, return_exceptions=True)
            await handle.aclose()
        assert isinstance(results[0], FetchError)
        assert content(url) == [1, 2]

    async def test_closing_the_handle_lets_appends_under_way_finish(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        gate = Gate(server.transport())
        client = httpx.AsyncClient(transport=gate)
        handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
        append = asyncio.create_task(handle.append(1))
        await await_until(lambda: gate.bodies, what="the append is under way")
        closing = asyncio.create_task(handle.aclose())
        gate.open()
        await closing
        assert (await append).next_offset
        await client.aclose()

    async def test_async_callables_give_headers_and_parameters(
        self, url: str, server: InMemoryStreamServer
    ) -> None:
        async def token() -> str:
            return "t"

        async def tags() -> list[str]:
            return ["a", "b"]

        transport = FaultyTransport(server.transport())
        async with httpx.AsyncClient(transport=transport) as client:
            await AsyncDurableStream.create(url, client=client, headers={"X-T": token}, params={"tag": tags})
        assert transport.requests[0].headers["x-t"] == "t"
        assert transport.requests[0].url.query == b"tag=a&tag=b"


def test_an_async_callable_in_the_sync_front_is_a_mistake_that_is_named(url: str) -> None:
    async def token() -> str:
        return "t"

    with DurableStream(url, headers={"X-T": token}) as handle, pytest.raises(TypeError, match="'X-T'"):
        handle.head()
