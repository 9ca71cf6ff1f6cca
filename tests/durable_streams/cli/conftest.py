"""Fixtures for tests of the command line."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from durable_streams import _http
from durable_streams._retry import Backoff
from durable_streams.testing import InMemoryStreamServer
from harness.stream_command import StreamCommand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_streams._exchange import RetryPolicy


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> StreamCommand:
    """``durable-streams`` inside this process; retries are quick."""
    usual = _http.default_policy()

    def quick() -> RetryPolicy:
        return type(usual)(
            random=usual.random,
            utc_now=usual.utc_now,
            monotonic=usual.monotonic,
            backoff=Backoff(first_seconds=0.001, max_seconds=0.01),
        )

    monkeypatch.setattr(_http, "default_policy", quick)
    return StreamCommand(monkeypatch, capfdbinary, tmp_path)


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
