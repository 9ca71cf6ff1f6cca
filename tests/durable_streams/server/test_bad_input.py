"""What a hostile or broken client sends: a clear answer, nothing stored, and the server lives."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durable_streams.server import ServerThread

TEXT = {"content-type": "text/plain"}
TOO_MUCH = 100_001


@pytest.fixture
def address(server: ServerThread) -> tuple[str, int]:
    """Where the server listens."""
    url = httpx.URL(server.listen())
    assert url.port is not None
    return url.host, url.port


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as made:
        yield made


def answer(connection: socket.socket) -> str:
    """Everything up to the end of the connection.

    The kernel resets it where the server closed it with bytes of ours unread; what was answered comes first.
    """
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        assert received, "the server closed the connection without an answer"
    return received.decode()


def test_a_body_that_is_too_large_is_refused_by_its_length(
    client: httpx.Client, create: Callable[..., str]
) -> None:
    refused = client.post(create(), headers=TEXT, content=b"x" * TOO_MUCH)
    assert (refused.status_code, refused.text) == (413, "the body is larger than 100000 bytes\n")
    assert "stream-next-offset" in refused.headers, "so that a producer knows that it is not a proxy that refuses"
    assert client.post("/nowhere", headers=TEXT, content=b"x" * TOO_MUCH).status_code == 413
    assert client.post("/s", headers=TEXT, content=b"x" * (TOO_MUCH - 1)).status_code == 204


def test_a_large_upload_gets_its_answer(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        client.put("/s", headers=TEXT)
        refused = client.post("/s", headers=TEXT, content=b"x" * 20_000_000)
        assert refused.status_code == 413
        chunked = client.post("/s", headers=TEXT, content=(b"x" * 65536 for _ in range(300)))
        assert chunked.status_code == 413
        assert client.get("/s").content == b""


def test_who_asks_before_sending_too_much_is_told_not_to(connection: socket.socket) -> None:
    connection.sendall(b"PUT /s HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\nexpect: 100-continue\r\n\r\n")
    assert answer(connection).startswith("HTTP/1.1 413 ")


def test_a_body_that_stops_coming_is_given_up(connection: socket.socket, client: httpx.Client) -> None:
    client.put("/s", headers=TEXT)
    connection.sendall(
        b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nhalf"
    )
    assert answer(connection).startswith("HTTP/1.1 408 ")
    assert client.get("/s").content == b""


@pytest.mark.parametrize(
    "head", [b"content-length: 100\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_half_a_body_is_not_stored(connection: socket.socket, client: httpx.Client, head: bytes) -> None:
    client.put("/s", headers=TEXT)
    connection.sendall(b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n" + head)
    connection.shutdown(socket.SHUT_WR)
    answer(connection)
    assert client.get("/s").content == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /s HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-length: nonsense\r\n\r\n",
    ],
    ids=["no HTTP", "bad header", "long line", "bad length"],
)
def test_what_is_not_http_is_refused(connection: socket.socket, client: httpx.Client, raw: bytes) -> None:
    connection.sendall(raw)
    connection.shutdown(socket.SHUT_WR)
    assert answer(connection).startswith("HTTP/1.1 4")
    assert client.put("/still/alive", headers=TEXT).status_code == 201


@pytest.mark.parametrize("path", ["/../etc/passwd", "/a/./b"])
def test_raw_dots_are_refused(connection: socket.socket, path: str) -> None:
    connection.sendall(f"PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert answer(connection).startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("value", ["nonsense", "text/", "text/plain; ü", "x" * 2000])
def test_a_content_type_that_is_none(client: httpx.Client, value: str) -> None:
    refused = client.put("/s", headers=[(b"content-type", value.encode())])
    assert refused.status_code == 400
    assert "Content-Type" in refused.text


def test_an_unknown_method(client: httpx.Client, create: Callable[..., str]) -> None:
    refused = client.request("PATCH", create(), headers=TEXT, content=b"x")
    assert refused.status_code == 405
    assert "POST" in refused.headers["allow"]


def test_a_repeated_header_is_not_half_believed(client: httpx.Client, create: Callable[..., str]) -> None:
    twice = [("producer-id", "p"), ("producer-epoch", "0"), ("producer-seq", "0"), ("producer-seq", "1")]
    refused = client.post(create(), headers=[("content-type", "text/plain"), *twice], content=b"x")
    assert refused.status_code == 400


def test_json_that_is_nested_without_end(client: httpx.Client, create: Callable[..., str]) -> None:
    create("application/json")
    headers = {"content-type": "application/json"}
    assert client.post("/s", headers=headers, content=b"[" * 50_000).status_code == 400
    deep = b"[" * 20_000 + b"]" * 20_000
    assert client.post("/s", headers=headers, content=deep).status_code == 400


class TestWhoRefuses:
    """What is refused of an existing stream carries its position, so that nobody takes a proxy's word for it."""

    @pytest.mark.parametrize(
        ("method", "query", "headers"),
        [
            ("POST", "", TEXT),
            ("POST", "", {**TEXT, "producer-id": "p"}),
            ("POST", "", {**TEXT, "stream-seq": ""}),
            ("POST", "", {"content-type": "?"}),
            ("PUT", "", {**TEXT, "stream-ttl": "soon"}),
            ("GET", "?offset=x", {}),
            ("GET", "?offset=-1&offset=now", {}),
            ("GET", "?live=sse", {}),
            ("GET", "?offset=0000000000000009", {}),
        ],
    )
    def test_a_bad_request_to_a_stream(
        self, client: httpx.Client, create: Callable[..., str], method: str, query: str, headers: dict[str, str]
    ) -> None:
        path = create(content=b"x")
        refused = client.request(method, path + query, headers=headers)
        assert (refused.status_code, refused.headers["stream-next-offset"]) == (400, "0000000000000001")
        elsewhere = client.request(method, "/none" + query, headers=headers)
        assert elsewhere.status_code in {400, 404}
        assert not any(name.startswith("stream-") for name in elsewhere.headers)
