"""Fixtures for tests of the client: every test of a front runs over both."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from durable_streams import DurableStream, _http
from durable_streams._retry import Backoff
from durable_streams.testing import InMemoryStreamServer
from harness.stream_client import AsyncFront, Front, SyncFront, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams._exchange import RetryPolicy


@pytest.fixture(scope="session")
def server() -> Iterator[InMemoryStreamServer]:
    """One server for all tests: each uses a `url` of its own."""
    with InMemoryStreamServer() as started:
        started.url()
        yield started


@pytest.fixture
def url(server: InMemoryStreamServer) -> str:
    """A URL where no stream is yet."""
    return server.url(f"/{uuid.uuid4()}")


@pytest.fixture
def wire(server: InMemoryStreamServer, url: str) -> Iterator[Wire]:
    """The way to the URL."""
    with Wire(server, url) as made:
        yield made


@pytest.fixture
def handle(url: str) -> Iterator[DurableStream]:
    """A new stream of JSON."""
    with DurableStream.create(url, content_type="application/json") as created:
        yield created


@pytest.fixture(params=[SyncFront, AsyncFront], ids=["sync", "async"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    with request.param() as face:
        yield face


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off is tested with a clock of its own; here it would only take time."""
    usual = _http.default_policy()

    def quick() -> RetryPolicy:
        return type(usual)(
            random=usual.random,
            utc_now=usual.utc_now,
            monotonic=usual.monotonic,
            backoff=Backoff(first_seconds=0.001, max_seconds=0.01),
        )

    monkeypatch.setattr(_http, "default_policy", quick)
