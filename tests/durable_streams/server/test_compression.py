"""gzip in both directions, and nothing else (RFC 9110, 8.4 and 12.5.3)."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest

from durable_streams.server import Limits
from durable_streams.server._encoding import accepts_gzip

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

TEXT = {"content-type": "text/plain"}
CODINGS = ("gzip", "identity")
GZIP = {**TEXT, "content-encoding": "gzip"}
LARGE = b"temperature 21.4 " * 5000


@pytest.fixture
def limits() -> Limits:
    return Limits(long_poll_timeout_seconds=0.2, max_body_bytes=100_000)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.01", True),
        ("identity, br", False),
        ("gzip;;=;q", False),
    ],
)
def test_who_accepts_gzip(header: str | None, *, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


class TestAnswers:
    @pytest.mark.parametrize("size", [1024, len(LARGE)])
    @pytest.mark.parametrize("live", ["", "&live=long-poll"])
    def test_a_page_is_compressed_for_who_accepts_it(
        self, client: httpx.Client, create: Callable[..., str], size: int, live: str
    ) -> None:
        create(content=LARGE[:size])
        url = f"/s?offset=-1{live}"
        packed = client.get(url, headers={"accept-encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < size / 3
        assert packed.content == LARGE[:size]
        plain = client.get(url, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == LARGE[:size]
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"

    def test_a_small_page_is_not(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x" * 1023)
        answer = client.get("/s", headers={"accept-encoding": "gzip"})
        assert not {"content-encoding", "vary"} & answer.headers.keys()

    def test_other_bytes_have_another_tag_and_each_is_known_again(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create(content=LARGE)
        tags = {
            coding: client.get("/s", headers={"accept-encoding": coding}).headers["etag"] for coding in CODINGS
        }
        assert len(set(tags.values())) == 2
        for coding in CODINGS:
            for tag_of in CODINGS:
                headers = {"accept-encoding": coding, "if-none-match": tags[tag_of]}
                answer = client.get("/s", headers=headers)
                assert answer.status_code == (304 if coding == tag_of else 200)
                assert answer.headers["vary"] == "accept-encoding"

    def test_equal_pages_are_equal_bytes(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=LARGE)

        def raw() -> bytes:
            with client.stream("GET", "/s", headers={"accept-encoding": "gzip"}) as answer:
                return b"".join(answer.iter_raw())

        assert raw() == raw()

    def test_events_are_never_held_back_by_compression(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create(content=LARGE)
        client.post("/s", headers={"stream-closed": "true"})
        answer = client.get("/s?offset=-1&live=sse", headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in answer.headers


class TestBodies:
    def test_a_packed_body_is_stored_unpacked(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()
        for coding in ("gzip", "GZip", "x-gzip"):
            headers = {**TEXT, "content-encoding": coding}
            assert client.post("/s", headers=headers, content=gzip.compress(b"text,")).status_code == 204
        assert client.get("/s").content == b"text,text,text,"

    def test_in_a_put_too_and_json_is_checked_unpacked(self, client: httpx.Client) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        assert client.put("/j", headers=headers, content=gzip.compress(b"[1, 2]")).status_code == 201
        refused = client.post("/j", headers=headers, content=gzip.compress(b"[1, 2"))
        assert (refused.status_code, client.get("/j").json()) == (400, [1, 2])

    def test_a_bomb_is_refused(self, client: httpx.Client, create: Callable[..., str]) -> None:
        bomb = gzip.compress(bytes(200_000_000))
        assert len(bomb) > 32 * 1024
        tried = client.post(create(), headers={**GZIP}, content=bomb[:90_000])
        assert (tried.status_code, tried.text) == (
            413,
            "the body is larger than 100000 bytes once it is unpacked\n",
        )
        small = client.post("/s", headers=GZIP, content=gzip.compress(bytes(100_001)))
        assert small.status_code == 413
        assert "stream-next-offset" in small.headers
        assert client.post("/s", headers=GZIP, content=gzip.compress(bytes(100_000))).status_code == 204

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"not packed", "the body is not gzip"),
            (gzip.compress(b"text")[:-3], "not one complete gzip member"),
            (gzip.compress(b"text") + b"more", "not one complete gzip member"),
            (gzip.compress(b"one") + gzip.compress(b"two"), "not one complete gzip member"),
            (zlib.compress(b"text"), "the body is not gzip"),
        ],
        ids=["plain", "cut", "followed", "two members", "zlib"],
    )
    def test_what_is_not_gzip_is_refused(
        self, client: httpx.Client, create: Callable[..., str], content: bytes, reason: str
    ) -> None:
        refused = client.post(create(), headers=GZIP, content=content)
        assert refused.status_code == 400
        assert reason in refused.text
        assert client.get("/s").content == b""
