"""Another client for this protocol has these 22 defects; each test fails on a client that has the one it names.

Everything goes through the public API, over both fronts where both could have the defect. What took long there is
counted here: requests, contexts, chunks, bytes looked at.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import pytest

from durable_streams import (
    AsyncDurableStream,
    ContentTypeMismatchError,
    DurableStream,
    DurableStreamError,
    FetchError,
    IdempotentProducer,
    MessageError,
    ProducerFullError,
    SequenceGapError,
    StaleEpochError,
    StreamClosedError,
    StreamNotFoundError,
    _sse,
    errors,
    stream,
)
from durable_streams.testing import DropAfter, DropBefore, Hold, Status
from harness.client_rig import DEADLINE_SECONDS, JSON, Body, Held, Rig, ShortLived, is_waiting, note_clients
from harness.stream_client import Front, Wire, hook_of, params_of
from harness.waiting import wait_until
from harness.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durable_streams.testing import Fault, InMemoryStreamServer

BINARY: Final = "application/octet-stream"
PAGE: Final = {"content-type": JSON, "stream-next-offset": "1", "stream-up-to-date": "true"}
LIVE: Final = (True, "sse", "long-poll")


@pytest.fixture
def rig(front: Front, server: InMemoryStreamServer, url: str) -> Iterator[Rig]:
    with Rig(front, server, url) as made:
        yield made


class TestProducers:
    @pytest.mark.parametrize("fault", [Status(503), DropBefore()])
    def test_01_one_failed_request_costs_no_batch_and_flush_returns(self, rig: Rig, fault: Fault) -> None:
        """It lost this batch and, for the gap in the numbers, all later ones; flush hung after 17 of them."""
        rig.wire.inject(None, fault)
        producer = rig.producer(rig.wire.transport, max_batch_bytes=50)
        acknowledgements = rig.take(producer, range(500))
        rig.finish(producer.flush)
        assert not any(rig.settle(each).duplicate for each in acknowledgements)
        rig.finish(producer.close)
        assert rig.wire.count("POST") > 2 * 17
        assert rig.content() == list(range(500))

    @pytest.mark.parametrize("fault", [DropAfter(), Status(500, after=True)])
    def test_02_an_append_that_was_stored_is_not_reported_as_failed(self, rig: Rig, fault: Fault) -> None:
        told: list[DurableStreamError] = []
        rig.wire.inject(None, fault)
        producer = rig.producer(rig.wire.transport, on_error=told.append)
        results = [rig.front.produce(producer, [number])[0] for number in range(3)]
        assert [result.duplicate for result in results] == [False, True, False]
        rig.finish(producer.close)
        assert told == []
        assert rig.content() == [0, 1, 2]

    def test_03_a_restart_in_an_epoch_that_was_used_loses_nothing(self, rig: Rig) -> None:
        """Each batch was answered as a duplicate until the old run's number was passed, and taken for stored."""
        for begin, end in ((0, 100), (100, 110)):  # the second run stays below the numbers of the first
            producer = rig.producer(epoch=0, auto_claim=True, max_batch_bytes=20)
            assert not any(result.duplicate for result in rig.front.produce(producer, range(begin, end)))
            rig.finish(producer.close)
        assert rig.content() == list(range(110))

    def test_04_all_batches_that_flew_when_the_epoch_was_taken_go_again_in_order(self, rig: Rig) -> None:
        """Of five in flight it lost three, and flush returned as if nothing had happened."""
        in_flight: list[int] = []

        def fence_once_five_fly() -> bool:
            if not in_flight and len(wire.bodies) == 5:
                in_flight.append(producer.in_flight_count)
                headers = {"producer-id": "p", "producer-epoch": "7", "producer-seq": "0", "content-type": JSON}
                with httpx.Client(transport=rig.server.transport()) as other:
                    assert other.post(rig.url, headers=headers, content='["theirs"]').status_code == 200
            return bool(in_flight)

        wire = Held(rig.server.transport(), lambda: True)
        producer = rig.producer(wire, auto_claim=True, max_batch_bytes=8, max_in_flight=5)
        rig.front.produce(producer, [100])
        wire.bodies.clear()
        wire.may_pass = fence_once_five_fly
        acknowledgements = rig.take(producer, range(101, 106))
        rig.finish(producer.flush)
        assert in_flight == [5]
        assert not any(rig.settle(each).duplicate for each in acknowledgements)
        rig.finish(producer.close)
        assert rig.content() == [100, "theirs", 101, 102, 103, 104, 105]

    @pytest.mark.parametrize("before", [[], [0]], ids=["at-once", "meanwhile"])
    def test_05_a_stream_that_somebody_else_closed_is_an_error_and_no_hang(
        self, rig: Rig, before: list[int]
    ) -> None:
        producer = rig.producer(max_batch_bytes=8)
        rig.front.produce(producer, before)
        rig.stream.close_stream()
        first, *others = rig.take(producer, range(100, 150))
        for call in (partial(rig.settle, first), partial(rig.finish, producer.flush)):
            with pytest.raises(StreamClosedError):
                call()
        for each in others:
            with pytest.raises(DurableStreamError):
                raise each if isinstance(each, Exception) else rig.settle(each)
        with pytest.raises(StreamClosedError):
            rig.finish(producer.close)
        assert rig.content() == before

    def test_06_one_message_that_is_no_json_costs_itself_only(self, rig: Rig) -> None:
        """It cost the batch that it was in, and the producer."""
        producer = rig.producer(linger_ms=600_000)
        one, bad, two = rig.take(producer, [1, '{"no json', 2])
        assert isinstance(bad, MessageError)
        rig.finish(producer.flush)
        assert rig.settle(one) == rig.settle(two), "they travel together"
        (three,) = rig.take(producer, [3])
        rig.finish(producer.close)
        assert not rig.settle(three).duplicate
        assert rig.content() == [1, 2, 3]

    def test_07_a_producer_holds_only_so_much_and_sends_only_so_much_at_once(self, rig: Rig) -> None:
        """In an outage it took everything, and sent it, 66 MB, in one request."""
        message, room = b'"%s"' % (b"x" * 65533), 8 * 1024 * 1024
        pending: list[int] = []

        def buffer_was_full() -> bool:
            pending.append(producer.pending_count * (len(message) + 1))
            return max(pending) > room - len(message)

        wire = Held(rig.server.transport(), buffer_was_full)
        producer = rig.producer(wire)
        outcomes = rig.front.produce(producer, [message] * 256)
        assert not [each for each in outcomes if isinstance(each, Exception)]
        assert max(pending) <= room + len(message) + 1
        impatient: list[Any] = []
        wire.may_pass = lambda: impatient
        impatient += rig.take(producer, [message] * 256)
        rig.finish(producer.close)
        refused = [each for each in impatient if isinstance(each, ProducerFullError)]
        assert (256 - len(refused)) * len(message) <= room
        assert max(map(len, wire.bodies)) <= 1024 * 1024, "the default of max_batch_bytes"

    def test_08_messages_linger_also_while_requests_come_back(self, rig: Rig) -> None:
        """A batch went out whenever a request came back: seven messages in each."""
        producer = rig.producer(rig.wire.transport, linger_ms=600_000, max_batch_bytes=501)
        acknowledgements: list[Any] = []
        for begin in range(1000, 2000, 50):
            acknowledgements += rig.take(producer, range(begin, begin + 50))
            full_batches = (len(acknowledgements) - 1) // 100
            if full_batches:  # the answer to the last full one comes back while 50 or 100 messages wait
                rig.settle(acknowledgements[full_batches * 100 - 1])
        rig.finish(producer.close)
        assert rig.wire.count("POST") == 10
        assert rig.content() == list(range(1000, 2000))

    def test_09_close_says_what_went_wrong_the_callback_with_what_and_the_client_is_closed(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clients = note_clients(monkeypatch)
        told: list[DurableStreamError] = []
        producer = rig.producer(url_or_stream=f"{rig.url}-missing", on_error=told.append)
        rig.take(producer, [{"n": 1}, [2]])
        with pytest.raises(StreamNotFoundError):
            rig.finish(producer.close)
        assert [error.records for error in told] == [(b'{"n":1}', b"[2]")]
        assert clients
        assert all(client.is_closed for client in clients)

    def test_09_each_message_has_its_acknowledgement_and_each_request_its_credentials(self, rig: Rig) -> None:
        producer = rig.producer(rig.wire.transport, max_batch_bytes=8, headers={"Authorization": "Bearer t"})
        offsets = [rig.settle(each).offset for each in rig.take(producer, [100, 101])]
        rig.finish(producer.close)
        _, *sent = rig.wire.requests  # the first one made the stream
        with stream(rig.url, live=False, offset=offsets[0]) as response:
            assert response.read_json() == [101]
        assert offsets[1] == rig.stream.head().offset
        assert [request.headers["authorization"] for request in sent] == ["Bearer t"] * 2

    def test_09_a_producer_that_needs_a_loop_says_so_before_it_takes_the_message(self, url: str) -> None:
        async def use_it() -> None:
            async with await AsyncDurableStream.create(url, content_type=JSON):
                producer.append("2")
                await producer.close()

        producer = IdempotentProducer(url, "p", content_type=JSON)
        with pytest.raises(RuntimeError):
            producer.append("1")
        assert producer.pending_count == 0
        anyio.run(use_it)
        with stream(url, live=False) as response:
            assert response.read_json() == [2]

    def test_10_a_producer_takes_the_streams_content_type_and_calls_the_wrong_one_by_its_name(
        self, rig: Rig
    ) -> None:
        """It took bytes for granted, and a JSON stream's refusal of them for a gap in the numbers."""
        producer = rig.producer(content_type=None)
        rig.front.produce(producer, [{"a": 1}])
        rig.finish(producer.close)
        mistaken = rig.producer(producer_id="q", content_type=BINARY)
        rig.take(mistaken, [b"x"])
        with pytest.raises(ContentTypeMismatchError, match=BINARY):
            rig.finish(mistaken.close)
        assert rig.content() == [{"a": 1}]


class TestHandles:
    @pytest.mark.parametrize("fault", [DropBefore(), Status(404)])
    def test_11_the_failure_of_one_append_leaves_no_thread_behind_it_waiting(
        self, url: str, wire: Wire, fault: Fault
    ) -> None:
        gate = wire.inject((Hold(), fault))
        outcomes: dict[int, Any] = {}

        def append(number: int) -> None:
            try:
                outcomes[number] = handle.append(number)
            except DurableStreamError as error:
                outcomes[number] = error

        with httpx.Client(transport=wire.transport) as client:
            handle = DurableStream.create(url, content_type=JSON, client=client)
            threads = [threading.Thread(target=append, args=(number,), daemon=True) for number in range(4)]
            for thread in threads:
                thread.start()
                wait_until(partial(is_waiting, thread), what="the append waits for its answer, or for its turn")
            gate.release()
            for thread in threads:
                thread.join(DEADLINE_SECONDS)
                assert not thread.is_alive()
        assert [number for number, each in sorted(outcomes.items()) if isinstance(each, Exception)] == [0]
        with stream(url, live=False) as response:
            assert sorted(response.read_json()) == [1, 2, 3]

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
    @pytest.mark.parametrize("cancelled", [0, 1], ids=["under-way", "waiting"])
    async def test_11_a_cancelled_append_lets_all_later_ones_go_on(
        self, url: str, wire: Wire, cancelled: int
    ) -> None:
        gate = wire.hold()
        scopes = [anyio.CancelScope() for _ in range(4)]
        stored: list[int] = []

        async def append(number: int) -> None:
            with scopes[number]:
                await handle.append(number)
                stored.append(number)

        async with httpx.AsyncClient(transport=wire.transport) as client:
            handle = await AsyncDurableStream.create(url, content_type=JSON, client=client)
            with anyio.fail_after(DEADLINE_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for number in range(4):
                        tasks.start_soon(append, number)
                        await anyio.wait_all_tasks_blocked()
                    scopes[cancelled].cancel()
                    await anyio.wait_all_tasks_blocked()
                    gate.release()
                await handle.append(4)
            async with handle.stream(live=False) as response:
                found = await response.read_json()
        others = [number for number in range(4) if number != cancelled]
        assert sorted(stored) == others
        assert [number for number in found if number != cancelled] == [*others, 4]

    @pytest.mark.parametrize("batching", [True, False], ids=["batching", "single"])
    def test_12_a_handle_that_was_told_nothing_stores_any_json_value_as_it_is(
        self, rig: Rig, *, batching: bool
    ) -> None:
        """It refused a dict, stored text as text of text when not batching, and without a type got a 400."""
        handle = rig.handle(batching=batching)
        for value in ({"a": 1}, '{"b":2}', [3], b"4", None):
            rig.front.run(handle.append(value))
        rig.front.run(handle.close())
        assert rig.content() == [{"a": 1}, {"b": 2}, [3], 4, None]


class TestReads:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_13_failures_are_tried_again_later_and_as_late_as_the_server_asks(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        slept: list[float] = []

        async def note(seconds: float) -> None:
            slept.append(seconds)

        wire = rig.wire
        late = [Status(status, retry_after=1234) for status in (429, 503)]
        answer = Status(200, headers=PAGE, body=b"[1]")
        wire.inject(Status(500), DropBefore(), *late, answer, method=method)
        with monkeypatch.context() as without_waiting:
            without_waiting.setattr(time, "sleep", slept.append)
            without_waiting.setattr(anyio, "sleep", note)
            if method == "HEAD":
                assert rig.front.run(rig.handle(wire.transport).head()).offset == "1"
            else:
                with rig.read(wire.transport, live=False) as response:
                    assert rig.front.run(response.read_json()) == [1]
        assert wire.count(method) == 5
        assert [seconds > 1000 for seconds in slept] == [False, False, True, True]
        assert min(slept) > 0

    @pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
    def test_13_no_error_comes_out_as_the_http_librarys_own(
        self, rig: Rig, error: Callable[[str], Exception]
    ) -> None:
        def fail(_: httpx.Request) -> httpx.Response:
            raise error("down")

        wire = httpx.MockTransport(fail)
        handle = rig.handle(wire, content_type=JSON)
        for operation in (handle.head, partial(handle.append, 1), handle.delete):
            with pytest.raises(FetchError):
                rig.front.run(operation())
        with pytest.raises(FetchError), rig.read(wire):
            pass

    def test_13_all_errors_are_of_one_family(self) -> None:
        found = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
        assert found >= {FetchError, StaleEpochError, SequenceGapError}
        assert all(issubclass(each, DurableStreamError) for each in found)

    @pytest.mark.parametrize("live", [True, "sse"])
    def test_14_a_live_read_has_events_and_goes_on_when_their_connection_ends(
        self, rig: Rig, *, live: bool | str
    ) -> None:
        wire = ShortLived(rig.server.transport())
        rig.stream.append(0)
        with rig.read(wire, live=live) as response:
            items = response.iter_json()
            assert rig.front.take(items, 1) == [0]
            for number in (1, 2, 3):
                rig.stream.append(number)
                assert rig.front.take(items, 1) == [number]
            rig.stream.close_stream()
            assert rig.front.take(items, 1) == []
            assert response.stream_closed
        assert wire.asked == [None] * (live is True) + ["sse"] * 3

    @pytest.mark.parametrize("live", LIVE)
    def test_14_events_go_on_behind_the_one_that_is_up_to_date(self, rig: Rig, *, live: bool | str) -> None:
        rig.stream.append(0)
        with rig.read(live=live) as response:
            events = response.iter_events("json")
            for number in (0, 1, 2):
                data: list[Any] = []
                while not data:  # some have none
                    (event,) = rig.front.take(events, 1)
                    data = event.data
                assert (data, event.up_to_date) == ([number], True)
                rig.stream.append(number + 1)

    @pytest.mark.parametrize("live", [True, "sse"])
    def test_15_bytes_come_through_events_as_they_are(self, rig: Rig, *, live: bool | str) -> None:
        """It took them for text."""
        every_byte = bytes(range(256)) * 300
        with DurableStream.create(f"{rig.url}-binary", content_type=BINARY) as binary:
            with rig.read(rig.wire.transport, url=binary.url, live=live) as response:
                binary.append(every_byte)
                binary.close_stream()
                assert b"".join(rig.front.take(response.iter_bytes(), 999)) == every_byte
        with Wire(rig.server, binary.url) as wire:
            reads = [request for request in wire.requests if request.method == "GET"]
        assert params_of(reads[-1]).get("live") == "sse"

    @pytest.mark.parametrize("live", LIVE)
    def test_16_to_tail_a_closed_stream_takes_one_request_and_ends(self, rig: Rig, *, live: bool | str) -> None:
        """It asked again and again, 700 times a second, and never ended."""
        end = rig.stream.append(1).next_offset
        rig.stream.close_stream()
        for offset, expected in (("-1", [1]), (end, []), ("now", [])):
            plan = rig.wire.inject(None, Status(410), method="GET")  # the second answer ends a loop
            with rig.read(rig.wire.transport, live=live, offset=offset) as response:
                assert rig.front.take(response.iter_json(), 9) == expected
                assert response.stream_closed
            assert plan.left == 1, "it asked once"
            plan.remove()

    def test_17_what_reads_everything_follows_every_page(self, rig: Rig) -> None:
        messages = [str(number) * 700_000 for number in range(3)]
        for message in messages:
            rig.stream.append(json.dumps(message))
        pages = "".join(f'["{message}"]' for message in messages)
        expected = {"read_json": messages, "read_text": pages, "read_bytes": pages.encode()}
        for method, whole in expected.items():
            earlier = rig.wire.count("GET")
            with rig.read(rig.wire.transport, live=False) as response:
                assert rig.front.run(getattr(response, method)()) == whole
            assert rig.wire.count("GET") == earlier + 3

    @pytest.mark.parametrize("live", [False, *LIVE])
    def test_18_an_offset_saved_behind_any_item_skips_nothing(self, rig: Rig, *, live: bool | str) -> None:
        """It was the end of the answer already when the first item was handed out."""
        for number in range(4):
            rig.stream.append(number)
        for taken in range(1, 5):
            with rig.read(live=live) as response:
                seen = rig.front.take(response.iter_json(), taken)
                saved = response.offset
            with rig.read(live=False, offset=saved) as response:
                rest = rig.front.run(response.read_json())
            assert seen == list(range(taken))
            assert {*seen, *rest} == {0, 1, 2, 3}
        assert rest == [], "behind the last one nothing is repeated"

    def test_19_a_read_has_a_timeout_which_an_idle_tail_does_not_run_into(self, rig: Rig) -> None:
        # The server answers an idle long-poll after 0.5 s.
        timeouts: dict[str, set[float]] = {"catch-up": set(), "sse": set(), "long-poll": set()}
        statuses: list[int] = []

        def note_timeout(request: httpx.Request) -> None:
            timeouts[request.url.params.get("live", "catch-up")].add(request.extensions["timeout"]["read"])

        hooks = {
            "request": [hook_of(rig.front, note_timeout)],
            "response": [hook_of(rig.front, lambda response: statuses.append(response.status_code))],
        }
        client = rig.front.client(rig.wire.transport, event_hooks=hooks)

        def append_when_idle() -> None:
            try:
                wait_until(lambda: 204 in statuses, what="a long-poll ended without data")
            finally:
                rig.stream.append(1)  # which ends the read

        writer = threading.Thread(target=append_when_idle)
        writer.start()
        opening = rig.handle(client=client, timeout=0.3).stream(live="long-poll")
        response = opening if rig.front.name == "sync" else rig.front.run(opening)
        assert rig.front.take(response.iter_json(), 1) == [1]
        writer.join()
        rig.front.run(response.close())
        for live in LIVE:
            with rig.read(client=client, timeout=0.3, live=live) as response:
                assert rig.front.take(response.iter_json(), 1) == [1]
        rig.front.close(client)
        assert timeouts.pop("catch-up") == {0.3}
        assert all(min(each) > 60 for each in timeouts.values()), "longer than a server is silent"

    def test_20_items_come_out_while_the_answer_arrives(self, rig: Rig) -> None:
        """Of a stream of 30 MB the first item came when all of it was there, three times over."""
        block = b",".join(b'{"n":%d,"text":"%s"}' % (number, b"x" * 80) for number in range(1000))
        body = Body(b"[" * (number == 0) + block + (b"]" if number == 299 else b",") for number in range(300))
        wire = httpx.MockTransport(lambda _: httpx.Response(200, headers=PAGE, stream=body))
        with rig.read(wire, live=False) as response:
            tracemalloc.start()
            try:
                rig.front.take(response.iter_json(), 1)
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert body.taken < 30, "of 300 chunks"
        assert peak_bytes < 80 * len(block)

    def test_20_an_event_of_many_lines_is_read_in_linear_time(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def work_per_byte(line_count: int) -> float:
            work = Work()
            monkeypatch.setattr(_sse, "bytearray", work.bytearray, raising=False)
            monkeypatch.setattr(_sse, "bytes", work.copied, raising=False)
            events = b"event: data\n" + b"data: x\n" * line_count + b"\n"
            events += b'event: control\ndata: {"streamNextOffset":"1","streamClosed":true}\n\n'
            body = Body(work.bytes(events[at : at + 512]) for at in range(0, len(events), 512))
            answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body)
            with rig.read(httpx.MockTransport(lambda _: answer), live="sse") as response:
                assert b"".join(rig.front.take(response.iter_bytes(), 9)) == b"\n".join([b"x"] * line_count)
            work_done: int = work.done
            return work_done / len(events)

        few, many = work_per_byte(2_000), work_per_byte(40_000)
        assert few > 1, "else nothing was counted"
        assert many < few * 2, "20 times as much"

    def test_21_parameters_that_occur_twice_are_sent_twice(self, rig: Rig) -> None:
        wire, twice = rig.wire.transport, f"{rig.url}?tag=a&tag=b"
        handle = rig.handle(wire, url=twice)
        rig.front.run(handle.append(1))
        producer = rig.producer(wire, url_or_stream=twice)
        rig.front.produce(producer, [2])
        rig.finish(producer.close)
        with rig.read(wire, url=twice, live="long-poll") as response:
            items = response.iter_json()
            assert rig.front.take(items, 2) == [1, 2]
            rig.front.run(handle.close_stream(3))
            assert rig.front.take(items, 2) == [3]
        assert rig.wire.methods == ["PUT", "HEAD", "POST", "POST", "GET", "POST", "GET"]
        assert all(params_of(request).get_list("tag") == ["a", "b"] for request in rig.wire.requests[1:])

    def test_22_operations_without_a_client_share_one_tls_context(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It built one for each: 20 ms."""
        built: list[ssl.SSLContext] = []
        build = ssl.create_default_context

        def count(*arguments: Any, **options: Any) -> ssl.SSLContext:
            built.append(build(*arguments, **options))
            return built[-1]

        monkeypatch.setattr(ssl, "create_default_context", count)
        for number in range(3):
            assert rig.front.run(rig.front.handle.head_static(rig.url)).content_type == JSON
            producer = rig.producer(producer_id=f"p{number}")
            rig.front.produce(producer, [number])
            rig.finish(producer.close)
            with rig.read(live=False) as response:
                assert rig.front.run(response.read_json()) == list(range(number + 1))
        rig.front.run(rig.front.handle.delete_static(rig.url))
        assert len(built) <= 1
