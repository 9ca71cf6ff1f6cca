"""PROTOCOL sections 5.1 (create), 5.4 (delete) and 5.5 (metadata)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}


class TestCreate:
    def test_a_new_stream_is_described_and_located(self, client: httpx.Client) -> None:
        answer = client.put("/v1/stream/a", headers=TEXT)
        assert answer.status_code == 201
        assert answer.headers["location"] == "http://streams.test/v1/stream/a"
        assert answer.headers["content-type"] == "text/plain"
        assert "stream-closed" not in answer.headers
        head = client.head("/v1/stream/a")
        assert head.headers["stream-next-offset"] == answer.headers["stream-next-offset"]

    def test_without_content_type_it_is_bytes(self, client: httpx.Client) -> None:
        assert client.put("/s").headers["content-type"] == "application/octet-stream"

    def test_again_with_the_same_settings_is_fine_and_changes_nothing(self, client: httpx.Client) -> None:
        first = client.put("/s", headers=TEXT, content=b"once")
        again = client.put("/s", headers={"content-type": "TEXT/plain; charset=utf-8"}, content=b"twice")
        assert (again.status_code, "location" in again.headers) == (200, False)
        assert again.headers["stream-next-offset"] == first.headers["stream-next-offset"]
        assert client.get("/s").content == b"once"

    @pytest.mark.parametrize(
        "headers",
        [
            JSON,
            {**TEXT, "stream-ttl": "60"},
            {**TEXT, "stream-expires-at": "2030-01-01T00:00:00Z"},
            {**TEXT, "stream-closed": "true"},
        ],
    )
    def test_again_with_other_settings_is_a_conflict(
        self, client: httpx.Client, create: Callable[..., str], headers: dict[str, str]
    ) -> None:
        create()
        answer = client.put("/s", headers=headers)
        assert answer.status_code == 409
        assert "exists with another" in answer.text

    def test_the_same_instant_in_another_time_zone_is_the_same_expiry(self, client: httpx.Client) -> None:
        client.put("/s", headers={**TEXT, "stream-expires-at": "2030-01-01T12:00:00Z"})
        again = client.put("/s", headers={**TEXT, "stream-expires-at": "2030-01-01T14:00:00.000+02:00"})
        assert again.status_code == 200

    def test_with_an_initial_body(self, client: httpx.Client) -> None:
        answer = client.put("/s", headers=JSON, content=b'[{"a": 1}, {"a": 2}]')
        read = client.get("/s")
        assert read.json() == [{"a": 1}, {"a": 2}]
        assert read.headers["stream-next-offset"] == answer.headers["stream-next-offset"]

    def test_an_empty_array_creates_an_empty_stream(self, client: httpx.Client) -> None:
        assert client.put("/s", headers=JSON, content=b"[]").status_code == 201
        assert client.get("/s").content == b"[]"

    def test_a_bad_initial_body_creates_nothing(self, client: httpx.Client) -> None:
        assert client.put("/s", headers=JSON, content=b"{").status_code == 400
        assert client.head("/s").status_code == 404

    def test_closed_from_the_start(self, client: httpx.Client) -> None:
        answer = client.put("/s", headers={**TEXT, "stream-closed": "True"}, content=b"all of it")
        assert (answer.status_code, answer.headers["stream-closed"]) == (201, "true")
        assert client.get("/s").headers["stream-closed"] == "true"
        assert client.post("/s", headers=TEXT, content=b"more").status_code == 409

    @pytest.mark.parametrize("value", ["false", "yes", "1", ""])
    def test_only_true_closes(self, client: httpx.Client, value: str) -> None:
        client.put("/s", headers={**TEXT, "stream-closed": value})
        assert "stream-closed" not in client.head("/s").headers

    @pytest.mark.parametrize("header", ["stream-forked-from", "stream-fork-offset", "stream-fork-sub-offset"])
    def test_forks_are_not_implemented(self, client: httpx.Client, header: str) -> None:
        assert client.put("/s", headers={header: "/other"}).status_code == 501

    def test_subscriptions_are_not_implemented(self, client: httpx.Client) -> None:
        assert client.put("/v1/stream/__ds/subscriptions/x", headers=JSON).status_code == 501


class TestPaths:
    def test_equivalent_spellings_are_one_stream(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(path="/a%7Eb/c")
        assert client.head("/a~b/c").status_code == 200

    def test_an_escaped_slash_is_not_a_slash(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(path="/a%2Fb")
        assert client.head("/a/b").status_code == 404
        assert client.head("/a%2fb").status_code == 200

    @pytest.mark.parametrize("path", ["/a/%2e%2e/b", "/%2E", "/a%00b", "/a%0Ab"])
    def test_paths_that_cannot_be_streams(self, client: httpx.Client, path: str) -> None:
        assert client.put(path, headers=TEXT).status_code == 400

    def test_a_path_that_is_too_long(self, client: httpx.Client) -> None:
        assert client.put("/" + "x" * 3000, headers=TEXT).status_code == 414


class TestDescribe:
    def test_everything_about_a_stream(self, client: httpx.Client) -> None:
        client.put("/s", headers={**TEXT, "stream-ttl": "60"})
        head = client.head("/s")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["stream-ttl"] == "60"
        assert head.headers["cache-control"] == "no-store"
        assert "stream-expires-at" not in head.headers

    def test_the_expiry_is_given_as_it_came(self, client: httpx.Client) -> None:
        client.put("/s", headers={**TEXT, "stream-expires-at": "2030-01-01T00:00:00+01:00"})
        assert client.head("/s").headers["stream-expires-at"] == "2030-01-01T00:00:00+01:00"

    def test_a_closed_one(self, client: httpx.Client, create: Callable[..., str]) -> None:
        client.post(create(), headers={"stream-closed": "true"})
        assert client.head("/s").headers["stream-closed"] == "true"


class TestDelete:
    def test_it_is_gone_with_its_data_and_its_producers(self, client: httpx.Client) -> None:
        producer = {**TEXT, "producer-id": "p", "producer-epoch": "3", "producer-seq": "0"}
        client.put("/s", headers=TEXT, content=b"old")
        client.post("/s", headers=producer, content=b"old too")
        old_tag = client.get("/s").headers["etag"]
        assert client.delete("/s").status_code == 204
        assert client.get("/s").status_code == 404
        assert client.delete("/s").status_code == 404
        client.put("/s", headers=TEXT, content=b"new")
        assert client.get("/s").content == b"new"
        assert client.get("/s").headers["etag"] != old_tag
        assert client.post("/s", headers={**producer, "producer-epoch": "0"}, content=b"!").status_code == 200
