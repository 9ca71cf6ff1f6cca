"""PROTOCOL sections 5.2 (append), 5.3 (close) and 9.1 (JSON mode)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
CLOSE = {"stream-closed": "true"}


class TestAppend:
    def test_each_append_has_an_offset_of_its_own_that_sorts(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create()
        answers = [client.post("/s", headers=TEXT, content=b"x") for _ in range(12)]
        offsets = [answer.headers["stream-next-offset"] for answer in answers]
        assert {answer.status_code for answer in answers} == {204}
        assert offsets == sorted(set(offsets))
        assert client.get("/s").content == b"x" * 12

    def test_to_nothing(self, client: httpx.Client) -> None:
        assert client.post("/s", headers=TEXT, content=b"x").status_code == 404

    def test_an_empty_body_is_refused(self, client: httpx.Client, create: Callable[..., str]) -> None:
        assert client.post(create(), headers=TEXT).status_code == 400

    def test_a_body_without_content_type_is_refused(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        assert client.post(create(), content=b"x").status_code == 400

    def test_another_content_type_is_a_conflict_that_is_neither_closure_nor_gap(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        answer = client.post(create(), headers=JSON, content=b"{}")
        assert answer.status_code == 409
        assert "stream-closed" not in answer.headers
        assert "producer-expected-seq" not in answer.headers
        assert answer.text == "the stream's content type is text/plain\n"

    def test_unknown_encodings_are_refused_rather_than_stored_encoded(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        refused = client.post(create(), headers={**TEXT, "content-encoding": "br"}, content=b"x")
        assert (refused.status_code, refused.text) == (
            415,
            "Content-Encoding 'br' is not supported: send gzip, or none\n",
        )

    def test_appends_at_the_same_time_are_all_kept(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create("application/json")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: client.post("/s", headers=JSON, content=b"%d" % n), range(200)))
        assert {answer.status_code for answer in answers} == {204}
        assert len({answer.headers["stream-next-offset"] for answer in answers}) == 200
        read = client.get("/s")
        assert sorted(read.json()) == list(range(200))


class TestStreamSeq:
    def test_it_must_rise_byte_by_byte(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()

        def append(seq: str) -> int:
            return client.post("/s", headers={**TEXT, "stream-seq": seq}, content=b"x").status_code

        assert [append(seq) for seq in ("09", "10", "10", "1", "9", "10", "a", "Z")] == [
            204, 204, 409, 409, 204, 409, 204, 409,
        ]  # fmt: skip

    @pytest.mark.parametrize("seq", ["", "x" * 2000])
    def test_it_has_a_sensible_length(self, client: httpx.Client, create: Callable[..., str], seq: str) -> None:
        assert client.post(create(), headers={**TEXT, "stream-seq": seq}, content=b"x").status_code == 400


class TestJson:
    @pytest.mark.parametrize(
        ("body", "messages"),
        [
            (b'{"event": "created"}', [{"event": "created"}]),
            (b' [{"a":1} , {"b":2}]\n', [{"a": 1}, {"b": 2}]),
            (b"[[1,2], [3,4]]", [[1, 2], [3, 4]]),
            (b"[[[1,2,3]]]", [[[1, 2, 3]]]),
            (b"[[]]", [[]]),
            (b"null", [None]),
            (b'"[]"', ["[]"]),
            (b"12", [12]),
        ],
    )
    def test_one_level_is_flattened(
        self, client: httpx.Client, create: Callable[..., str], body: bytes, messages: list[object]
    ) -> None:
        create("application/json")
        assert client.post("/s", headers=JSON, content=body).status_code == 204
        assert client.post("/s", headers=JSON, content=b"true").status_code == 204
        assert client.get("/s").json() == [*messages, True]

    def test_the_bytes_of_a_message_stay_as_they_are(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create("application/json")
        client.post("/s", headers=JSON, content=b'[{"b": 1.0, "a":1e2},  "\\u00e9"]')
        assert client.get("/s").content == b'[{"b": 1.0, "a":1e2},  "\\u00e9"]'

    @pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"{", b"NaN", b"[1,]", b"\xff", b"1 2", b"Infinity"])
    def test_what_is_not_json_is_refused_and_nothing_stored(
        self, client: httpx.Client, create: Callable[..., str], body: bytes
    ) -> None:
        create("application/json")
        answer = client.post("/s", headers=JSON, content=body)
        assert answer.status_code == 400
        assert answer.headers["stream-next-offset"]  # the proof that the stream itself refused
        assert client.get("/s").content == b"[]"

    def test_parameters_and_case_of_the_type_do_not_matter(
        self, client: httpx.Client, create: Callable[..., str]
    ) -> None:
        create("Application/JSON; charset=utf-8")
        assert client.post("/s", headers=JSON, content=b"[1,2]").status_code == 204
        assert client.get("/s").json() == [1, 2]


class TestClose:
    def test_without_data(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create(content=b"x")
        before = client.head("/s").headers["stream-next-offset"]
        for _ in range(2):
            answer = client.post("/s", headers={**CLOSE, **JSON})
            assert (answer.status_code, answer.headers["stream-closed"]) == (204, "true")
            assert answer.headers["stream-next-offset"] == before

    def test_with_the_last_data(self, client: httpx.Client, create: Callable[..., str]) -> None:
        create()
        answer = client.post("/s", headers={**CLOSE, **TEXT}, content=b"end")
        assert (answer.status_code, answer.headers["stream-closed"]) == (204, "true")
        assert client.get("/s").content == b"end"

    @pytest.mark.parametrize("headers", [TEXT, JSON, {**TEXT, **CLOSE}])
    def test_nothing_can_be_appended_afterwards(
        self, client: httpx.Client, create: Callable[..., str], headers: dict[str, str]
    ) -> None:
        client.post(create(), headers=CLOSE)
        answer = client.post("/s", headers=headers, content=b"x")
        assert (answer.status_code, answer.headers["stream-closed"]) == (409, "true")
        assert answer.headers["stream-next-offset"] == client.head("/s").headers["stream-next-offset"]

    def test_nothing_cannot_be_closed(self, client: httpx.Client) -> None:
        assert client.post("/s", headers=CLOSE).status_code == 404
