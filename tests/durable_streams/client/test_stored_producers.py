"""Producers with a `SqliteProducerStore` over both fronts: exactly once across restarts and a bad network."""

from __future__ import annotations

import asyncio
import shutil
import threading
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from durable_streams import (
    ContentTypeMismatchError,
    DurableStream,
    DurableStreamError,
    IdempotentProducer,
    MessageError,
    ProducerError,
    ProducerFullError,
    ProducerStoppedError,
    ProducerStoreError,
    SqliteProducerStore,
    StaleEpochError,
    StreamClosedError,
    StreamNotFoundError,
    SyncIdempotentProducer,
    _pull_steps,
    is_control_message,
)
from durable_streams import _store_writer as store_writer
from durable_streams._store_rows import StoreRows
from durable_streams.testing import DropAfter, DropBefore, Hold, InMemoryStreamServer, Status
from harness.stream_client import AsyncFront, Front, Refusing, SyncFront
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from durable_streams import SealedBatch
    from harness.stream_client import Wire

JSON = "application/json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def content(handle: DurableStream) -> list[Any]:
    """The messages in the stream, without what producers put there for their own sake."""
    with handle.stream(live=False) as response:
        return [message for message in response.read_json() if not is_control_message(message)]


def producer_on(front: Front, url: str, path: Path, **options: Any) -> Any:
    """A producer with the id ``p``; the store's own options are taken out."""
    own = {name: options.pop(name) for name in ("id_member", "max_bytes") if name in options}
    return front.producer(url, options.pop("producer_id", "p"), store=SqliteProducerStore(path, **own), **options)


def append_all(front: Front, producer: Any, messages: Any, *, at_once: bool = False) -> list[Any]:
    """Append, each durable before the next; return the acknowledgements. ``at_once``: where there is room only."""

    async def append() -> list[Any]:
        acknowledgements = []
        for message in messages:
            acknowledgement = producer.append_nowait(message) if at_once else await producer.append(message)
            await acknowledgement.stored()
            acknowledgements.append(acknowledgement)
        return acknowledgements

    if isinstance(front, AsyncFront):
        acknowledgements: list[Any] = front.run(append())
        return acknowledgements
    return [producer.append_nowait(message) if at_once else producer.append(message) for message in messages]


def outcome(front: Front, acknowledgement: Any) -> Any:
    return front.run(acknowledgement) if isinstance(front, AsyncFront) else acknowledgement.result(20)


def write_as(
    server: InMemoryStreamServer, url: str, *, epoch: int, seq: int = 0, message: str = '["theirs"]'
) -> None:
    """Write as another process with the same producer id."""
    headers = {"content-type": JSON, "producer-id": "p", "producer-epoch": str(epoch), "producer-seq": str(seq)}
    with httpx.Client(transport=server.transport()) as client:
        assert client.post(url, headers=headers, content=message).status_code == 200


class TestAppending:
    def test_everything_arrives_once_and_in_order(self, front: Front, handle: DurableStream, path: Path) -> None:
        producer = producer_on(front, handle.url, path)
        results = front.produce(producer, range(200))
        assert not any(result.duplicate for result in results)
        assert results[-1].offset == handle.head().offset
        assert (producer.pending_count, producer.in_flight_count, producer.epoch) == (0, 0, 0)
        assert producer.next_seq > 1
        front.run(producer.close())
        assert content(handle) == list(range(200))

    def test_a_closed_producer_takes_nothing(self, front: Front, handle: DurableStream, path: Path) -> None:
        producer = producer_on(front, handle.url, path)
        append_all(front, producer, [1])
        for _ in range(2):
            front.run(producer.close())
        with pytest.raises(ProducerStoppedError, match="the producer is closed"):
            append_all(front, producer, [2])
        with pytest.raises(ProducerStoppedError, match="the producer is closed"):
            front.run(producer.flush())

    def test_a_stream_that_is_not_there_is_created(self, front: Front, url: str, path: Path) -> None:
        producer = producer_on(front, url, path)
        front.produce(producer, [{"a": 1}, '{"a": 2}', None])
        front.run(producer.close())
        with DurableStream.connect(url) as handle:
            assert content(handle) == [{"a": 1}, {"a": 2}, None]

    def test_messages_that_wait_travel_together(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        gate = wire.hold()
        client = front.client(wire.transport)
        producer = producer_on(front, handle.url, path, client=client)
        append_all(front, producer, range(300))
        gate.release()
        front.run(producer.flush())
        front.run(producer.close())
        front.close(client)
        assert len(wire.bodies) <= 4
        assert content(handle) == list(range(300))

    def test_no_request_exceeds_the_size(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        client = front.client(wire.transport)
        producer = producer_on(front, handle.url, path, client=client, max_batch_bytes=500)
        with pytest.raises(MessageError, match="larger than max_batch_bytes=500"):
            append_all(front, producer, [f'"{"x" * 500}"'])
        front.produce(producer, [str(number) for number in range(500)])
        front.run(producer.close())
        front.close(client)
        assert max(map(len, wire.bodies)) <= 500
        assert content(handle) == list(range(500))

    def test_the_callers_client_makes_every_request_and_stays_open(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        client = front.client(wire.transport)
        tokens = iter(range(100))
        headers = {"Authorization": lambda: f"Bearer {next(tokens)}"}
        producer = producer_on(front, handle.url, path, client=client, headers=headers, params={"tenant": "a"})
        front.produce(producer, [1])
        front.run(producer.close())
        assert not client.is_closed
        front.close(client)
        assert wire.methods == ["PUT", "HEAD", "POST", "POST"]
        assert [request.headers["authorization"] for request in wire.requests[1:]] == [
            f"Bearer {number}" for number in range(3)
        ]
        assert {request.query for request in wire.requests[1:]} == {"tenant=a"}

    def test_one_message_that_is_no_json_is_refused_alone(
        self, front: Front, handle: DurableStream, path: Path
    ) -> None:
        producer = producer_on(front, handle.url, path)
        append_all(front, producer, [1])
        with pytest.raises(MessageError):
            append_all(front, producer, ["not JSON"])
        front.produce(producer, [2])
        front.run(producer.close())
        assert content(handle) == [1, 2]

    def test_a_message_is_on_the_disk_before_the_server_has_it(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path, tmp_path: Path
    ) -> None:
        client = front.client(Refusing(wire.transport, "HEAD", [True] * 100))
        producer = producer_on(front, handle.url, path, client=client)
        (acknowledgement,) = append_all(front, producer, ['"kept"'])
        assert not acknowledgement.settled
        assert producer.pending_count == 1
        # What another process would find, were this one killed now.
        for name in ("outbox.db", "outbox.db-wal"):
            shutil.copy(path.with_name(name), tmp_path / f"copy-{name}")
        front.run(producer.close())
        front.close(client)
        following = producer_on(front, handle.url, tmp_path / "copy-outbox.db")
        front.run(following.flush())
        front.run(following.close())
        assert content(handle) == ["kept"]

    def test_a_full_store_makes_its_callers_wait_or_raises(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        gate = wire.hold()
        client = front.client(wire.transport)
        producer = producer_on(front, handle.url, path, client=client, max_bytes=4096)
        with pytest.raises(ProducerFullError):
            append_all(front, producer, [f'"{"x" * 1000}"'] * 5, at_once=True)
        gate.release()
        append_all(front, producer, [f'"{"y" * 1000}"'] * 10)  # waits for room
        front.run(producer.flush())
        front.run(producer.close())
        front.close(client)
        assert [message[0] for message in content(handle)][-10:] == ["y"] * 10

    def test_after_the_end_nothing_is_taken(self, front: Front, handle: DurableStream, path: Path) -> None:
        producer = producer_on(front, handle.url, path)
        append_all(front, producer, [1])
        result = front.run(producer.close_stream({"last": True}))
        assert result.final_offset == handle.head().offset
        assert handle.head().stream_closed
        with pytest.raises(StreamClosedError, match="the stream is closed"):
            append_all(front, producer, [2])
        front.run(producer.close())
        with pytest.raises(StreamClosedError, match="the stream is closed"):
            append_all(front, producer, [2])
        assert content(handle) == [1, {"last": True}]


class TestRestarting:
    def test_closing_leaves_the_rest_for_the_next_one(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        down = wire.inject(Status(503), times=None)
        producer = producer_on(front, handle.url, path)
        (acknowledgement,) = append_all(front, producer, [1])
        append_all(front, producer, [2, 3])
        front.run(producer.close())
        down.remove()
        assert producer.pending_count == 3
        with pytest.raises(ProducerStoppedError, match="the message is in its store"):
            outcome(front, acknowledgement)
        assert content(handle) == []
        for _ in range(3):
            following = producer_on(front, handle.url, path)
            front.run(following.flush())
            front.run(following.close())
        assert content(handle) == [1, 2, 3]

    def test_order_and_count_survive_many_restarts_and_lost_answers(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        """All messages are the same: only their number tells whether one was lost or doubled."""
        expected: list[Any] = []
        for round_number in range(8):
            faults = [None, DropAfter(), Status(500, after=True), None, DropBefore()][round_number % 6 :]
            plan = wire.inject(*faults, None)
            client = front.client(Refusing(wire.transport, "POST", [*(False for _ in faults), True]))
            producer = producer_on(front, handle.url, path, client=client)
            append_all(front, producer, ['"same"'] * 3)
            expected += ["same"] * 3
            if round_number % 2:
                front.run(producer.flush())
            front.run(producer.close())
            front.close(client)
            plan.remove()
        last = producer_on(front, handle.url, path)
        front.run(last.flush())
        front.run(last.close())
        assert content(handle) == expected

    @pytest.mark.parametrize("id_member", [None, "id"])
    def test_a_batch_whose_answer_was_lost_is_found_by_the_next_process(
        self, front: Front, handle: DurableStream, wire: Wire, path: Path, id_member: str | None
    ) -> None:
        wire.inject(None, DropAfter())
        down = wire.inject(None, *[Status(503)] * 99, method="HEAD")
        client = front.client(wire.transport)
        producer = producer_on(front, handle.url, path, client=client, id_member=id_member)
        append_all(front, producer, [{"n": 1.0, "big": 2**60 + 1, "s": "é"}])
        wait(front, lambda: wire.count("POST") == 2)
        front.run(producer.close())
        front.close(client)
        down.remove()
        with httpx.Client(transport=wire.transport) as other:
            other.post(handle.url, headers={"content-type": JSON}, content='["theirs"]')
        earlier = len(wire.requests)
        client = front.client(wire.transport)
        following = producer_on(front, handle.url, path, client=client, id_member=id_member)
        front.run(following.flush())
        front.run(following.close())
        front.close(client)
        assert wire.methods[earlier:] == ["POST", "HEAD", "GET"]  # probe, look, read
        assert [message if isinstance(message, str) else message["n"] for message in content(handle)] == [
            1,
            "theirs",
        ]

    def test_the_same_values_of_another_writer_are_not_ours_with_ids(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer, wire: Wire, path: Path
    ) -> None:
        wire.inject(None, DropBefore())
        down = wire.inject(None, *[Status(503)] * 99, method="HEAD")
        client = front.client(wire.transport)
        producer = producer_on(front, handle.url, path, client=client, id_member="id")
        append_all(front, producer, [{"n": 1}])
        wait(front, lambda: wire.count("POST") == 2)
        front.run(producer.close())
        front.close(client)
        down.remove()
        with httpx.Client(transport=server.transport()) as other:
            other.post(handle.url, headers={"content-type": JSON}, content='[{"n": 1}, {"n": 1, "id": "a.1"}]')
        following = producer_on(front, handle.url, path, id_member="id")
        front.run(following.flush())
        front.run(following.close())
        assert [message["n"] for message in content(handle)] == [1, 1, 1]

    def test_a_copy_of_the_store_is_noticed(self, front: Front, handle: DurableStream, path: Path) -> None:
        producer = producer_on(front, handle.url, path)
        front.produce(producer, [1])
        front.run(producer.close())
        copy = path.with_name("copy.db")
        shutil.copy(path, copy)
        producer = producer_on(front, handle.url, path)
        front.produce(producer, [2])
        front.run(producer.close())
        cloned = producer_on(front, handle.url, copy)
        with pytest.raises(DurableStreamError, match="old copy"):
            flush_one(front, cloned)
        close_quietly(front, cloned)
        assert content(handle) == [1, 2]

    def test_another_producer_id_is_refused(self, front: Front, handle: DurableStream, path: Path) -> None:
        front.run(producer_on(front, handle.url, path).close())
        producer = producer_on(front, handle.url, path)
        append_all(front, producer, [1])
        front.run(producer.close())
        other = producer_on(front, handle.url, path, producer_id="q")
        with pytest.raises(ProducerStoreError, match="the store of producer 'p', not of 'q'"):
            append_all(front, other, [2])
        close_quietly(front, other)


def wait(front: Front, predicate: Callable[[], object]) -> None:
    """Wait for something that happens while the front's loop runs."""

    async def turn() -> None:
        await anyio.sleep(0.005)  # the poll of the condition, not a guess at its time

    def polled() -> object:
        if isinstance(front, AsyncFront):
            front.run(turn())
        return predicate()

    wait_until(polled, what="the condition holds")


def flush_one(front: Front, producer: Any) -> None:
    """Append something and flush."""
    append_all(front, producer, ['"copied"'])
    front.run(producer.flush())


def close_quietly(front: Front, producer: Any) -> None:
    """Close a producer that stopped."""
    with pytest.raises(ProducerError):
        front.run(producer.close())


class TestStopping:
    def test_a_server_that_forgot_the_stream_stops_it_and_the_store_can_begin_again(
        self, front: Front, path: Path
    ) -> None:
        with InMemoryStreamServer() as forgetful:
            url = forgetful.url("/s")
            client = front.client(forgetful.transport())
            producer = producer_on(front, url, path, client=client)
            front.produce(producer, [1])
            front.run(producer.close())
            front.close(client)
        with InMemoryStreamServer() as reborn:
            client = front.client(reborn.transport())
            producer = producer_on(front, url, path, client=client)
            (acknowledgement,) = append_all(front, producer, [2])
            with pytest.raises(StreamNotFoundError):
                outcome(front, acknowledgement)
            with pytest.raises(StreamNotFoundError):
                front.run(producer.flush())
            append_all(front, producer, [3])  # still taken: the store keeps it
            with pytest.raises(ProducerStoppedError):
                front.run(producer.close())
            SqliteProducerStore(path).begin_again()
            producer = producer_on(front, url, path, client=client)
            front.run(producer.flush())
            assert producer.epoch == 1
            front.run(producer.close())
            front.close(client)
            with DurableStream(reborn.url("/s")) as handle:
                assert content(handle) == [2, 3]

    def test_a_higher_epoch_stops_it_and_it_never_claims_back(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer, path: Path
    ) -> None:
        told: list[DurableStreamError] = []
        producer = producer_on(front, handle.url, path, on_error=told.append)
        front.produce(producer, [1])
        write_as(server, handle.url, epoch=3)
        (acknowledgement,) = append_all(front, producer, [2])
        with pytest.raises(StaleEpochError) as raised:
            outcome(front, acknowledgement)
        assert acknowledgement.settled
        assert raised.value.__notes__ == ["What is not confirmed is kept in the store."]
        front.run(producer.restart())
        with pytest.raises(StaleEpochError):
            front.run(producer.flush())
        with pytest.raises(ProducerStoppedError):
            front.run(producer.close())
        assert [type(error) for error in told] == [StaleEpochError, StaleEpochError]
        assert producer.pending_count == 1
        SqliteProducerStore(path).begin_again(epoch=4)
        following = producer_on(front, handle.url, path)
        front.run(following.flush())
        front.run(following.close())
        assert content(handle) == [1, "theirs", 2]

    def test_a_restart_goes_on_once_the_cause_is_gone(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer, path: Path
    ) -> None:
        secret: dict[str, str] = {}
        producer = producer_on(front, handle.url, path, headers={"authorization": lambda: secret["token"]})
        (acknowledgement,) = append_all(front, producer, [1])
        with pytest.raises(ProducerError, match="token"):
            outcome(front, acknowledgement)
        secret["token"] = "Bearer x"
        front.run(producer.restart())
        (again,) = append_all(front, producer, [2])
        assert outcome(front, again).offset == handle.head().offset
        front.run(producer.close())
        assert content(handle) == [1, 2]

    def test_a_stream_of_another_kind_is_named(self, front: Front, url: str, path: Path) -> None:
        with DurableStream.create(url, content_type="text/plain"):
            producer = producer_on(front, url, path)
            (acknowledgement,) = append_all(front, producer, [1])
            with pytest.raises(ContentTypeMismatchError, match="text/plain, not application/json"):
                outcome(front, acknowledgement)
            close_quietly(front, producer)

    def test_another_kind_cannot_be_asked_for(self, front: Front, url: str, path: Path) -> None:
        with pytest.raises(ValueError, match="takes application/json streams only, not text/plain"):
            producer_on(front, url, path, content_type="text/plain")

    def test_a_second_producer_on_the_same_store_does_no_harm(
        self, front: Front, handle: DurableStream, path: Path
    ) -> None:
        store = SqliteProducerStore(path)
        producer = front.producer(handle.url, "p", store=store)
        append_all(front, producer, [1])
        second = front.producer(handle.url, "p", store=store)
        with pytest.raises(ProducerStoreError, match="has a producer already"):
            append_all(front, second, [2])
        front.run(second.close())
        front.produce(producer, [3])
        front.run(producer.close())
        assert content(handle) == [1, 3]

    def test_a_store_that_broke_is_opened_again_by_a_restart(
        self, front: Front, handle: DurableStream, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        producer = producer_on(front, handle.url, path)
        front.produce(producer, [1])
        monkeypatch.setattr(store_writer.StoreWriter, "_commit", _fails)
        with pytest.raises(ProducerStoreError, match="the disk is gone"):
            append_all(front, producer, [2])
        monkeypatch.undo()
        with pytest.raises(ProducerStoreError, match="the disk is gone"):
            append_all(front, producer, [3])
        front.run(producer.restart())
        front.produce(producer, [4])
        front.run(producer.close())
        assert content(handle) == [1, 4]


def _fails(*_: object) -> None:
    raise ProducerStoreError("the disk is gone")


class TestTheSyncFront:
    def test_an_acknowledgement_is_waited_for_as_long_as_asked(
        self, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        gate = wire.hold()
        front = SyncFront()
        client = front.client(wire.transport)
        producer = producer_on(front, handle.url, path, client=client)
        acknowledgement = producer.append(1)
        with pytest.raises(TimeoutError, match=r"no confirmation within 0\.01 s"):
            acknowledgement.result(0.01)
        gate.release()
        assert acknowledgement.result(20).offset is not None
        producer.close()
        client.close()

    def test_as_a_context_it_opens_and_closes_the_store(self, handle: DurableStream, path: Path) -> None:
        with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as producer:
            producer.append(1)
            producer.flush()
        other = SyncIdempotentProducer(handle.url, "q", store=SqliteProducerStore(path))
        with pytest.raises(ProducerStoreError, match="not of 'q'"), other:
            pass
        assert content(handle) == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestTheAsyncFront:
    def test_it_works_on_both_loops(self, backend: str, handle: DurableStream, path: Path) -> None:
        async def main() -> None:
            for first in (0, 10):
                async with IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as producer:
                    acknowledgements = [await producer.append(first + number) for number in range(10)]
                    for acknowledgement in acknowledgements:
                        assert (await acknowledgement).offset is not None
                        assert acknowledgement.settled
                    await producer.flush()
                    assert producer.pending_count == 0

        anyio.run(main, backend=backend)
        assert content(handle) == list(range(20))

    def test_what_nobody_awaits_is_stored_before_it_closes(
        self, backend: str, handle: DurableStream, server: InMemoryStreamServer, path: Path
    ) -> None:
        async def main() -> None:
            async with IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as producer:
                for number in range(1000):
                    producer.append(number)
            async with IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as producer:
                await producer.flush()

        anyio.run(main, backend=backend)
        assert content(handle) == list(range(1000))

    def test_giving_up_an_append_takes_it_all_the_same(
        self, backend: str, handle: DurableStream, path: Path
    ) -> None:
        async def main() -> None:
            async with IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as producer:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await producer.append(1)
                await producer.append(2)
                await producer.flush()

        anyio.run(main, backend=backend)
        assert content(handle) == [1, 2]

    def test_an_append_that_failed_unseen_is_told_once_to_everybody_else(
        self, backend: str, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        wire.inject(Hold(), method=None, times=None)
        told: list[DurableStreamError] = []

        async def main() -> None:
            store = SqliteProducerStore(path, max_bytes=4096)
            async with httpx.AsyncClient(transport=wire.transport) as client:
                producer = IdempotentProducer(handle.url, "p", store=store, client=client, on_error=told.append)
                await producer.append(1)
                for _ in range(100):
                    producer.append(f'"{"x" * 100}"')
                with pytest.raises(ProducerFullError, match=r"closed before .* had room"):
                    await producer.close()
                await producer.close()

        anyio.run(main, backend=backend)
        assert told
        assert all(isinstance(error, ProducerFullError) and error.records for error in told)

    def test_it_stops_at_once_whatever_the_server_does(
        self, backend: str, handle: DurableStream, wire: Wire, path: Path
    ) -> None:
        wire.inject(Hold(), method=None, times=None)

        async def main() -> None:
            async with httpx.AsyncClient(transport=wire.transport) as client:
                producer = IdempotentProducer(handle.url, "p", store=SqliteProducerStore(path), client=client)
                await producer.append(1)
                await producer.close()

        anyio.run(main, backend=backend)


def test_an_append_needs_a_running_loop(url: str, path: Path) -> None:
    producer = IdempotentProducer(url, "p", store=SqliteProducerStore(path))
    with pytest.raises(RuntimeError):
        producer.append(1)
    assert not path.exists()
    asyncio.run(producer.close())


class TestAStoreThatIsFull:
    def test_makes_nobody_wait_for_a_producer_that_stopped(
        self, front: Front, handle: DurableStream, server: InMemoryStreamServer, path: Path
    ) -> None:
        producer = producer_on(front, handle.url, path, max_bytes=4096)
        front.produce(producer, [1])
        write_as(server, handle.url, epoch=3)
        with pytest.raises(ProducerFullError, match=r"the producer has stopped|holds"):
            append_all(front, producer, [f'"{"x" * 1000}"'] * 10)
        with pytest.raises(StaleEpochError):
            front.run(producer.flush())
        stored = producer.pending_count
        close_quietly(front, producer)
        again = SqliteProducerStore(path, max_bytes=4096)
        again.begin_again(epoch=4)
        with SyncIdempotentProducer(handle.url, "p", store=again) as next_one:
            next_one.flush()
        assert content(handle)[2:] == ["x" * 1000] * stored

    def test_on_a_full_disk_does_not_keep_the_producer_from_closing(
        self, front: Front, handle: DurableStream, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = threading.Event()

        def resolve(_: StoreRows, batch: SealedBatch, offset: str) -> None:
            full.set()
            raise ProducerFullError(f"no space left for {path} (batch {batch.seq}, {offset})")

        producer = producer_on(front, handle.url, path)
        with monkeypatch.context() as patched:
            patched.setattr(StoreRows, "resolve", resolve)
            append_all(front, producer, [1])
            wait(front, full.is_set)
            front.run(producer.close())
        with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path)) as next_one:
            next_one.flush()
        assert content(handle) == [1]


def test_a_message_of_a_copy_is_never_taken_for_one_of_ours_with_the_same_id(
    front: Front, handle: DurableStream, wire: Wire, path: Path
) -> None:
    producer = producer_on(front, handle.url, path, id_member="id")
    front.produce(producer, [{"v": "both have it"}])
    front.run(producer.close())
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    lost = wire.inject(None, DropBefore())
    down = wire.inject(Status(503), method="HEAD", times=None)
    client = front.client(wire.transport)
    cloned = producer_on(front, handle.url, copy, id_member="id", client=client)
    (acknowledgement,) = append_all(front, cloned, [{"v": "of the copy"}])
    wait(front, lambda: lost.left == 0)
    with SyncIdempotentProducer(handle.url, "p", store=SqliteProducerStore(path, id_member="id")) as original:
        original.append({"v": "of the original"}).result(20)
    down.remove()
    with pytest.raises(ProducerError):
        outcome(front, acknowledgement)
    close_quietly(front, cloned)
    front.close(client)
    assert [message["v"] for message in content(handle)] == ["both have it", "of the original"]


def test_a_confirmation_that_nobody_could_read_has_no_offset(
    front: Front, handle: DurableStream, wire: Wire, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Anybody on the way can refuse a read: it counts after a minute, which nobody waits for here.
    monkeypatch.setattr(_pull_steps, "REFUSED_SECONDS", 0.0)
    wire.inject(None, DropAfter())
    unreadable = wire.inject(Status(403), method="GET", times=9)
    client = front.client(wire.transport)
    producer = producer_on(front, handle.url, path, client=client)
    (acknowledgement,) = append_all(front, producer, [1])
    assert outcome(front, acknowledgement).offset is None
    front.run(producer.close())
    front.close(client)
    unreadable.remove()
    assert content(handle) == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_entering_says_why_the_store_cannot_be_opened(url: str, path: Path, backend: str) -> None:
    path.write_bytes(b"not a database, and longer than a header of one" * 20)

    async def enter() -> None:
        async with IdempotentProducer(url, "p", store=SqliteProducerStore(path)):
            raise AssertionError("entered")

    with pytest.raises(ProducerStoreError, match="no SQLite database"):
        anyio.run(enter, backend=backend)
    with pytest.raises(ProducerStoreError, match="no SQLite database"):
        with SyncIdempotentProducer(url, "p", store=SqliteProducerStore(path)):
            raise AssertionError("entered")
