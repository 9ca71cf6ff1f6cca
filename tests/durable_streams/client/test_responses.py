"""Reading over both fronts, from a real server."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams import (
    DurableStream,
    FetchError,
    InvalidOffsetError,
    ParseError,
    SSENotSupportedError,
    StreamConsumedError,
    StreamNotFoundError,
    UnauthorizedError,
)
from durable_streams.testing import DropBefore, Status, Truncate
from harness.stream_client import Front, Refusing, Wire, hook_of
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams import LiveMode

JSON = "application/json"


@pytest.fixture
def handle(url: str) -> Iterator[DurableStream]:
    with DurableStream.create(url, content_type=JSON) as created:
        yield created


def fill(handle: DurableStream, *values: Any) -> str:
    return [handle.append(value) for value in values][-1].next_offset


class TestCatchUp:
    def test_reads_everything_in_each_form(self, front: Front, handle: DurableStream) -> None:
        fill(handle, {"a": 1}, [2], None)
        forms = {
            "read_json": [{"a": 1}, [2], None],
            "read_json_batches": [[{"a": 1}, [2], None]],
            "read_text": '[{"a":1},[2],null]',
            "read_bytes": b'[{"a":1},[2],null]',
        }
        for method, expected in forms.items():
            with front.stream(handle.url, live=False) as response:
                assert front.run(getattr(response, method)()) == expected

    def test_says_where_it_is(self, front: Front, handle: DurableStream) -> None:
        end = fill(handle, 1, 2)
        with front.stream(handle.url, live=False) as response:
            assert (response.url, response.content_type, response.status) == (handle.url, JSON, 200)
            assert (response.live, response.ok, response.closed) == (False, True, False)
            assert (response.start_offset, response.offset) == ("-1", "-1")
            front.run(response.read_json())
            assert (response.offset, response.up_to_date, response.stream_closed) == (end, True, False)
            assert response.headers["stream-next-offset"] == end
        assert response.closed

    def test_follows_pages_though_live_is_on(self, front: Front) -> None:
        pages = {
            "-1": httpx.Response(200, headers=head("1"), json=[1]),
            "1": httpx.Response(200, headers=head("2"), json=[2]),
            "2": httpx.Response(200, headers=head("3", up_to_date=True), json=[3]),
        }
        client = front.client(httpx.MockTransport(lambda request: pages[request.url.params["offset"]]))
        with front.stream("http://streams.test/s", client=client) as response:
            assert front.run(response.read_json()) == [1, 2, 3]
        front.close(client)

    def test_a_response_is_read_once(self, front: Front, handle: DurableStream) -> None:
        with front.stream(handle.url, live=False) as response:
            front.run(response.read_json())
            with pytest.raises(StreamConsumedError):
                response.iter_text()

    def test_events_are_the_servers_responses(self, front: Front, handle: DurableStream) -> None:
        end = fill(handle, 1, 2)
        with front.stream(handle.url, live=False) as response:
            (event,) = front.take(response.iter_events("json"), 9)
        assert (event.data, event.next_offset, event.up_to_date) == ([1, 2], end, True)

    def test_an_iterator_that_is_closed_gives_nothing_more_and_its_response_stays_open(
        self, front: Front, handle: DurableStream
    ) -> None:
        fill(handle, 1)
        end = fill(handle, 2)
        with front.stream(handle.url) as response:
            items = response.iter_json()
            if front.name == "sync":
                with contextlib.closing(items):
                    assert next(items) == 1
            else:

                async def take_one() -> None:
                    async with contextlib.aclosing(items):
                        assert await anext(items) == 1

                front.run(take_one())
            assert front.take(items, 9) == []
            assert response.offset < end, "the second one did not come out"
            assert not response.closed


class TestTheSafeCheckpoint:
    def test_resuming_from_any_saved_offset_skips_nothing(self, front: Front, handle: DurableStream) -> None:
        fill(handle, 1, 2)
        first_page_end = handle.head().offset
        fill(handle, 3, 4)
        for taken in range(1, 5):
            with front.stream(handle.url, live=False) as response:
                seen = front.take(response.iter_json(), taken)
                saved = response.offset
            with front.stream(handle.url, live=False, offset=saved) as response:
                rest = front.run(response.read_json())
            assert sorted({*seen, *rest}) == [1, 2, 3, 4]
        assert first_page_end > "-1"

    def test_at_the_end_nothing_is_repeated(self, front: Front, handle: DurableStream) -> None:
        fill(handle, 1, 2)
        with front.stream(handle.url) as response:
            assert front.take(response.iter_json(), 2) == [1, 2]
            assert response.up_to_date
            with front.stream(handle.url, live=False, offset=response.offset) as again:
                assert front.run(again.read_json()) == []


class TestLive:
    def test_goes_on_as_the_stream_grows(self, front: Front, handle: DurableStream) -> None:
        fill(handle, 1)
        with front.stream(handle.url) as response:
            items = response.iter_json()
            assert front.take(items, 1) == [1]
            fill(handle, 2, 3)
            assert front.take(items, 2) == [2, 3]

    def test_an_idle_tail_is_waited_for_beyond_the_clients_timeout(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        # The server answers an idle long-poll after 0.5 s; every other request may be silent for 0.1 s.
        statuses: list[int] = []
        note = hook_of(front, lambda response: statuses.append(response.status_code))
        client = front.client(wire.transport, event_hooks={"response": [note]})

        def append_when_idle() -> None:
            wait_until(lambda: 204 in statuses, what="a long-poll ended without data")
            fill(handle, 1)

        writer = threading.Thread(target=append_when_idle)
        writer.start()
        with front.stream(handle.url, client=client, live="long-poll", timeout=0.1) as response:
            assert front.take(response.iter_json(), 1) == [1]
        writer.join()
        front.close(client)
        assert len(statuses) == wire.count("GET"), "a request went without an answer"

    def test_ends_when_the_stream_is_closed(self, front: Front, handle: DurableStream, wire: Wire) -> None:
        fill(handle, 1)
        handle.close_stream(2)
        client = front.client(wire.transport)
        with front.stream(handle.url, client=client) as response:
            assert front.take(response.iter_json(), 9) == [1, 2]
            assert response.stream_closed
        front.close(client)
        assert wire.count("GET") == 1

    def test_tailing_a_closed_stream_ends_at_once(self, front: Front, handle: DurableStream, wire: Wire) -> None:
        end = handle.close_stream().final_offset
        for count, offset in enumerate(("-1", "now", end), 1):
            client = front.client(wire.transport)
            with front.stream(handle.url, client=client, offset=offset, live="long-poll") as response:
                assert front.take(response.iter_bytes(), 9) in ([], [b"[]"])
                assert response.stream_closed
            front.close(client)
            assert wire.count("GET") == count

    @pytest.mark.parametrize("live", [True, "long-poll", "sse"])
    def test_survives_what_happens_to_connections(
        self, front: Front, handle: DurableStream, wire: Wire, live: LiveMode
    ) -> None:
        fill(handle, 1)
        # An answer to a long-poll breaks off between its messages, an event stream when its reader waits for more.
        last = Truncate(len(b"[2,")) if live == "long-poll" else None
        refusing = Refusing(wire.transport, "GET", [])
        client = front.client(refusing)
        with front.stream(handle.url, client=client, live=live) as response:
            items = response.iter_json()
            assert front.take(items, 1) == [1]
            for number in range(2, 6):
                plan = wire.inject(DropBefore(), Status(503), Status(502), last, method="GET")
                refusing.turns += [False, False, True]
                wire.break_connections()
                fill(handle, number, -number)
                assert front.take(items, 2) == [number, -number]
                assert (plan.left, refusing.turns) == (0, [])
            handle.close_stream(6)
            assert front.take(items, 9) == [6]
        front.close(client)

    def test_begins_at_the_tail_with_now(self, front: Front, handle: DurableStream) -> None:
        fill(handle, 1)
        with front.stream(handle.url, offset="now") as response:
            items = response.iter_json()
            fill(handle, 2)
            assert front.take(items, 1) == [2]

    @pytest.mark.parametrize("live", [False, True, "long-poll", "sse"])
    def test_now_is_an_offset_as_soon_as_the_read_is_open(
        self, front: Front, handle: DurableStream, live: LiveMode
    ) -> None:
        end = fill(handle, 1)
        with front.stream(handle.url, offset="now", live=live) as response:
            assert (response.start_offset, response.offset) == ("now", end)
            fill(handle, 2)
        with front.stream(handle.url, offset=response.offset, live=False) as again:
            assert front.run(again.read_json()) == [2]

    @pytest.mark.parametrize("live", [True, "long-poll", "sse"])
    def test_bytes_of_all_kinds_arrive_as_they_were_stored(self, front: Front, url: str, live: LiveMode) -> None:
        every = bytes(range(256)) + b"\r\n\n\r data: \xff\xfe"
        with DurableStream.create(url, content_type="application/octet-stream", body=every) as created:
            with front.stream(url, live=live) as response:
                items = response.iter_bytes()
                received = b"".join(front.take(items, 1))
                created.append(every[::-1])
                created.close_stream()
                received += b"".join(front.take(items, 9))
        assert received == every + every[::-1]

    def test_an_event_stream_on_demand_is_not_replaced_silently(self, front: Front) -> None:
        client = front.client(httpx.MockTransport(lambda _: httpx.Response(200, headers=head("1"), content=b"x")))
        with pytest.raises(SSENotSupportedError):
            with front.stream("http://streams.test/s", client=client, live="sse"):
                pass
        front.close(client)


class TestErrors:
    def test_a_missing_stream_is_told_when_the_read_begins(self, front: Front, url: str) -> None:
        with pytest.raises(StreamNotFoundError, match=url[-36:]), front.stream(url):
            pass

    def test_a_malformed_offset_has_a_code_of_its_own(self, front: Front, handle: DurableStream) -> None:
        with pytest.raises(InvalidOffsetError) as raised, front.stream(handle.url, offset="no such offset"):
            pass
        assert raised.value.code == "INVALID_OFFSET"

    @pytest.mark.parametrize(
        "error",
        [
            httpx.ConnectError("x"),
            httpx.ReadTimeout("x"),
            httpx.RemoteProtocolError("x"),
            httpx.UnsupportedProtocol("x"),
            httpx.TooManyRedirects("x"),
            httpx.InvalidURL("x"),
        ],
    )
    def test_exceptions_of_httpx_never_leak(self, front: Front, error: Exception) -> None:
        def fail(_: httpx.Request) -> httpx.Response:
            raise error

        client = front.client(httpx.MockTransport(fail))
        with pytest.raises(FetchError) as raised, front.stream("http://streams.test/s", client=client, live=False):
            pass
        assert raised.value.__cause__ is error
        front.close(client)

    def test_transient_errors_are_tried_again(self, front: Front, wire: Wire, url: str) -> None:
        wire.inject(Status(500), Status(429), DropBefore(), method="GET")
        with DurableStream.create(url, content_type="text/plain", body="x") as created:
            client = front.client(wire.transport)
            with front.stream(created.url, live=False, client=client) as response:
                assert front.run(response.read_text()) == "x"
        front.close(client)
        assert wire.count("GET") == 4

    def test_a_page_that_is_not_json_is_an_error(self, front: Front) -> None:
        response = httpx.Response(200, headers=head("1", up_to_date=True), content=b'[{"a":')
        client = front.client(httpx.MockTransport(lambda _: response))
        with front.stream("http://streams.test/s", client=client, live=False) as reading:
            with pytest.raises(ParseError) as raised:
                front.run(reading.read_json())
        assert raised.value.code == "PARSE_ERROR"
        front.close(client)

    def test_a_redirect_is_not_followed_even_by_a_client_that_would(self, front: Front) -> None:
        visited: list[str] = []

        def redirect(request: httpx.Request) -> httpx.Response:
            visited.append(request.url.host)
            return httpx.Response(307, headers={"location": "http://elsewhere.test/"})

        client = front.client(httpx.MockTransport(redirect))
        client.follow_redirects = True
        with pytest.raises(FetchError, match="elsewhere"):
            with front.stream("http://streams.test/s", client=client):
                pass
        with pytest.raises(FetchError, match="elsewhere"):
            front.run(front.handle("http://streams.test/s", content_type=JSON, client=client).append(1))
        assert visited == ["streams.test"] * 2
        front.close(client)

    def test_on_error_may_bring_new_credentials(self, front: Front) -> None:
        def check(request: httpx.Request) -> httpx.Response:
            if request.headers.get("authorization") != "Bearer new":
                return httpx.Response(401)
            return httpx.Response(200, headers=head("1", up_to_date=True), json=[1])

        told: list[Exception] = []

        def renew(error: Exception) -> dict[str, dict[str, str]]:
            told.append(error)
            return {"headers": {"Authorization": "Bearer new"}}

        client = front.client(httpx.MockTransport(check))
        with front.stream("http://streams.test/s", client=client, live=False, on_error=renew) as response:
            assert front.run(response.read_json()) == [1]
        assert [type(error) for error in told] == [UnauthorizedError]
        front.close(client)


class TestRequests:
    def test_parameters_are_ordered_and_none_collapses(self, front: Front) -> None:
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.query.decode())
            return httpx.Response(200, headers=head("1", up_to_date=True), json=[])

        client = front.client(httpx.MockTransport(answer))
        url = "http://streams.test/s?tag=a&tag=b&zone=1&offset=99&empty="
        params = {"region": "x y", "alias": ["2", "1"]}
        with front.stream(url, client=client, live=False, params=params) as response:
            front.run(response.read_json())
        assert asked == ["alias=2&alias=1&empty=&offset=-1&region=x%20y&tag=a&tag=b&zone=1"]
        front.close(client)

    def test_dynamic_headers_are_asked_once_for_each_request(
        self, front: Front, handle: DurableStream, wire: Wire
    ) -> None:
        tokens = iter(range(100))
        wire.inject(Status(500), method="GET")
        client = front.client(wire.transport)
        with front.stream(
            handle.url, client=client, live=False, headers={"X-Token": lambda: str(next(tokens))}
        ) as response:
            front.run(response.read_json())
        sent = [request.headers["x-token"] for request in wire.requests if request.method == "GET"]
        assert sent == ["0", "1"]
        front.close(client)

    def test_an_injected_client_is_used_and_stays_open(self, front: Front, wire: Wire, url: str) -> None:
        client = front.client(wire.transport)
        handle = front.run(front.handle.create(url, content_type=JSON, client=client))
        front.run(handle.append(1))
        with front.stream(handle.url, client=client) as response:
            assert front.take(response.iter_json(), 1) == [1]
        front.run(handle.close())
        assert front.run(front.handle.head_static(url, client=client)).content_type == JSON
        front.run(front.handle.delete_static(url, client=client))
        assert wire.methods == ["PUT", "POST", "GET", "HEAD", "DELETE"]
        assert not client.is_closed
        front.close(client)


def head(next_offset: str, *, up_to_date: bool = False) -> dict[str, str]:
    headers = {"stream-next-offset": next_offset, "content-type": JSON}
    return {**headers, "stream-up-to-date": "true"} if up_to_date else headers


class TestOwnClients:
    def test_building_the_second_client_takes_no_new_tls_context(
        self, front: Front, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = front.run(front.handle.create(url, content_type=JSON))
        front.run(first.close())
        built: list[object] = []
        monkeypatch.setattr("ssl.create_default_context", lambda *args, **_: built.append(args))
        monkeypatch.setattr("ssl.SSLContext", lambda *args, **_: built.append(args))
        for _ in range(3):
            front.run(front.handle.head_static(url))
        assert built == []
