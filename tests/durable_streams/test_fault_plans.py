"""What can happen to requests on purpose: over a socket and in process, with and without async, it is the same."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams import DurableStream, SyncIdempotentProducer
from durable_streams.testing import (
    Delay,
    DropAfter,
    DropBefore,
    Hold,
    InMemoryStreamServer,
    Status,
    Truncate,
)
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = {"content-type": "text/plain"}
HOST = "http://any.host"


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as started, httpx.Client(transport=started.transport()) as client:
        assert client.put(f"{HOST}/s", headers=TEXT, content=b"0123456789").status_code == 201
        yield started


class Client:
    """Requests to the server, in one of the four ways."""

    def __init__(self, server: InMemoryStreamServer, way: str) -> None:
        self._asynchronous = "async" in way
        self._options: dict[str, Any] = (
            {"base_url": server.url()} if "socket" in way else {"base_url": HOST, "transport": server.transport()}
        )

    def request(self, method: str, path: str = "/s", **options: Any) -> httpx.Response:
        if not self._asynchronous:
            with httpx.Client(**self._options) as client:
                return client.request(method, path, **options)

        async def request() -> httpx.Response:
            async with httpx.AsyncClient(**self._options) as client:
                return await client.request(method, path, **options)

        return asyncio.run(request())

    def append(self, content: bytes = b"!") -> httpx.Response:
        return self.request("POST", headers=TEXT, content=content)

    def content(self) -> bytes:
        return self.request("GET").content


@pytest.fixture(params=["socket", "socket, async", "in process", "in process, async"])
def client(request: pytest.FixtureRequest, server: InMemoryStreamServer) -> Client:
    return Client(server, request.param)


class TestWhatHappensToARequest:
    def test_it_never_arrives(self, server: InMemoryStreamServer, client: Client) -> None:
        plan = server.inject(DropBefore())
        with pytest.raises(httpx.ReadError):
            client.append()
        assert client.content() == b"0123456789"
        assert plan.left == 0

    def test_its_answer_is_lost(self, server: InMemoryStreamServer, client: Client) -> None:
        server.inject(DropAfter())
        with pytest.raises(httpx.ReadError):
            client.append()
        assert client.content() == b"0123456789!"

    def test_somebody_else_answers(self, server: InMemoryStreamServer, client: Client) -> None:
        server.inject(Status(503, retry_after=7, headers={"X-Proxy": "yes"}, body=b"busy"))
        answer = client.append()
        assert (answer.status_code, answer.content) == (503, b"busy")
        assert (answer.headers["retry-after"], answer.headers["x-proxy"]) == ("7", "yes")
        assert client.content() == b"0123456789"

    def test_somebody_else_answers_when_it_is_done(self, server: InMemoryStreamServer, client: Client) -> None:
        server.inject(Status(500, after=True))
        assert client.append().status_code == 500
        assert client.content() == b"0123456789!"

    @pytest.mark.parametrize("status", [204, 304])
    def test_an_answer_without_a_body(self, server: InMemoryStreamServer, client: Client, status: int) -> None:
        server.inject(Status(status))
        answer = client.request("GET")
        assert (answer.status_code, answer.content) == (status, b"")

    def test_its_answer_breaks_off(self, server: InMemoryStreamServer, client: Client) -> None:
        server.inject(Truncate(4), Truncate(10))
        with pytest.raises(httpx.RemoteProtocolError):
            client.request("GET")
        assert client.content() == b"0123456789", "a body that is not longer passes"

    @pytest.mark.parametrize("kept", [0, 4, 9])
    def test_exactly_so_many_bytes_come_before_its_answer_breaks_off(
        self, server: InMemoryStreamServer, kept: int
    ) -> None:
        for options in ({"base_url": server.url()}, {"base_url": HOST, "transport": server.transport()}):
            received: list[bytes] = []
            server.inject(Truncate(kept))
            with httpx.Client(**options) as client, client.stream("GET", "/s") as answer:
                with pytest.raises(httpx.RemoteProtocolError):
                    received.extend(answer.iter_raw())
            assert b"".join(received) == b"0123456789"[:kept]

    def test_its_answer_may_be_awaited_and_then_be_lost(
        self, server: InMemoryStreamServer, client: Client
    ) -> None:
        server.inject((Delay(0, after=True), DropAfter()))
        with pytest.raises(httpx.ReadError):
            client.append()
        assert client.content() == b"0123456789!"

    def test_it_is_late(self, server: InMemoryStreamServer, client: Client) -> None:
        server.inject(Delay(60), (Delay(60, after=True),), Delay(0), Delay(0.001, after=True))
        for content in (b"late", b"unanswered"):
            with pytest.raises(httpx.ReadTimeout):
                client.request("POST", headers=TEXT, content=content, timeout=0.1)
        wait_until(lambda: client.content() == b"0123456789unanswered", what="one of them is stored")
        assert client.append(b"!").status_code == 204

    @pytest.mark.parametrize("after", [False, True])
    def test_it_waits(self, server: InMemoryStreamServer, client: Client, *, after: bool) -> None:
        plan = server.inject(Hold(after=after), method="POST")
        with ThreadPoolExecutor() as threads:
            held = threads.submit(client.append)
            wait_until(lambda: plan.requests, what="the request is held")
            wait_until(lambda: (client.content() == b"0123456789!") == after, what="it is done, or not")
            assert not held.done()
            plan.release()
            assert held.result(20).status_code == 204
        assert client.content() == b"0123456789!"

    def test_what_waited_is_done_even_if_the_client_gave_up(
        self, server: InMemoryStreamServer, client: Client
    ) -> None:
        plan = server.inject(Hold(), method="POST")
        with pytest.raises(httpx.ReadTimeout):
            client.request("POST", headers=TEXT, content=b"!", timeout=0.1)
        assert client.content() == b"0123456789"
        plan.release()
        wait_until(lambda: client.content() == b"0123456789!", what="the late request is done")

    def test_several_things(self, server: InMemoryStreamServer, client: Client) -> None:
        plan = server.inject((Hold(), Delay(0.001), DropAfter()), method="POST")
        with ThreadPoolExecutor() as threads:
            held = threads.submit(client.append)
            wait_until(lambda: plan.requests, what="the request is held")
            assert client.content() == b"0123456789"
            plan.release()
            assert isinstance(held.exception(20), httpx.ReadError)
        assert client.content() == b"0123456789!"


class TestLiveReads:
    @pytest.mark.parametrize("fault", [DropAfter(), Status(500, after=True), Truncate(30)])
    def test_an_event_stream_ends_at_once(self, server: InMemoryStreamServer, client: Client, fault: Any) -> None:
        server.inject(fault)
        try:
            assert client.request("GET", "/s?offset=-1&live=sse").status_code == 500
        except httpx.TransportError as error:
            assert isinstance(error, httpx.ReadError if fault == DropAfter() else httpx.RemoteProtocolError)  # noqa: PT017

    def test_those_of_one_stream_break_off_and_go_on_where_they_were(self, server: InMemoryStreamServer) -> None:
        with DurableStream(server.url("/s"), content_type="text/plain") as handle:
            with handle.stream(live="sse") as response, handle.stream(live="sse") as other:
                pieces, others = response.iter_text(), other.iter_text()
                assert (next(pieces), next(others)) == ("0123456789", "0123456789")
                server.break_connections("/elsewhere")
                handle.append("!")
                assert (next(pieces), next(others)) == ("!", "!")
                assert server.count("GET", "/s") == 2, "nobody had to connect again"
                server.break_connections("s")
                handle.append("?")
                assert (next(pieces), next(others)) == ("?", "?")
                assert server.count("GET", "/s") == 4
                server.break_connections()
                handle.append(".")
                assert (next(pieces), next(others)) == (".", ".")
                assert server.count("GET", "/s") == 6


class TestPlans:
    def test_one_is_used_up_in_order_by_the_requests_that_it_is_for(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "in process")
        plan = server.inject(Status(501), None, Status(502), method="HEAD", path="s", times=2)
        other = server.inject(Status(599), method="PUT")
        assert client.request("GET").status_code == 200
        assert client.request("HEAD", "/other").status_code == 404
        assert plan.left == 6
        seen = [client.request("HEAD").status_code for _ in range(7)]
        assert seen == [501, 200, 502, 501, 200, 502, 200]
        assert (plan.left, len(plan.requests), other.left) == (0, 6, 1)

    def test_one_may_be_for_some_requests_only(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "in process")
        plan = server.inject(
            Status(501), Status(502), method="HEAD", where=lambda request: "mine" in request.query
        )
        seen = [client.request(*each).status_code for each in 3 * (("HEAD", "/s"), ("HEAD", "/s?mine"))]
        assert seen == [200, 501, 200, 502, 200, 200]
        assert [request.query for request in plan.requests] == ["mine"] * 2
        server.inject(Status(503), where=lambda _: len(server.requests) % 2)
        assert [client.request("HEAD").status_code for _ in range(2)].count(503) == 1

    def test_the_oldest_comes_first(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "in process")
        server.inject(Status(501))
        server.inject(Status(502))
        assert [client.request("HEAD").status_code for _ in range(3)] == [501, 502, 200]

    def test_one_without_an_end_is_removed(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "in process")
        with server.inject(Status(503), times=None) as plan:
            assert [client.request("HEAD").status_code for _ in range(5)] == [503] * 5
            assert plan.left is None
        assert client.request("HEAD").status_code == 200
        assert plan.left == 0

    def test_removing_one_lets_go_what_it_holds(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "socket")
        with ThreadPoolExecutor() as threads:
            with server.inject(Hold()) as plan:
                held = threads.submit(client.append)
                wait_until(lambda: plan.requests, what="the request is held")
            assert held.result(20).status_code == 204

    @pytest.mark.parametrize("fault", [Hold(), Delay(60), Hold(after=True), Delay(60, after=True)])
    @pytest.mark.parametrize("way", ["socket", "in process"])
    def test_closing_the_server_ends_what_waits(self, way: str, fault: Any) -> None:
        with InMemoryStreamServer() as server, ThreadPoolExecutor() as threads:
            plan = server.inject(fault)
            waiting = threads.submit(Client(server, way).request, "HEAD")
            wait_until(lambda: plan.requests, what="the request waits")
            server.inject(None)
            server.close()
            assert isinstance(waiting.exception(20), httpx.TransportError)
            plan.release()  # has no effect

    def test_threads_share_one(self, server: InMemoryStreamServer) -> None:
        plan = server.inject(Status(503), times=40)
        statuses: list[int] = []

        def ask() -> None:
            with httpx.Client(transport=server.transport()) as client:
                statuses.extend(client.head(f"{HOST}/s").status_code for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (statuses.count(503), statuses.count(200), plan.left) == (40, 10, 0)

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            (lambda: Delay(-1), "not -1"),
            (lambda: Delay(float("nan")), "not nan"),
            (lambda: Status(600), "not 600"),
            (lambda: Status(100), "not 100"),
            (lambda: Status(204, body=b"x"), "status 204 has no body, not b'x'"),
            (lambda: Truncate(-1), "not -1"),
        ],
    )
    def test_faults_that_cannot_be(self, wrong: Any, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            wrong()

    @pytest.mark.parametrize(
        ("faults", "times", "reason"),
        [
            ((), 1, "at least one fault"),
            ((DropBefore(),), 0, "not 0 times"),
            (((DropBefore(), DropAfter()),), 1, r"in two ways: DropBefore\(\) and DropAfter\(\)"),
            (((DropBefore(), Hold(after=True)),), 1, r"DropBefore\(\) goes without it"),
            (((Status(500), Delay(1, after=True)),), 1, "goes without it"),
        ],
    )
    def test_plans_that_cannot_be(
        self, server: InMemoryStreamServer, faults: Any, times: int, reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            server.inject(*faults, times=times)

    def test_what_is_no_fault(self, server: InMemoryStreamServer) -> None:
        with pytest.raises(TypeError, match="not 503"):
            server.inject(503)  # type: ignore[arg-type]


class TestRequests:
    def test_all_are_noted_even_those_that_the_server_never_sees(
        self, server: InMemoryStreamServer, client: Client
    ) -> None:
        server.inject(DropBefore())
        with pytest.raises(httpx.ReadError):
            client.request("POST", "/a%20b?x=1", headers={"X-Name": "value"}, content=b"body")
        noted = server.requests[-1]
        assert (noted.method, noted.path, noted.query, noted.body) == ("POST", "/a b", "x=1", b"body")
        assert noted.headers["x-name"] == "value"
        assert [server.count("POST"), server.count("POST", "a b"), server.count("POST", "/s")] == [1, 1, 0]
        assert server.count("PUT", "/s") == 1

    def test_only_the_latest_are_kept_and_all_are_counted(self, server: InMemoryStreamServer) -> None:
        plan = server.inject(None, times=2000, method="HEAD")
        with httpx.Client(transport=server.transport()) as client:
            for number in range(1100):
                client.head(f"{HOST}/{number % 2}?n={number}")
        for kept in (server.requests, list(plan.requests)):
            assert [request.query for request in kept] == [f"n={number}" for number in range(100, 1100)]
        assert (server.count("HEAD"), server.count("HEAD", "/1"), plan.left) == (1100, 550, 900)


class TestProducers:
    def test_a_lost_answer_is_stored_once(self, server: InMemoryStreamServer) -> None:
        server.inject(DropAfter(), DropBefore(), Status(500, after=True), method="POST")
        with SyncIdempotentProducer(
            url_or_stream=server.url("/s"), producer_id="p", content_type="text/plain"
        ) as producer:
            producer.append("!").result(timeout_seconds=20)
        assert Client(server, "socket").content() == b"0123456789!"
        assert server.count("POST") == 4

    def test_a_forgotten_producer_is_told(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "in process")
        mark = {**TEXT, "producer-id": "p", "producer-epoch": "0"}
        for seq in "01":
            assert client.request("POST", headers={**mark, "producer-seq": seq}, content=b"!").is_success
        server.forget_producer("s", "p")
        assert client.request("POST", headers={**mark, "producer-seq": "2"}, content=b"!").status_code == 409
        assert client.content() == b"0123456789!!", "the data stays"
        assert client.request("POST", headers={**mark, "producer-seq": "0"}, content=b"!").status_code == 200
        server.forget_producer("/s")
        assert client.request("POST", headers={**mark, "producer-seq": "1"}, content=b"!").status_code == 409

    def test_what_is_not_there_cannot_be_forgotten(self, server: InMemoryStreamServer) -> None:
        with pytest.raises(LookupError, match="no stream '/x'"):
            server.forget_producer("/x")
        with pytest.raises(LookupError, match="stream '/s' has no producer 'p'"):
            server.forget_producer("/s", "p")


class TestBackups:
    def test_a_restored_server_has_the_streams_and_producers_of_then(self, server: InMemoryStreamServer) -> None:
        client = Client(server, "in process")
        mark = {**TEXT, "producer-id": "p", "producer-epoch": "0"}
        client.request("POST", headers={**mark, "producer-seq": "0"}, content=b"!")
        backup = server.snapshot()
        for _ in range(2):
            client.request("POST", headers={**mark, "producer-seq": "1"}, content=b"?")
            client.request("PUT", "/new", headers=TEXT)
            assert client.content() == b"0123456789!?"
            later = client.request("HEAD").headers["stream-next-offset"]
            server.restore(backup)
            assert client.content() == b"0123456789!"
            assert client.request("HEAD", "/new").status_code == 404
            assert client.request("GET", f"/s?offset={later}").status_code == 400
        lost = client.request("POST", headers={**mark, "producer-seq": "2"}, content=b"?")
        assert lost.status_code == 409

    @pytest.mark.parametrize("live", ["long-poll", "sse"])
    def test_live_readers_must_connect_again(self, client: Client, live: str) -> None:
        with InMemoryStreamServer(long_poll_timeout_seconds=60) as server, ThreadPoolExecutor() as threads:
            DurableStream.create(server.url("/s"), content_type="text/plain").close()
            backup = server.snapshot()
            reading = threads.submit(httpx.get, server.url(f"/s?offset=-1&live={live}"), timeout=20)
            wait_until(lambda: server.count("GET"), what="the reader waits")
            server.restore(backup)
            assert isinstance(reading.exception(20), httpx.ReadError)


class TestWhatIsMeant:
    def test_methods_are_the_same_in_any_case(self) -> None:
        with InMemoryStreamServer() as server, httpx.Client(base_url=server.url()) as client:
            server.inject(Status(503), method="get", path="s")
            assert client.get("/s").status_code == 503
            assert server.count("get") == server.count("GET", "/s") == 1

    def test_what_would_never_match_is_refused(self) -> None:
        with InMemoryStreamServer() as server:
            with pytest.raises(ValueError, match="'FETCH' is no method of HTTP: give one of DELETE, GET"):
                server.inject(None, method="FETCH")
            with pytest.raises(ValueError, match="no method"):
                server.count("FETCH")
            with pytest.raises(ValueError, match="has a query: give the path alone"):
                server.inject(None, path="/s?offset=-1")
            with pytest.raises(ValueError, match="has a query"):
                server.count("GET", "/s?offset=-1")

    def test_only_a_snapshot_can_be_restored(self) -> None:
        with (
            InMemoryStreamServer() as server,
            pytest.raises(TypeError, match=r"what snapshot\(\) returned, not None"),
        ):
            server.restore(None)  # type: ignore[arg-type]
