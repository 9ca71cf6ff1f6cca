"""PROTOCOL sections 5.6 (catch-up), 8 (offsets) and 10 (caching)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
BEYOND = "9999999999999999"


class TestPages:
    def test_a_page_ends_before_the_message_that_would_be_too_much(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        messages = [b"a" * 400, b"b" * 400, b"c" * 400, b"d" * 5000, b"e"]
        for message in messages:
            client.post("/s", headers=TEXT, content=message)
        offset, pages = "-1", []
        while True:
            page = client.get("/s", params={"offset": offset})
            pages.append(page)
            offset = page.headers["stream-next-offset"]
            if "stream-up-to-date" in page.headers:
                break
        assert [page.content for page in pages] == [b"a" * 400 + b"b" * 400, b"c" * 400, b"d" * 5000, b"e"]
        assert [page.headers.get("stream-up-to-date") for page in pages] == [None, None, None, "true"]

    def test_json_pages_are_arrays(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create("application/json")
        for number in range(3):
            client.post("/s", headers=JSON, content=b'["%d", "%s"]' % (number, b"x" * 450))
        first = client.get("/s")
        second = client.get("/s", params={"offset": first.headers["stream-next-offset"]})
        assert [value for page in (first, second) for value in page.json()[::2]] == ["0", "1", "2"]

    def test_closure_shows_at_the_end_only(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()
        for _ in range(2):
            client.post("/s", headers=TEXT, content=b"x" * 900)
        client.post("/s", headers={"stream-closed": "true"})
        first = client.get("/s")
        second = client.get("/s", params={"offset": first.headers["stream-next-offset"]})
        empty = client.get("/s", params={"offset": second.headers["stream-next-offset"]})
        closed = [page.headers.get("stream-closed") for page in (first, second, empty)]
        assert closed == [None, "true", "true"]
        assert (empty.status_code, empty.content) == (200, b"")

    def test_nothing_to_read(self, client: httpx.Client) -> None:
        for query in ("", "?offset=now", "?offset=-1&live=long-poll", "?offset=-1&live=sse"):
            assert client.get(f"/s{query}").status_code == 404


class TestOffsets:
    def test_the_start_has_two_names(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x")
        assert client.get("/s").content == client.get("/s?offset=-1").content == b"x"

    @pytest.mark.parametrize(("content_type", "empty"), [("text/plain", b""), ("application/json", b"[]")])
    def test_now_skips_everything(
        self, client: httpx.Client, create: Callable[..., str], content_type: str, empty: bytes
    ) -> None:
        create(content_type, content=b"1")
        page = client.get("/s?offset=now")
        assert (page.status_code, page.content) == (200, empty)
        assert page.headers["stream-up-to-date"] == "true"
        assert page.headers["cache-control"] == "no-store"
        assert "etag" not in page.headers
        assert page.headers["stream-next-offset"] == client.head("/s").headers["stream-next-offset"]

    @pytest.mark.parametrize(
        "query",
        [
            "offset=",
            "offset=0,1",
            "offset=0%201",
            "offset=../etc/passwd",
            "offset=%00",
            "offset=1",
            "offset=-2",
            "offset=NOW",
            "offset=%D9%A3000000000000000",
            "offset=-1&offset=-1",
            f"offset={BEYOND}",
            "live=long-poll",
            "live=sse",
            "live=polling&offset=-1",
            "&".join(f"a{n}=1" for n in range(200)),
        ],
    )
    def test_bad_queries_are_refused(self, client: httpx.Client, create: Callable[..., str], query: str) -> None:
        create(content=b"x")
        answer = client.get(f"/s?{query}")
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"

    def test_other_parameters_are_ignored(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x")
        assert client.get("/s?tag=a&tag=b&offset=-1&cursor=nonsense").content == b"x"


class TestCaching:
    def test_a_known_page_is_not_sent_again(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x")
        tag = client.get("/s").headers["etag"]
        for header in (tag, f'"other", W/{tag}', "*"):
            again = client.get("/s", headers={"if-none-match": header})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        assert client.get("/s", headers={"if-none-match": '"other"'}).status_code == 200

    def test_data_and_closure_make_another_tag(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x")
        tags = [client.get("/s").headers["etag"]]
        client.post("/s", headers=TEXT, content=b"y")
        tags.append(client.get("/s").headers["etag"])
        client.post("/s", headers={"stream-closed": "true"})
        tags.append(client.get("/s").headers["etag"])
        assert len(set(tags)) == 3
        assert client.get("/s", headers={"if-none-match": tags[1]}).headers["stream-closed"] == "true"

    def test_data_may_be_cached_but_the_lack_of_it_may_not(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        assert client.get("/s").headers["cache-control"] == "no-cache"
        client.post("/s", headers=TEXT, content=b"x")
        cached = "public, max-age=60, stale-while-revalidate=300"
        assert client.get("/s").headers["cache-control"] == cached

    def test_no_cache_outlives_the_stream(self, client: httpx.Client) -> None:
        client.put("/s", headers={**TEXT, "stream-ttl": "20"}, content=b"x")
        assert client.get("/s").headers["cache-control"] == "public, max-age=21"


class TestBrowsers:
    @pytest.mark.parametrize("path", ["/s", "/missing", "/s?offset=bad", "/s?offset=now&live=sse"])
    def test_security_headers_are_on_every_answer(
        self, client: httpx.Client, create: Callable[..., str], path: str
    ) -> None:
        create()
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "cross-origin"
        assert headers["access-control-allow-origin"] == "*"
        assert "stream-next-offset" in headers["access-control-expose-headers"]

    def test_preflight(self, client: httpx.Client) -> None:
        answer = client.options("/s")
        assert answer.status_code == 204
        assert "if-none-match" in answer.headers["access-control-allow-headers"]
        assert "PUT" in answer.headers["access-control-allow-methods"]
