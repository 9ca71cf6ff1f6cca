"""Clients that are silent, slow or many: each is ended or refused in time, and the others are served."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

import httpx
import pytest

from durable_streams.server import ConnectionLimits, Limits, MemoryStore, ServerThread, StreamApp
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = {"content-type": "text/plain"}
LARGE = b"x" * 16_000_000  # more than the buffers of both sides hold
HEAD = b"HEAD /s HTTP/1.1\r\nhost: x\r\n\r\n"
SHORT = ConnectionLimits(max_connections=4, head_seconds=0.3, stalled_seconds=0.3)


@pytest.fixture
def connections() -> ConnectionLimits:
    return SHORT


@pytest.fixture
def limits() -> Limits:
    return Limits(long_poll_timeout_seconds=20)


@pytest.fixture
def url(limits: Limits, connections: ConnectionLimits) -> Iterator[str]:
    """Where the server listens; its stream ``/s`` holds one large message."""
    thread = ServerThread(StreamApp(MemoryStore(), limits=limits), connections=connections)
    thread.start()
    try:
        base = thread.listen()
        assert httpx.put(f"{base}/s", headers=TEXT, content=LARGE).status_code == 201
        yield base
    finally:
        thread.stop()


@pytest.fixture
def connect(url: str) -> Iterator[Callable[..., socket.socket]]:
    """Opens a connection; all are closed when the test ends."""
    with ExitStack() as stack:

        def open_connection(receive_bytes: int | None = None) -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            if receive_bytes is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            made.settimeout(20)
            made.connect((httpx.URL(url).host, httpx.URL(url).port))
            return made

        yield open_connection


def wait_for_end(connection: socket.socket) -> None:
    """Wait until the server ends a connection that it sent nothing over."""
    try:
        assert connection.recv(1) == b""
    except ConnectionResetError:
        return


def asked(connection: socket.socket, request: bytes = HEAD) -> str:
    """An answer: its head at least."""
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received.decode()


def send_for_ever(connection: socket.socket, piece: bytes) -> NoReturn:
    while True:
        connection.sendall(piece)


def is_reset(connection: socket.socket) -> bool:
    """Whether the server broke the connection; nothing is read from it."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in {errno.ECONNRESET, errno.EPIPE}


class TestHeads:
    def test_a_silent_connection_is_ended(self, url: str, connect: Callable[..., socket.socket]) -> None:
        silent = connect()
        assert httpx.head(f"{url}/s").status_code == 200
        wait_for_end(silent)
        assert httpx.head(f"{url}/s").status_code == 200

    def test_one_that_sends_its_head_byte_by_byte_is_ended(
        self, url: str, connect: Callable[..., socket.socket]
    ) -> None:
        dripping = connect()
        dripping.sendall(b"GET /s HTTP/1.1\r\nhost: x\r\nx-long: ")

        def is_ended() -> bool:
            try:
                dripping.sendall(b"x")
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        wait_until(is_ended, what="the dripping connection is ended")
        assert httpx.head(f"{url}/s").status_code == 200

    def test_the_next_head_has_its_time_too(self, connect: Callable[..., socket.socket]) -> None:
        connection = connect()
        assert asked(connection).startswith("HTTP/1.1 200 ")
        connection.sendall(HEAD[:-3])
        wait_for_end(connection)

    def test_between_two_requests_a_client_may_be_silent(self, connect: Callable[..., socket.socket]) -> None:
        idle = connect()
        assert asked(idle).startswith("HTTP/1.1 200 ")
        wait_for_end(connect())  # that long
        assert asked(idle).startswith("HTTP/1.1 200 ")

    def test_a_reader_may_wait_for_news(self, url: str, connect: Callable[..., socket.socket]) -> None:
        reader = connect()
        reader.sendall(b"GET /s?offset=now&live=long-poll HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_for_end(connect())  # that long
        assert httpx.post(f"{url}/s", headers=TEXT, content=b"news").status_code == 204
        assert asked(reader, b"").startswith("HTTP/1.1 200 ")

    def test_a_body_may_take_longer(self, connect: Callable[..., socket.socket]) -> None:
        slow = connect()
        head = b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n"
        assert asked(slow, head + b"expect: 100-continue\r\n\r\n").startswith("HTTP/1.1 100 ")
        slow.sendall(b"ha")
        wait_for_end(connect())  # that long
        assert asked(slow, b"lf").startswith("HTTP/1.1 204 ")


class TestReaders:
    def test_one_that_stops_reading_is_ended(self, url: str, connect: Callable[..., socket.socket]) -> None:
        stalled = connect(4096)
        stalled.sendall(b"GET /s HTTP/1.1\r\nhost: x\r\n\r\n")
        assert stalled.recv(100).startswith(b"HTTP/1.1 200 ")
        assert httpx.get(f"{url}/s").content == LARGE
        wait_until(lambda: is_reset(stalled), what="the stalled connection is broken")
        assert httpx.get(f"{url}/s").content == LARGE

    def test_one_whose_answer_is_in_pieces_is_ended_too(self, connect: Callable[..., socket.socket]) -> None:
        stalled = connect(4096)
        stalled.sendall(b"GET /s?offset=-1&live=sse HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: is_reset(stalled), what="the stalled connection is broken")

    @pytest.mark.parametrize("connections", [ConnectionLimits(stalled_seconds=1)])
    def test_a_slow_one_gets_everything(
        self, connections: ConnectionLimits, connect: Callable[..., socket.socket]
    ) -> None:
        slow, stalled = connect(4096), connect(4096)
        for each in (slow, stalled):
            each.sendall(b"GET /s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = bytearray()

        def is_over() -> bool:
            received.extend(slow.recv(4096))
            return is_reset(stalled)

        wait_until(is_over, what="the stalled connection is broken")
        assert len(received) < len(LARGE), "it was not slow"
        while chunk := slow.recv(1_000_000):
            received.extend(chunk)
        assert received.endswith(b"\r\n\r\n" + LARGE)


class TestCrowds:
    def test_those_who_come_late_are_told_to_come_back(
        self, url: str, connect: Callable[..., socket.socket]
    ) -> None:
        early = [connect() for _ in range(SHORT.max_connections)]
        assert all(asked(each).startswith("HTTP/1.1 200 ") for each in early)
        surplus = connect()
        assert all(asked(each).startswith("HTTP/1.1 200 ") for each in early), "those who came first are served"
        assert asked(surplus).startswith("HTTP/1.1 503 ")
        late = httpx.post(f"{url}/s", headers=TEXT, content=LARGE)
        assert (late.status_code, late.text) == (503, "too many connections\n")
        assert int(late.headers["retry-after"]) > 0
        assert late.headers["connection"] == "close"
        assert all(asked(each).startswith("HTTP/1.1 200 ") for each in early)
        early[0].close()
        wait_until(lambda: httpx.head(f"{url}/s").status_code == 200, what="there is room again")

    def test_silent_ones_are_part_of_the_crowd_until_they_are_ended(
        self, url: str, connect: Callable[..., socket.socket]
    ) -> None:
        silent: list[socket.socket] = []

        def is_refused() -> bool:
            # On a busy machine they may be ended before the question comes.
            silent[:] = [connect() for _ in range(SHORT.max_connections)]
            return client.head("/s").status_code == 503

        with httpx.Client(base_url=url) as client:
            wait_until(is_refused, what="the crowd lets nobody in")
            for each in silent:
                wait_for_end(each)
            wait_until(lambda: client.head("/s").status_code == 200, what="there is room again")


class TestTheLimits:
    @pytest.mark.parametrize("name", ["max_connections", "head_seconds", "stalled_seconds"])
    @pytest.mark.parametrize("value", [0, -1, float("nan")])
    def test_they_are_positive(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"{name} must be positive, not {value}"):
            ConnectionLimits(**{name: value})  # type: ignore[arg-type]

    def test_the_server_stops_while_a_client_does_not_read(self, connect: Callable[..., socket.socket]) -> None:
        """The fixtures stop it: the connection is not left behind."""
        connect(4096).sendall(b"GET /s HTTP/1.1\r\nhost: x\r\n\r\n")


class TestHeadsWithoutEnd:
    """Many headers, one long one, or a long path: never more than a little is kept."""

    @pytest.fixture
    def connections(self) -> ConnectionLimits:
        return ConnectionLimits()

    @pytest.fixture
    def limits(self) -> Limits:
        """What comes behind a request is looked at when that has its answer."""
        return Limits(long_poll_timeout_seconds=1)

    @pytest.mark.parametrize("piece", [b"x: y\r\n", b"y" * 6, b"\r\nx: y"])
    def test_it_is_refused(self, connect: Callable[..., socket.socket], url: str, piece: bytes) -> None:
        connection = connect()
        connection.sendall(b"GET /s HTTP/1.1\r\nx:")
        # It may be reset right behind the answer, which is then lost.
        with contextlib.suppress(ConnectionError):
            while not select.select([connection], [], [], 0)[0]:
                connection.sendall(piece * 1000)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert httpx.head(f"{url}/s").status_code == 200

    def test_one_behind_a_request_that_runs_ends_the_connection(
        self, connect: Callable[..., socket.socket], url: str
    ) -> None:
        connection = connect()
        connection.sendall(b"GET /s?offset=now&live=long-poll HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.sendall(b"GET /s HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            send_for_ever(connection, b"x: y\r\n" * 1000)
        assert httpx.head(f"{url}/s").status_code == 200

    def test_large_bodies_do_not_count(self, connect: Callable[..., socket.socket], url: str) -> None:
        connection = connect()
        body = b"x" * 200_000
        head = f"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n"
        for _ in range(3):
            assert asked(connection, head.encode() + body).startswith("HTTP/1.1 204 ")
        del url
