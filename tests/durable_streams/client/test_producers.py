"""Idempotent producers over both fronts, against a real server and a bad network."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
import pytest

from durable_streams import (
    AsyncDurableStream,
    ContentTypeMismatchError,
    DurableStream,
    DurableStreamError,
    IdempotentProducer,
    MessageError,
    ProducerError,
    ProducerFullError,
    ProducerStoppedError,
    StaleEpochError,
    StreamClosedError,
    StreamNotFoundError,
    SyncIdempotentProducer,
)
from durable_streams._batches import WindowSettings
from durable_streams.testing import DropAfter, DropBefore, Status
from harness.stream_client import Front, Refusing, Wire
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from durable_streams.testing import Fault, InMemoryStreamServer

JSON = "application/json"
FILLER = 123456789
BOTH_LOOPS = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


def content(handle: DurableStream) -> list[Any]:
    with handle.stream(live=False) as response:
        return response.read_json()


def claim_epoch(server: InMemoryStreamServer, url: str, epoch: int, message: str = '["theirs"]') -> None:
    """Write as another process with the same producer id."""
    headers = {"content-type": JSON, "producer-id": "p", "producer-epoch": str(epoch), "producer-seq": "0"}
    with httpx.Client(transport=server.transport()) as client:
        assert client.post(url, headers=headers, content=message).status_code == 200


class TestAppending:
    def test_everything_arrives_once_and_in_order(self, front: Front, handle: DurableStream) -> None:
        producer = front.producer(handle.url, "p")
        results = front.produce(producer, range(500))
        assert not any(result.duplicate for result in results)
        assert results[-1].offset == handle.head().offset
        assert (producer.pending_count, producer.in_flight_count) == (0, 0)
        front.run(producer.close())
        assert content(handle) == list(range(500))

    def test_messages_that_come_together_travel_together(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client, linger_ms=50)
        front.produce(producer, range(1000))
        front.run(producer.close())
        front.close(client)
        assert wire.count("POST") <= 20
        assert content(handle) == list(range(1000))

    def test_no_request_exceeds_the_size(self, front: Front, handle: DurableStream, wire: Wire) -> None:
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client, max_batch_bytes=1000)
        front.produce(producer, [str(number) for number in range(2000)])
        front.run(producer.close())
        front.close(client)
        assert max(map(len, wire.bodies)) <= 1000
        assert content(handle) == list(range(2000))

    def test_the_content_type_is_the_streams(self, front: Front, handle: DurableStream, wire: Wire) -> None:
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client)
        front.produce(producer, [{"a": 1}, '{"a": 2}'])
        front.run(producer.close())
        front.close(client)
        assert wire.methods[:2] == ["PUT", "HEAD"]
        assert wire.requests[-1].headers["content-type"] == JSON
        assert content(handle) == [{"a": 1}, {"a": 2}]

    def test_the_wrong_content_type_is_called_by_its_name(self, front: Front, handle: DurableStream) -> None:
        producer = front.producer(handle.url, "p", content_type="text/plain")
        (error,) = front.produce(producer, ["x"])
        assert isinstance(error, ContentTypeMismatchError)
        with pytest.raises(ContentTypeMismatchError):
            front.run(producer.close())

    def test_one_message_that_is_no_json_is_refused_alone(self, front: Front, handle: DurableStream) -> None:
        producer = front.producer(handle.url, "p", content_type=JSON)
        front.produce(producer, [1])
        with pytest.raises(MessageError):
            front.produce(producer, ["not JSON"])
        front.produce(producer, [2])
        front.run(producer.close())
        assert content(handle) == [1, 2]

    def test_headers_carry_credentials_once_for_each_request(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        tokens = iter(range(100))
        wire.inject(Status(503))
        client = front.client(wire.transport)
        headers = {"Authorization": lambda: f"Bearer {next(tokens)}"}
        producer = front.producer(handle.url, "p", client=client, headers=headers, params={"tenant": "a"})
        front.produce(producer, [1])
        front.run(producer.close())
        front.close(client)
        sent = [(request.headers["authorization"], request.query) for request in wire.requests[1:]]
        assert wire.methods == ["PUT", "HEAD", "POST", "POST"]
        assert sent == [(f"Bearer {number}", "tenant=a") for number in range(3)]

    def test_a_handle_lends_its_client_and_headers(self, front: Front, wire: Wire, url: str) -> None:
        client = front.client(wire.transport)
        stream = front.run(front.handle.create(url, content_type=JSON, client=client, headers={"X-A": "a"}))
        producer = front.producer(stream, "p")
        front.produce(producer, [1])
        front.run(producer.close())
        assert front.run(stream.head()).content_type == JSON
        front.close(client)
        assert wire.methods == ["PUT", "POST", "HEAD"]
        assert wire.requests[1].headers["x-a"] == "a"

    def test_a_missing_stream_is_told(self, front: Front, url: str) -> None:
        producer = front.producer(url, "p", content_type=JSON)
        (error,) = front.produce(producer, [1])
        assert isinstance(error, StreamNotFoundError)
        assert error.records == (b"1",)
        with pytest.raises(StreamNotFoundError):
            front.run(producer.close())

    def test_a_batch_that_is_too_large_for_the_server_or_a_proxy_is_halved(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        wire.inject(Status(413), times=2)
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client, content_type=JSON)
        front.produce(producer, range(8))
        front.run(producer.close())
        front.close(client)
        assert wire.count("POST") == 5
        assert content(handle) == list(range(8))

    @pytest.mark.parametrize(
        ("url", "named"), [("host/x", "host/x"), ("", "empty"), ("http://h/a b", "percent-encode")]
    )
    def test_so_is_what_is_no_url(self, front: Front, url: str, named: str) -> None:
        with pytest.raises(ValueError, match=named):
            front.producer(url, "p")

    @pytest.mark.parametrize("name", ["", "a\nb", "\u00e4"])
    def test_so_is_an_id_that_no_header_can_carry(self, front: Front, name: str) -> None:
        with pytest.raises(ValueError, match="producer_id"):
            front.producer("http://streams.test/s", name)

    def test_a_handle_of_the_other_front_is_refused_by_its_name(self, front: Front, url: str) -> None:
        other: Any = DurableStream(url) if front.name == "async" else AsyncDurableStream(url)
        with pytest.raises(TypeError, match=f"not {type(other).__name__}"):
            front.producer(other, "p")

    def test_so_is_a_handler_that_cannot_be_called(self, front: Front, url: str) -> None:
        with pytest.raises(TypeError, match="on_error is a function"):
            front.producer(url, "p", on_error=3)

    @pytest.mark.parametrize(
        "options", [{"epoch": -1}, {"max_batch_bytes": 0}, {"max_in_flight": 0}, {"linger_ms": -1}]
    )
    def test_impossible_options_are_refused_at_once(self, front: Front, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            front.producer("http://streams.test/s", "p", **options)


class TestABadNetwork:
    @pytest.mark.parametrize(
        ("refused", "faults"),
        [
            ([], [Status(503)]),
            ([], [DropBefore()]),
            ([], [DropAfter()]),
            ([True], [Status(500), Status(429), DropAfter(), DropBefore(), Status(502)]),
            ([], [None, DropAfter(), None, Status(503), None, DropBefore(), DropAfter(), DropAfter()] * 5),
        ],
    )
    @pytest.mark.parametrize("auto_claim", [False, True], ids=["", "claiming"])
    def test_loses_and_repeats_nothing(
        self,
        front: Front,
        handle: DurableStream,
        wire: Wire,
        refused: list[bool],
        faults: list[Fault | None],
        *,
        auto_claim: bool,
    ) -> None:
        wire.inject(*faults)
        client = front.client(Refusing(wire.transport, "POST", refused))
        producer = front.producer(
            handle.url, "p", client=client, content_type=JSON, max_batch_bytes=50, auto_claim=auto_claim
        )
        results = front.produce(producer, range(300))
        assert not [result for result in results if isinstance(result, Exception)]
        front.run(producer.flush())
        front.run(producer.close())
        front.close(client)
        assert content(handle) == list(range(300))


class TestEpochs:
    def test_a_restart_that_claims_loses_nothing(self, front: Front, handle: DurableStream) -> None:
        for number in range(3):
            producer = front.producer(handle.url, "p", auto_claim=True, max_batch_bytes=10)
            front.produce(producer, range(10 * number, 10 * number + 10))
            assert producer.epoch == number
            front.run(producer.close())
        assert content(handle) == list(range(30))

    def test_a_fence_while_many_fly_loses_nothing(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer
    ) -> None:
        producer = front.producer(handle.url, "p", auto_claim=True, max_batch_bytes=20)
        front.produce(producer, range(50))
        claim_epoch(server, handle.url, 7)
        front.produce(producer, range(50, 200))
        assert producer.epoch == 8
        front.run(producer.close())
        assert [value for value in content(handle) if value != "theirs"] == list(range(200))

    def test_a_fence_without_claiming_is_an_error(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer
    ) -> None:
        claim_epoch(server, handle.url, 3)
        told: list[DurableStreamError] = []
        producer = front.producer(handle.url, "p", content_type=JSON, on_error=told.append)
        (error,) = front.produce(producer, [1])
        assert isinstance(error, StaleEpochError)
        assert told == [error]
        assert told[0].records == (b"1",)
        with pytest.raises(ProducerStoppedError):
            front.produce(producer, [2])
        with pytest.raises(StaleEpochError):
            front.run(producer.close())
        assert content(handle) == ["theirs"]

    def test_a_restart_goes_on_in_the_next_epoch(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer
    ) -> None:
        claim_epoch(server, handle.url, 0)
        producer = front.producer(handle.url, "p", content_type=JSON, epoch=0)
        front.run(producer.restart())
        front.produce(producer, [1])
        assert (producer.epoch, producer.next_seq) == (1, 1)
        front.run(producer.close())
        assert content(handle) == ["theirs", 1]


class TestTheEnd:
    def test_a_stream_that_somebody_else_closed_is_an_error_and_no_hang(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        handle.close_stream()
        told: list[DurableStreamError] = []
        gate = wire.hold()  # else the first answer may come before all are appended
        producer = front.producer(handle.url, "p", max_batch_bytes=10, on_error=told.append)
        errors = front.produce(producer, range(10), meanwhile=gate.release)
        assert isinstance(errors[0], StreamClosedError)
        assert {type(error) for error in errors[1:]} <= {StreamClosedError, ProducerStoppedError}
        assert sorted(int(record) for error in told for record in error.records) == list(range(10))
        with pytest.raises(StreamClosedError):
            front.run(producer.flush())
        with pytest.raises(StreamClosedError):
            front.run(producer.close())

    def test_the_producer_can_close_the_stream_with_a_last_word(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        wire.inject(None, DropAfter())
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client)
        front.produce(producer, [1])
        closed = front.run(producer.close_stream({"last": True}))
        assert closed.final_offset == handle.head().offset
        assert handle.head().stream_closed
        with pytest.raises(StreamClosedError):
            front.produce(producer, [2])
        front.run(producer.close())
        front.close(client)
        assert content(handle) == [1, {"last": True}]

    @pytest.mark.parametrize("auto_claim", [False, True], ids=["", "claiming"])
    def test_or_without_one(self, front: Front, handle: DurableStream, wire: Wire, *, auto_claim: bool) -> None:
        client = front.client(wire.transport)
        producer = front.producer(handle.url, "p", client=client, content_type=JSON, auto_claim=auto_claim)
        front.produce(producer, [1])
        wire.inject(Status(503), DropAfter())
        closed = front.run(producer.close_stream())
        assert closed.final_offset == handle.head().offset
        assert front.run(producer.close_stream()) == closed, "it was closed before, by this producer"
        for data in (2, {"last": True}):
            with pytest.raises(StreamClosedError):
                front.run(producer.close_stream(data))
        front.run(producer.close())
        front.close(client)
        assert handle.head().stream_closed
        assert content(handle) == [1]

    def test_a_producer_that_was_fenced_does_not_close_the_stream(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer
    ) -> None:
        producer = front.producer(handle.url, "p", content_type=JSON)
        front.produce(producer, [1])
        claim_epoch(server, handle.url, 3)
        with pytest.raises(StaleEpochError):
            front.run(producer.close_stream())
        assert not handle.head().stream_closed
        front.run(producer.restart())
        assert not any(result.duplicate for result in front.produce(producer, [2]))
        assert producer.epoch == 4, "never the one that fenced it, whose numbers are taken"
        front.run(producer.close())
        assert content(handle) == [1, "theirs", 2]

    def test_a_callers_broken_header_fails_the_batch_and_nothing_hangs(
        self, front: Front, handle: DurableStream
    ) -> None:
        def token() -> str:
            raise RuntimeError("no token")

        producer = front.producer(handle.url, "p", content_type=JSON, headers={"X-T": token})
        (error,) = front.produce(producer, [1])
        assert isinstance(error, ProducerError)
        assert isinstance(error.__cause__, RuntimeError)
        with pytest.raises(ProducerError, match="no token"):
            front.run(producer.close())

    def test_a_handler_that_raises_does_not_stop_the_producer(
        self, front: Front, handle: DurableStream, caplog: pytest.LogCaptureFixture
    ) -> None:
        def shout(error: DurableStreamError) -> None:
            raise RuntimeError(str(error))

        producer = front.producer(handle.url, "p", content_type="text/plain", on_error=shout)
        front.produce(producer, ["x"])
        front.run(producer.restart())
        front.run(producer.close())
        assert "producer.on_error.raised" in caplog.text


def fill(producer: Any) -> None:
    """Append without waiting until it raises."""
    for _ in range(1000):
        producer.append_nowait(FILLER)


def append_many(producer: IdempotentProducer) -> None:
    """Append without ever letting the loop turn."""
    for number in range(100_000):
        producer.append(number)


class TestBackPressure:
    @pytest.fixture(autouse=True)
    def _small_buffer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WindowSettings, "buffer_bytes", 1000)

    def test_a_thread_waits_for_room(self, handle: DurableStream, wire: Wire) -> None:
        gate = wire.hold()
        with httpx.Client(transport=wire.transport) as client:
            producer = SyncIdempotentProducer(handle.url, "p", client=client, content_type=JSON)
            appended: list[int] = []

            def append_all() -> None:
                for number in range(1000):
                    producer.append(number)
                    appended.append(number)

            writer = threading.Thread(target=append_all)
            writer.start()
            wait_until(lambda: producer.pending_count > 200, what="the buffer is full")
            with pytest.raises(ProducerFullError):
                fill(producer)
            assert len(appended) < 300
            gate.release()
            writer.join(20)
            producer.close()
        written = [value for value in content(handle) if value != FILLER]
        assert written == list(range(1000))

    @pytest.mark.anyio
    @BOTH_LOOPS
    async def test_a_task_that_awaits_its_appends_waits_for_room(self, handle: DurableStream, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client:
            async with IdempotentProducer(handle.url, "p", client=client, content_type=JSON) as producer:
                appended: list[int] = []

                async def append_all() -> None:
                    for number in range(1000):
                        await producer.append(number)
                        appended.append(number)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(append_all)
                    await await_until(lambda: producer.pending_count > 200, what="the buffer is full")
                    with pytest.raises(ProducerFullError):
                        fill(producer)
                    assert len(appended) < 300
                    gate.release()
        written = [value for value in await anyio.to_thread.run_sync(content, handle) if value != FILLER]
        assert written == list(range(1000))

    @pytest.mark.anyio
    @BOTH_LOOPS
    async def test_even_appends_that_nobody_awaits_are_bounded(self, handle: DurableStream, wire: Wire) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client:
            producer = IdempotentProducer(handle.url, "p", client=client, content_type=JSON)
            with pytest.raises(ProducerFullError) as raised:
                append_many(producer)
            assert len(raised.value.records) == 1
            gate.release()
            await producer.close()


@pytest.mark.anyio
@BOTH_LOOPS
class TestAsyncOnly:
    async def test_appending_without_waiting_for_the_content_type(self, handle: DurableStream) -> None:
        producer = IdempotentProducer(handle.url, "p")
        first = producer.append_nowait({"a": 1})
        bad = producer.append_nowait("not JSON")
        producer.append_nowait("[2]")
        assert (await first).duplicate is False
        with pytest.raises(MessageError):
            await bad
        with pytest.raises(MessageError):
            await producer.close()
        assert await anyio.to_thread.run_sync(content, handle) == [{"a": 1}, [2]]

    async def test_a_missing_stream_fails_what_waits_for_its_content_type(self, url: str) -> None:
        producer = IdempotentProducer(url, "p")
        with pytest.raises(StreamNotFoundError):
            await producer.append_nowait(1)
        with pytest.raises(StreamNotFoundError):
            await producer.close()

    async def test_entering_fails_without_a_stream(self, url: str) -> None:
        with pytest.raises(StreamNotFoundError):
            async with IdempotentProducer(url, "p"):
                pass

    async def test_an_error_in_the_block_is_not_hidden_by_one_of_the_producer(self, handle: DurableStream) -> None:
        async def fail_inside() -> None:
            async with IdempotentProducer(handle.url, "p", content_type="text/plain") as producer:
                producer.append("x")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as raised:
            await fail_inside()
        assert "ContentTypeMismatchError" in raised.value.__notes__[0]

    async def test_cancelling_one_acknowledgement_disturbs_no_other(
        self, handle: DurableStream, wire: Wire
    ) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client:
            async with IdempotentProducer(handle.url, "p", client=client) as producer:
                acknowledgement = producer.append_nowait(1)
                results = []

                async def wait(scope: anyio.CancelScope) -> None:
                    with scope:
                        results.append(await acknowledgement)

                scopes = [anyio.CancelScope(), anyio.CancelScope()]
                async with anyio.create_task_group() as tasks:
                    for scope in scopes:
                        tasks.start_soon(wait, scope)
                    await await_until(lambda: gate.requests, what="the message is under way")
                    scopes[0].cancel()
                    gate.release()
        assert len(results) == 1
        assert [scope.cancelled_caught for scope in scopes] == [True, False]

    async def test_a_flush_does_not_let_linger_what_waits_for_its_content_type(
        self, handle: DurableStream
    ) -> None:
        async with await AsyncDurableStream.connect(handle.url) as stream:
            producer = IdempotentProducer(stream.url, "p", linger_ms=3_600_000)
            producer.append_nowait(1)
            await producer.flush()
            await producer.close()
        assert await anyio.to_thread.run_sync(content, handle) == [1]

    async def test_cancelling_the_closing_of_the_stream_leaves_it_to_be_asked_for_again(
        self, handle: DurableStream, wire: Wire
    ) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client:
            async with IdempotentProducer(handle.url, "p", client=client, content_type=JSON) as producer:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(producer.close_stream, {"last": True})
                    await await_until(lambda: gate.requests, what="the request is under way")
                    tasks.cancel_scope.cancel()
                gate.release()
                closed = await producer.close_stream()
        head = await anyio.to_thread.run_sync(handle.head)
        assert (head.stream_closed, head.offset) == (True, closed.final_offset)
        assert await anyio.to_thread.run_sync(content, handle) == [{"last": True}]

    async def test_closing_in_a_cancelled_scope_ends_what_is_under_way(
        self, handle: DurableStream, wire: Wire
    ) -> None:
        gate = wire.hold()
        async with httpx.AsyncClient(transport=wire.transport) as client:
            with anyio.CancelScope() as scope:
                async with IdempotentProducer(handle.url, "p", client=client, content_type=JSON) as producer:
                    producer.append_nowait(1)
                    await await_until(lambda: gate.requests, what="the message is under way")
                    scope.cancel()
            assert (producer.pending_count, producer.in_flight_count) == (0, 0)
            gate.release()

    async def test_a_handle_of_the_async_front_is_accepted(self, url: str) -> None:
        async with await AsyncDurableStream.create(url, content_type=JSON) as stream:
            async with IdempotentProducer(stream, "p") as producer:
                await (await producer.append(1))


def test_appending_outside_a_loop_raises_before_anything_is_taken(url: str) -> None:
    producer = IdempotentProducer(url, "p", content_type=JSON)
    with pytest.raises(RuntimeError, match=r"no running event loop|must be called from async context"):
        producer.append(1)
    assert producer.pending_count == 0
