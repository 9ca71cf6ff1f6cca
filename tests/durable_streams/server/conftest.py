"""A server on each of the stores, reached without a socket, with a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from durable_streams.server import Limits, MemoryStore, ServerThread, SqliteStore, StreamApp
from durable_streams.testing import InProcessTransport
from harness.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMITS = Limits(
    long_poll_timeout_seconds=0.2,
    sse_seconds=0.5,
    page_bytes=1000,
    max_body_bytes=100_000,
    body_idle_seconds=0.2,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore | SqliteStore:
    """Closed by the server that serves it."""
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "streams")


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
def server(store: MemoryStore | SqliteStore, limits: Limits, clock: Clock) -> Iterator[ServerThread]:
    thread = ServerThread(StreamApp(store, limits=limits, clock=clock))
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def client(server: ServerThread) -> Iterator[httpx.Client]:
    with httpx.Client(transport=InProcessTransport(server), base_url="http://streams.test") as made:
        yield made


@pytest.fixture
def create(client: httpx.Client) -> Callable[..., str]:
    """Creates ``/s`` (or another path) of a content type and returns the path."""

    def create_stream(content_type: str = "text/plain", path: str = "/s", content: bytes = b"") -> str:
        answer = client.put(path, headers={"content-type": content_type}, content=content)
        assert answer.status_code == 201, answer.text
        return path

    return create_stream
