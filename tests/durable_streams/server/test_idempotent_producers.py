"""PROTOCOL section 5.2.1: exactly what a producer relies on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}


def mark(epoch: int | str, seq: int | str, producer_id: str = "p") -> dict[str, str]:
    return {"producer-id": producer_id, "producer-epoch": str(epoch), "producer-seq": str(seq)}


@pytest.fixture
def post(client: httpx.Client, create: Callable[..., str]) -> Callable[..., httpx.Response]:
    create()

    def post_batch(epoch: int, seq: int, content: bytes = b"x", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post("/s", headers={**TEXT, **mark(epoch, seq), **named}, content=content)

    return post_batch


def test_new_data_is_200_with_the_echo_and_the_offset(
    client: httpx.Client, post: Callable[..., httpx.Response]
) -> None:
    answer = post(0, 0)
    assert answer.status_code == 200
    assert (answer.headers["producer-epoch"], answer.headers["producer-seq"]) == ("0", "0")
    assert answer.headers["stream-next-offset"] == client.head("/s").headers["stream-next-offset"]


def test_a_duplicate_is_204_with_the_highest_accepted_seq(
    client: httpx.Client, post: Callable[..., httpx.Response]
) -> None:
    for seq in range(3):
        post(0, seq, b"%d" % seq)
    answer = post(0, 1, b"another body")
    assert answer.status_code == 204
    assert (answer.headers["producer-epoch"], answer.headers["producer-seq"]) == ("0", "2")
    assert "stream-next-offset" not in answer.headers
    assert client.get("/s").content == b"012"


def test_a_gap_is_409_with_what_was_expected(post: Callable[..., httpx.Response]) -> None:
    post(0, 0)
    answer = post(0, 2)
    assert answer.status_code == 409
    assert answer.headers["producer-expected-seq"] == "1"
    assert answer.headers["producer-received-seq"] == "2"
    assert "stream-closed" not in answer.headers


def test_an_unknown_producer_begins_with_0(post: Callable[..., httpx.Response]) -> None:
    answer = post(7, 5)
    assert (answer.status_code, answer.headers["producer-expected-seq"]) == (409, "0")
    assert post(7, 0).status_code == 200


def test_the_largest_seq_probes_without_storing_anything(
    client: httpx.Client, post: Callable[..., httpx.Response]
) -> None:
    post(0, 0, b"a")
    answer = post(0, 2**53 - 1, b"probe")
    assert (answer.status_code, answer.headers["producer-expected-seq"]) == (409, "1")
    assert client.get("/s").content == b"a"


def test_an_older_epoch_is_fenced_off(post: Callable[..., httpx.Response]) -> None:
    post(4, 0)
    answer = post(3, 0)
    assert (answer.status_code, answer.headers["producer-epoch"]) == (403, "4")


def test_a_newer_epoch_begins_with_0(post: Callable[..., httpx.Response]) -> None:
    post(0, 0)
    assert post(1, 1).status_code == 400
    assert post(1, 0).status_code == 200
    assert post(0, 1).status_code == 403
    assert post(1, 1).status_code == 200


def test_producers_do_not_know_of_each_other(client: httpx.Client, post: Callable[..., httpx.Response]) -> None:
    post(0, 0, b"p")
    answer = client.post("/s", headers={**TEXT, **mark(0, 0, "q")}, content=b"q")
    assert answer.status_code == 200
    assert client.get("/s").content == b"pq"


def test_a_refused_body_uses_up_no_seq(client: httpx.Client, create: Callable[..., str]) -> None:
    create("application/json")
    refused = client.post("/s", headers={**JSON, **mark(0, 0)}, content=b"nonsense")
    assert refused.status_code == 400
    assert client.post("/s", headers={**JSON, **mark(0, 0)}, content=b"1").status_code == 200


def test_a_duplicate_is_one_whatever_its_stream_seq(post: Callable[..., httpx.Response]) -> None:
    assert post(0, 0, stream_seq="5").status_code == 200
    assert post(0, 0, stream_seq="5").status_code == 204
    assert post(0, 1, stream_seq="5").status_code == 409
    assert post(0, 1, stream_seq="6").status_code == 200


def test_the_content_type_is_checked_before_the_seq(
    client: httpx.Client, post: Callable[..., httpx.Response]
) -> None:
    answer = client.post("/s", headers={**JSON, **mark(0, 5)}, content=b"1")
    assert answer.status_code == 409
    assert "producer-expected-seq" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"producer-id": "p"},
        {"producer-id": "p", "producer-epoch": "0"},
        {"producer-epoch": "0", "producer-seq": "0"},
        mark(0, 0, ""),
        mark(0, 0, "x" * 2000),
        mark("-1", 0),
        mark("1e3", 0),
        mark(0, "1abc"),
        mark(0, "+1"),
        mark(0, "٣"),
        mark(0, 2**53),
        mark(0, "9" * 400),
        mark(0, ""),
    ],
    ids=str,
)
def test_malformed_marks_are_refused(
    client: httpx.Client, create: Callable[..., str], headers: dict[str, str]
) -> None:
    create()
    raw = [(name.encode(), value.encode()) for name, value in {**TEXT, **headers}.items()]
    answer = client.post("/s", headers=raw, content=b"x")
    assert answer.status_code == 400
    assert "Producer-" in answer.text


class TestClosing:
    def test_the_closing_batch_can_be_sent_again(
        self, client: httpx.Client, post: Callable[..., httpx.Response]
    ) -> None:
        first = post(0, 0, b"end", stream_closed="true")
        assert (first.status_code, first.headers["stream-closed"]) == (200, "true")
        again = post(0, 0, b"end", stream_closed="true")
        assert (again.status_code, again.headers["stream-closed"]) == (204, "true")
        assert (again.headers["producer-epoch"], again.headers["producer-seq"]) == ("0", "0")
        assert client.get("/s").content == b"end"

    def test_closure_is_checked_before_duplicates_epochs_and_gaps(
        self, post: Callable[..., httpx.Response]
    ) -> None:
        post(1, 0)
        post(1, 1, stream_closed="true")
        for epoch, seq in ((1, 0), (0, 0), (1, 2), (1, 9), (2, 0)):
            answer = post(epoch, seq)
            assert (answer.status_code, answer.headers["stream-closed"]) == (409, "true")
            assert "producer-expected-seq" not in answer.headers

    def test_a_close_without_data_takes_a_seq(
        self, client: httpx.Client, post: Callable[..., httpx.Response]
    ) -> None:
        post(0, 0)
        gap = client.post("/s", headers={"stream-closed": "true", **mark(0, 5)})
        assert gap.status_code == 409
        closed = client.post("/s", headers={"stream-closed": "true", **mark(0, 1)})
        assert (closed.status_code, closed.headers["producer-seq"]) == (204, "1")
        again = client.post("/s", headers={"stream-closed": "true", **mark(0, 1)})
        assert (again.status_code, again.headers["producer-seq"]) == (204, "1")
