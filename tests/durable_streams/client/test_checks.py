"""Mistakes in what callers hand over: found before anything is sent, with the value and the way out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams import _checks
from harness.stream_client import AsyncFront, Front, Wire, hook_of

if TYPE_CHECKING:
    from durable_streams.testing import InMemoryStreamServer

URL = "https://streams.test/s"


class TestTheUrl:
    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("", "empty"),
            ("ftp://host/s", "'ftp://host/s'"),
            ("/s", "like 'https://host/path'"),
            ("https:///s", "like 'https://host/path'"),
            ("streams.test/s", "like 'https://host/path'"),
            ("https://streams.test/a b", "percent-encode"),
            ("https://streams.test/a\n", "percent-encode"),
            ("https://streams.test/\ud800", "percent-encode"),
            ("https://streams.test:port/s", "not a URL"),
            ("https://[::1/s", "not a URL"),
        ],
    )
    def test_is_one_of_a_stream(self, front: Front, url: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            front.handle(url)

    def test_is_text(self, front: Front) -> None:
        with pytest.raises(TypeError, match=r"use str\(url\)"):
            front.handle(httpx.URL(URL))

    @pytest.mark.parametrize("url", ["http://[::1]:80/s", "HTTPS://streams.test/a%20b?x=1&x=2", "https://s.test"])
    def test_may_have_anything_that_a_url_may_have(self, url: str) -> None:
        assert _checks.stream_url(url) == url

    def test_may_be_a_path_where_the_client_has_a_base(
        self, front: Front, server: InMemoryStreamServer, url: str
    ) -> None:
        base, _, name = url.rpartition("/")
        client = (httpx.AsyncClient if isinstance(front, AsyncFront) else httpx.Client)(
            transport=server.transport(), base_url=base
        )
        handle = front.run(front.handle.create(f"/{name}", content_type="text/plain", client=client))
        assert front.run(handle.append("x")).next_offset
        front.close(client)
        with pytest.raises(ValueError, match="like 'https://host/path'"):
            _checks.stream_url("ftp://host/s", relative=True)


class TestTheArguments:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"headers": {"X-A": "a\nb"}}, r"'X-A' has '\\n'"),
            ({"headers": {"X-A": "é"}}, "'X-A' has 'é'"),
            ({"headers": {"X A": "a"}}, "'X A' is not the name of a header"),
            ({"headers": {"": "a"}}, "'' is not the name"),
            ({"headers": {"Stream-Closed": "true"}}, "'Stream-Closed' is the protocol's"),
            ({"headers": {"STREAM-SEQ": lambda: "1"}}, "'STREAM-SEQ' is the protocol's"),
            ({"headers": {"producer-id": "p"}}, "'producer-id' is the protocol's"),
            ({"headers": {"Content-Length": "3"}}, "'Content-Length' says how"),
            ({"headers": {"transfer-encoding": "chunked"}}, "'transfer-encoding' says how"),
            ({"content_type": "json"}, "like 'application/json', not 'json'"),
            ({"content_type": "a/b\r\nX: y"}, "content_type"),
            ({"timeout": 0}, "timeout is a number of seconds above 0"),
            ({"timeout": -1.0}, "not -1.0"),
            ({"timeout": float("nan")}, "not nan"),
            ({"timeout": True}, "not True"),
        ],
    )
    def test_have_values_that_can_be_sent(self, front: Front, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            front.handle(URL, **options)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"headers": {"X-A": 1}}, "'X-A' is a str, not 1"),
            ({"headers": [("a", "b")]}, "headers is a mapping"),
            ({"params": {"tag": 1}}, "'tag' is a str or a sequence of them, not 1"),
            ({"params": {"tag": ["a", 1]}}, "'tag' is a str or a sequence"),
            ({"params": {1: "a"}}, "the name of a parameter is a str, not 1"),
            ({"params": "tag=a"}, "params is a mapping"),
            ({"timeout": (1, 2)}, r"an httpx.Timeout or None, not \(1, 2\)"),
            ({"timeout": "5"}, "not '5'"),
        ],
    )
    def test_have_types_that_can_be_sent(self, front: Front, options: dict[str, Any], words: str) -> None:
        with pytest.raises(TypeError, match=words):
            front.handle(URL, **options)

    def test_name_no_credentials(self) -> None:
        with pytest.raises(ValueError, match="'Authorization'") as raised:
            _checks.header_value("Authorization", "Bearer secret\n")
        assert "secret" not in str(raised.value)

    def test_include_a_client_of_the_right_kind(self, front: Front) -> None:
        kind: Any = httpx.Client if isinstance(front, AsyncFront) else httpx.AsyncClient
        client = kind(verify=False)
        with pytest.raises(TypeError, match=r"needs an httpx\.(Async)?Client, not an httpx\.(Async)?Client"):
            front.handle(URL, client=client)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"headers": {"Stream-Seq": "5"}}, "'stream-seq' is the protocol's"),
            ({"headers": {"Content-Length": "5"}}, "'content-length' says how"),
            ({"params": {"offset": "0"}}, "'offset' is the protocol's"),
            ({"params": {"live": "sse"}}, "'live' is the protocol's"),
        ],
    )
    def test_include_a_client_that_adds_nothing_of_the_protocols(
        self, front: Front, options: dict[str, Any], words: str
    ) -> None:
        kind: Any = httpx.AsyncClient if isinstance(front, AsyncFront) else httpx.Client
        client = kind(verify=False, **options)
        with pytest.raises(ValueError, match=words):
            front.handle(URL, client=client)
        front.close(client)

    def test_of_on_error_are_checked_as_any_others(self, front: Front, server: InMemoryStreamServer) -> None:
        client = front.client(server.transport())
        with (
            pytest.raises(ValueError, match="'Stream-Seq' is the protocol's"),
            front.stream(URL, client=client, on_error=lambda _: {"headers": {"Stream-Seq": "1"}}),
        ):
            pass
        front.close(client)

    def test_of_a_callable_are_looked_at_when_it_was_asked(self, front: Front, url: str, wire: Wire) -> None:
        client = front.client(wire.transport)
        with pytest.raises(ValueError, match=r"'X-A' has '\\n'"):
            front.run(front.handle(url, client=client, headers={"X-A": lambda: "a\n"}).head())
        with pytest.raises(TypeError, match="'tag'"):
            front.run(front.handle(url, client=client, params={"tag": lambda: None}).head())
        assert wire.requests == []
        front.close(client)

    def test_may_be_timeouts_of_the_http_library(self, front: Front, url: str, wire: Wire) -> None:
        timeouts: list[Any] = []
        note = hook_of(front, lambda request: timeouts.append(request.extensions["timeout"]["read"]))
        client = front.client(wire.transport, event_hooks={"request": [note]})
        for timeout in (2.5, httpx.Timeout(2.5), None):
            with pytest.raises(Exception, match="no such stream"):
                front.run(front.handle.head_static(url, client=client, timeout=timeout))
        front.close(client)
        assert timeouts == [2.5, 2.5, 5.0]

    @pytest.mark.parametrize(
        ("seq", "kind"), [(1, TypeError), ("", ValueError), (" 1", ValueError), ("é", ValueError)]
    )
    def test_include_an_order_that_can_be_compared(
        self, front: Front, url: str, wire: Wire, seq: Any, kind: type[Exception]
    ) -> None:
        client = front.client(wire.transport)
        with pytest.raises(kind, match="seq"):
            front.run(front.handle(url, client=client).append("x", seq=seq))
        assert wire.requests == []
        front.close(client)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"ttl_seconds": -1}, "at least 0, not -1"),
            ({"ttl_seconds": True}, "whole number"),
            ({"ttl_seconds": 60, "expires_at": datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
            ({"expires_at": "2030-01-01"}, "RFC 3339"),
            ({"content_type": "text/plain", "body": {"a": 1}}, "application/json"),
            ({"content_type": "plain"}, "media type"),
        ],
    )
    def test_of_a_creation_are_checked_first(
        self, front: Front, url: str, wire: Wire, options: dict[str, Any], words: str
    ) -> None:
        client = front.client(wire.transport)
        with pytest.raises(ValueError, match=words):
            front.run(front.handle.create(url, client=client, **options))
        assert wire.requests == []
        front.close(client)

    @pytest.mark.parametrize(
        "moment", ["2030-01-01T00:00:00Z", "2030-01-01t00:00:00.123z", "2016-12-31T23:59:60+00:00"]
    )
    def test_of_an_expiry_are_what_rfc_3339_allows(self, moment: str) -> None:
        assert _checks.expiry(moment) == moment

    def test_of_an_expiry_are_no_numbers(self) -> None:
        with pytest.raises(TypeError, match="1893456000"):
            _checks.expiry(1893456000)  # type: ignore[arg-type]
