"""What goes out over an injected client, and what is made of everything that may come back, or not."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock

import anyio.lowlevel
import httpx
import pytest

from durable_streams import FetchError, PayloadTooLargeError, StreamNotFoundError, _http
from durable_streams._http_async import AsyncCarrier
from durable_streams._http_sync import SyncCarrier
from durable_streams._urls import with_params
from durable_streams._wire import Reply
from durable_streams.testing import DropBefore, Status
from harness.stream_client import URL, AsyncFront, Front, Refusing, hook_of, params_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from durable_streams.testing import Fault, InMemoryStreamServer
    from harness.stream_client import Wire

JSON = "application/json"
PAGE = {"content-type": JSON, "stream-next-offset": "1", "stream-up-to-date": "true", "stream-closed": "true"}
STORED = {"stream-next-offset": "1"}


def client_of(front: Front, transport: Any, **options: Any) -> Any:
    """A client of the caller's own, with everything that callers give one."""
    kind = httpx.AsyncClient if isinstance(front, AsyncFront) else httpx.Client
    return kind(transport=transport, **options)


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that counts what was taken of it. ``then`` is raised behind it."""

    def __init__(self, chunks: Iterator[bytes], then: Exception | None = None) -> None:
        self._chunks = chunks
        self._then = then
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.taken += 1
            yield chunk
        if self._then is not None:
            raise self._then

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            await anyio.lowlevel.checkpoint()  # as a socket: it can be cancelled
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Answering(httpx.MockTransport):
    """Answers with what a function makes of each request, as no server would answer."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        super().__init__(self._noted)
        self._answer = answer
        self.requests: list[httpx.Request] = []

    def _noted(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)


def answering(*answers: httpx.Response) -> Answering:
    """Give these answers in turn, then the last again and again."""
    turn = itertools.chain(answers, itertools.repeat(answers[-1]))
    return Answering(lambda _: next(turn))


class TestAClientWithParametersOfItsOwn:
    def test_sends_them_with_the_urls_the_callers_and_the_protocols(
        self, front: Front, wire: Wire, url: str
    ) -> None:
        """httpx puts them in the place of the URL's: a read began anew with each page, for ever."""
        client = client_of(front, wire.transport, params={"tenant": "mine", "tag": "client", "room": "client"})
        where = f"{url}?room=1&room=2"
        options: dict[str, Any] = {"client": client, "params": {"tag": ["a", "b"]}}
        handle = front.run(front.handle.create(where, content_type=JSON, **options))
        front.run(handle.append(1))
        offset = front.run(handle.head()).offset
        front.run(handle.append(2))
        front.run(handle.close_stream())
        with front.stream(where, offset=offset, live=True, **options) as response:
            assert front.take(response.iter_json(), 9) == [2]
        front.run(handle.delete())
        front.close(client)
        assert wire.methods == ["PUT", "POST", "HEAD", "POST", "POST", "GET", "DELETE"]
        for request in wire.requests:
            params = params_of(request)
            assert (params["tenant"], params.get_list("tag"), params.get_list("room")) == (
                "mine",
                ["a", "b"],
                ["1", "2"],
            )
        reads = [params_of(request).get("offset") for request in wire.requests if request.method == "GET"]
        assert reads == [offset]

    def test_cannot_send_a_query_that_it_would_change(self, front: Front) -> None:
        client = client_of(front, answering(httpx.Response(404)), params={"tenant": "mine"})
        with pytest.raises(ValueError, match="not UTF-8"):
            front.run(front.handle(f"{URL}?a=%FF", client=client).head())
        front.close(client)


class TestTheQuery:
    @pytest.mark.parametrize(
        ("url", "protocol", "expected"),
        [
            ("http://h/s?b=x+y&a=%FF&flag", [("offset", "1/2")], "a=%FF&b=x+y&flag&offset=1%2F2"),
            ("http://h/s?z=2&%61=1&z=1", [("offset", "-1")], "%61=1&offset=-1&z=2&z=1"),
            ("http://h/s?offset=9&live=sse&a", [("offset", "-1")], "a&offset=-1"),
            ("http://h/s?cursor=9&a=1", [], "a=1"),
            ("http://h/s?b&a=%ff&&", [], "b&a=%ff&&"),
        ],
    )
    def test_keeps_what_is_the_callers_as_it_is_written(
        self, url: str, protocol: list[tuple[str, str]], expected: str
    ) -> None:
        assert with_params(url, protocol) == f"http://h/s?{expected}"
        assert str(httpx.URL(with_params(url, protocol))).endswith(expected), "httpx leaves it alone, too"

    def test_has_the_protocols_names_only_where_the_protocol_puts_them(
        self, front: Front, wire: Wire, url: str
    ) -> None:
        client = client_of(front, wire.transport)
        mistaken = {"live": "sse", "cursor": "c", "offset": lambda: "7", "mine": "1"}
        handle = front.run(
            front.handle.create(f"{url}?live=sse&offset=8", content_type=JSON, client=client, params=mistaken)
        )
        front.run(handle.append(1))
        with front.stream(handle.url, live=False, client=client, params=mistaken) as response:
            assert front.run(response.read_json()) == [1]
        front.close(client)
        assert [request.query for request in wire.requests] == ["mine=1", "mine=1", "mine=1&offset=-1"]


class TestWhatRaisesBeforeARequestIsMadeAgain:
    """An earlier attempt may have been stored, which such an exception must not hide."""

    @staticmethod
    def token(good: int) -> Callable[[], str]:
        """A credential that is there so many times."""
        calls = itertools.count()

        def give() -> str:
            if next(calls) >= good:
                raise RuntimeError("no token")
            return "t"

        return give

    @pytest.mark.parametrize("fault", [Status(500), DropBefore()])
    @pytest.mark.parametrize("operation", ["append", "close_stream", "create_stream", "delete"])
    def test_is_an_error_in_doubt(self, front: Front, url: str, wire: Wire, fault: Fault, operation: str) -> None:
        for method in ("POST", "PUT", "DELETE"):
            wire.inject(fault, method=method)
        client = client_of(front, wire.transport)
        handle = front.handle(url, content_type="a/b", client=client, headers={"X-T": self.token(1)})
        call = {
            "append": lambda: handle.append("x", seq="1"),
            "close_stream": lambda: handle.close_stream("x"),
            "create_stream": handle.create_stream,
            "delete": handle.delete,
        }[operation]
        with pytest.raises(FetchError, match="RuntimeError: no token") as raised:
            front.run(call())
        assert raised.value.in_doubt
        assert isinstance(raised.value.__cause__, RuntimeError)
        assert raised.value.url == url
        assert len(wire.requests) == 1
        front.close(client)

    def test_is_one_too_when_the_stream_cannot_be_asked(self, front: Front, url: str, wire: Wire) -> None:
        wire.inject(Status(200, headers=STORED), method="HEAD")
        wire.inject(Status(500))
        client = client_of(front, wire.transport)
        handle = front.handle(url, content_type="a/b", client=client, headers={"X-T": self.token(2)})
        front.run(handle.head())
        with pytest.raises(FetchError) as raised:
            front.run(handle.append("x"))
        assert raised.value.in_doubt
        assert raised.value.status == 500
        assert "no token" in raised.value.__notes__[0]
        front.close(client)

    def test_may_be_a_client_that_was_closed_meanwhile(self, front: Front) -> None:
        def close(_: httpx.Request) -> Any:
            return client.aclose() if isinstance(front, AsyncFront) else client.close()

        wire = answering(httpx.Response(500))
        client = client_of(front, wire, event_hooks={"request": [hook_of(front, close)]})
        with pytest.raises(FetchError, match="must stay open") as raised:
            front.run(front.handle(URL, content_type="a/b", client=client).append("x", seq="1"))
        assert raised.value.in_doubt
        assert len(wire.requests) == 1

    @pytest.mark.parametrize("refused", [True, False])
    def test_comes_out_as_it_is_where_nothing_is_in_doubt(
        self, front: Front, url: str, wire: Wire, *, refused: bool
    ) -> None:
        wire.inject(Status(429))
        wire.inject(Status(500), method="HEAD")
        client = client_of(front, Refusing(wire.transport, "POST", [refused]))
        for operation, arguments in (("append", {"data": "x", "seq": "1"}), ("head", {})):
            handle = front.handle(url, content_type="a/b", client=client, headers={"X-T": self.token(1)})
            with pytest.raises(RuntimeError, match="no token"):
                front.run(getattr(handle, operation)(**arguments))
        front.close(client)

    def test_is_not_taken_for_the_end_of_a_read(self, front: Front) -> None:
        """`StopIteration` ends a ``for`` loop, and would have ended a live read without a word."""
        tokens = iter(["t"])
        page = httpx.Response(200, headers={"content-type": JSON, "stream-next-offset": "1"}, content=b"[1]")
        client = client_of(front, answering(page))
        with front.stream(URL, client=client, headers={"X-T": lambda: next(tokens)}) as response:
            items = response.iter_json()
            assert front.take(items, 1) == [1]
            with pytest.raises(RuntimeError, match="StopIteration"):
                front.take(items, 1)
        front.close(client)


class TestExceptionsOfNobodysFamily:
    """Raised by what a client is made of, for what a server says."""

    @staticmethod
    def garbled(front: Front) -> Any:
        challenge = {"www-authenticate": "Digest garbage"}
        return client_of(front, answering(httpx.Response(401, headers=challenge)), auth=httpx.DigestAuth("u", "p"))

    @staticmethod
    def misdirecting(front: Front) -> Any:
        return client_of(front, answering(httpx.Response(302, headers={"location": "http://xn--/"})))

    @staticmethod
    def hooked(front: Front) -> Any:
        def fail(_: httpx.Response) -> None:
            raise KeyError("hook")

        return client_of(front, answering(httpx.Response(404)), event_hooks={"response": [hook_of(front, fail)]})

    @pytest.mark.parametrize("kind", ["garbled", "misdirecting", "hooked"])
    def test_are_the_cause_of_one_of_ours(self, front: Front, kind: str) -> None:
        client = getattr(self, kind)(front)
        handle = front.handle(URL, content_type="a/b", client=client)
        for operation, in_doubt in ((lambda: handle.append("x"), True), (handle.head, False)):
            with pytest.raises(FetchError) as raised:
                front.run(operation())
            assert raised.value.in_doubt is in_doubt
            assert not isinstance(raised.value.__cause__, httpx.HTTPError | None)
        with pytest.raises(FetchError), front.stream(URL, client=client):
            pass
        front.close(client)

    def test_do_not_end_a_live_read(self, front: Front) -> None:
        open_page = {**PAGE, "stream-closed": "false"}
        client = client_of(
            front,
            answering(
                httpx.Response(200, headers=open_page, content=b"[1]"),
                httpx.Response(302, headers={"location": "http://xn--/"}),
                httpx.Response(200, headers=PAGE, content=b"[2]"),
            ),
        )
        with front.stream(URL, live="long-poll", client=client) as response:
            assert front.take(response.iter_json(), 9) == [1, 2]
        front.close(client)

    def test_leave_no_doubt_where_there_was_not_even_a_request(
        self, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> httpx.Request:
            raise KeyError("no key to sign with")

        client = client_of(front, None)
        monkeypatch.setattr(client, "build_request", fail)
        with pytest.raises(FetchError, match="no key") as raised:
            front.run(front.handle(URL, content_type="a/b", client=client).append("x"))
        assert not raised.value.in_doubt
        front.close(client)

    @pytest.mark.parametrize("read", [True, False])
    def test_may_carry_the_answer(self, front: Front, *, read: bool) -> None:
        """Of a hook that calls `raise_for_status`."""

        def check(response: httpx.Response) -> Any:
            async def check_later() -> None:
                await response.aread()
                response.raise_for_status()

            if read and isinstance(front, AsyncFront):
                return check_later()
            if read:
                response.read()
            return response.raise_for_status()

        def answer(_: httpx.Request) -> httpx.Response:
            body = Body(iter([b"no such thing"]))
            return httpx.Response(404, headers={"content-type": "text/plain"}, stream=body)

        wire = Answering(answer)
        client = client_of(front, wire, event_hooks={"response": [hook_of(front, check)]})
        with pytest.raises(StreamNotFoundError) as written:
            front.run(front.handle(URL, content_type="a/b", client=client).append("x"))
        with pytest.raises(StreamNotFoundError) as asked, front.stream(URL, client=client):
            pass
        assert len(wire.requests) == 2
        for raised in (written, asked):
            assert ("no such thing" in raised.value.message) is read
        front.close(client)

    def test_that_carry_a_page_are_no_empty_page(self, front: Front) -> None:
        hooked = itertools.count()

        def fail_once(response: httpx.Response) -> None:
            if next(hooked) == 0:
                raise httpx.HTTPStatusError("mine", request=response.request, response=response)

        pages = (httpx.Response(200, headers=PAGE, stream=Body(iter([b"[1]"]))) for _ in range(2))
        wire = httpx.MockTransport(lambda _: next(pages))
        client = client_of(front, wire, event_hooks={"response": [hook_of(front, fail_once)]})
        with front.stream(URL, client=client) as response:
            assert front.run(response.read_json()) == [1]
        front.close(client)


class TestAnswersToWrites:
    """Their heads say what happened. Their bodies have words at best, and nobody waits for the last of them."""

    OPERATIONS = ("append", "head", "create_stream", "delete")

    def call(self, front: Front, client: Any, operation: str, **options: Any) -> Any:
        handle = front.handle(URL, content_type="a/b", client=client, **options)
        return front.run(handle.append("x") if operation == "append" else getattr(handle, operation)())

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_are_read_up_to_a_limit(self, front: Front, operation: str) -> None:
        body = Body(itertools.repeat(bytes(1000)))
        client = client_of(front, answering(httpx.Response(413, stream=body)))
        with pytest.raises(PayloadTooLargeError):
            self.call(front, client, operation)
        assert body.taken < 100
        assert body.closed
        front.close(client)

    @pytest.mark.parametrize("operation", [*OPERATIONS, "stream"])
    def test_are_read_for_so_long(self, front: Front, operation: str) -> None:
        body = Body(itertools.repeat(b"x"))
        client = client_of(front, answering(httpx.Response(404, stream=body)))
        with pytest.raises(StreamNotFoundError):
            self.call(front, client, operation, timeout=1e-6)
        assert body.taken < 1000, "of 64 thousand that there is room for"
        assert body.closed
        front.close(client)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_may_inflate_to_any_size(self, front: Front, coding: str) -> None:
        zeros = bytes(40_000_000)
        bomb = gzip.compress(zeros) if coding == "gzip" else zlib.compress(zeros)
        del zeros
        answer = httpx.Response(404, headers={"content-encoding": coding}, stream=Body(iter([bomb])))
        client = client_of(front, answering(answer))
        tracemalloc.start()
        try:
            with pytest.raises(StreamNotFoundError):
                self.call(front, client, "append")
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 3_000_000
        front.close(client)

    @pytest.mark.parametrize("coding", ["identity", "gzip", "foo"])
    def test_may_break_off(self, front: Front, coding: str) -> None:
        broken = Body(iter([b"not wh"]), then=httpx.ReadError("cut"))
        answer = httpx.Response(200, headers={**STORED, "content-encoding": coding}, stream=broken)
        client = client_of(front, answering(answer))
        assert self.call(front, client, "append").next_offset == "1"
        front.close(client)

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_are_asked_for_as_they_are(self, front: Front, operation: str) -> None:
        wire = answering(httpx.Response(200, headers=STORED))
        for options, expected in (({}, "identity"), ({"headers": {"Accept-Encoding": "gzip"}}, "gzip")):
            client = client_of(front, wire)
            self.call(front, client, operation, **options)
            assert wire.requests[-1].headers["accept-encoding"] == expected
            front.close(client)


class TestAClientOfTheCallersOwnMaking:
    """Whoever replaced ``post`` and its like finds them called; whoever did not, cannot tell."""

    def test_has_its_methods_called_that_are_not_the_librarys(
        self, front: Front, server: InMemoryStreamServer, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = client_of(front, server.transport(), params={"tenant": "mine"})
        called: list[tuple[str, str]] = []
        for name in ("put", "post", "head", "delete"):
            usual = getattr(client, name)

            def replaced(*arguments: Any, usual: Any = usual, name: str = name, **options: Any) -> Any:
                called.append((name, options["headers"].get("X-T", "")))
                return usual(*arguments, **options)

            monkeypatch.setattr(client, name, replaced)
        options: dict[str, Any] = {"content_type": JSON, "client": client, "headers": {"X-T": "t"}}
        handle = front.run(front.handle.create(url, **options))
        assert front.run(handle.append(1)).next_offset == front.run(handle.head()).offset
        front.run(handle.delete())
        with pytest.raises(StreamNotFoundError):
            front.run(handle.append(1))
        assert called == [(name, "t") for name in ("put", "post", "head", "delete", "post")]
        front.close(client)

    def test_has_its_request_method_called(self, front: Front, server: InMemoryStreamServer, url: str) -> None:
        called: list[str] = []
        usual: Any = httpx.AsyncClient if isinstance(front, AsyncFront) else httpx.Client

        class Signing(usual):  # type: ignore[misc]
            def request(self, method: str, *arguments: Any, **options: Any) -> Any:
                called.append(method)
                return super().request(method, *arguments, **options)

        client = Signing(transport=server.transport())
        handle = front.run(front.handle.create(url, content_type=JSON, client=client))
        front.run(handle.append(1))
        front.close(client)
        assert called == ["PUT", "POST"]

    def test_may_be_a_mock(self, front: Front) -> None:
        asynchronous = isinstance(front, AsyncFront)
        client = MagicMock(spec=httpx.AsyncClient if asynchronous else httpx.Client)
        response = httpx.Response(204, headers=STORED)
        client.post = AsyncMock(return_value=response) if asynchronous else MagicMock(return_value=response)
        handle = front.handle(URL, content_type="a/b", client=client, params={"tenant": "mine"})
        assert front.run(handle.append("x")).next_offset == "1"
        (where,), options = client.post.call_args
        assert where == f"{URL}?tenant=mine"
        assert (options["content"], options["headers"]["content-type"]) == (b"x", "a/b")

    def test_says_what_it_raises(self, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        client = client_of(front, None)

        def fail(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("mine")

        monkeypatch.setattr(client, "post", fail)
        with pytest.raises(FetchError, match="mine") as raised:
            front.run(front.handle(URL, content_type="a/b", client=client).append("x"))
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        front.close(client)


class TestCodings:
    @pytest.mark.parametrize("coding", ["foo", "br", "gzip, foo"])
    @pytest.mark.parametrize("ready_made", [True, False])
    def test_that_cannot_be_undone_are_no_content(self, front: Front, coding: str, *, ready_made: bool) -> None:
        def page(_: httpx.Request) -> httpx.Response:
            headers = {**PAGE, "content-encoding": coding}
            if ready_made and "gzip" not in coding:
                return httpx.Response(200, headers=headers, content=b"[1]")
            return httpx.Response(200, headers=headers, stream=Body(iter([b"[1]"])))

        if "br" in coding and "br" in str(_http._usual_codings()):
            pytest.skip("there is a library for it")
        client = client_of(front, httpx.MockTransport(page))
        with (
            pytest.raises(FetchError, match=r"cannot be undone here: (foo|br)"),
            front.stream(URL, live=False, client=client) as response,
        ):
            front.run(response.read_bytes())
        front.close(client)

    @pytest.mark.parametrize("wbits", [15, -15])
    @pytest.mark.parametrize("chunk_bytes", [1, 1000])
    def test_deflate_is_undone_though_nobody_asked_for_it(
        self, front: Front, wbits: int, chunk_bytes: int
    ) -> None:
        deflater = zlib.compressobj(wbits=wbits)
        packed = deflater.compress(b"[1,2]") + deflater.flush()
        chunks = (packed[at : at + chunk_bytes] for at in range(0, len(packed), chunk_bytes))
        answer = httpx.Response(200, headers={**PAGE, "content-encoding": "deflate"}, stream=Body(chunks))
        client = client_of(front, answering(answer))
        with front.stream(URL, client=client) as response:
            assert front.run(response.read_json()) == [1, 2]
        front.close(client)


class TestAHeaderOfTheProtocolThatComesTwice:
    @pytest.mark.parametrize(
        ("values", "expected"), [(["1"], "1"), (["1", "1"], "1"), (["1", "2"], None), (["1", "2", "1"], None)]
    )
    def test_has_one_value_or_none(self, values: list[str], expected: str | None) -> None:
        headers = [("Stream-Next-Offset", value) for value in values] + [("X-A", "1"), ("x-a", "2")]
        reply = _http.reply_from(httpx.Response(200, headers=headers))
        assert reply == Reply(
            200, {"x-a": "1, 2"} | ({} if expected is None else {"stream-next-offset": expected})
        )

    def test_is_never_read_on_from_if_it_has_two(self, front: Front) -> None:
        twice = httpx.Headers([*PAGE.items(), ("stream-next-offset", "2")])
        wire = answering(
            httpx.Response(200, headers=twice, content=b"[0]"), httpx.Response(200, headers=PAGE, content=b"[1]")
        )
        client = client_of(front, wire)
        with front.stream(URL, client=client) as response:
            assert front.run(response.read_json()) == [1]
        assert [request.url.params["offset"] for request in wire.requests] == ["-1", "-1"]
        front.close(client)


class TestCarriers:
    @pytest.mark.parametrize("client", ["x", 5, object()])
    def test_want_a_client(self, front: Front, client: Any) -> None:
        kind: Any = AsyncCarrier if isinstance(front, AsyncFront) else SyncCarrier
        with pytest.raises(TypeError, match=r"needs an httpx\.(Async)?Client, not a "):
            kind(client, _http.Extras(None, None))

    def test_of_a_closed_handle_do_not_blame_the_caller(self, front: Front) -> None:
        handle = front.handle(URL, content_type="a/b")
        front.run(handle.close())
        with pytest.raises(FetchError, match="make a new one") as raised:
            front.run(handle.append("x"))
        assert "injected" not in raised.value.message

    @pytest.mark.parametrize("answer", [True, [], "again"])
    def test_want_nothing_or_a_dict_from_on_error(self, front: Front, answer: Any) -> None:
        client = client_of(front, answering(httpx.Response(404)))
        with (
            pytest.raises(TypeError, match="on_error returns None or a dict"),
            front.stream(URL, client=client, on_error=lambda _: answer),
        ):
            pass
        front.close(client)
