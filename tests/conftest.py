"""Fixtures for all tests. Async tests are marked ``@pytest.mark.anyio`` and run on asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.leaks import Belongings, find_leaks
from harness.processes import Processes
from harness.reference_server import ReferenceServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    """No test leaves a thread, a child process or a descriptor behind.

    It is set up first and torn down last among a test's own fixtures; what wider fixtures hold is older.
    """
    earlier = Belongings.now()
    yield
    leaks = find_leaks(earlier)
    if leaks:
        pytest.fail("the test left behind: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the products do."""
    return "asyncio"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts child processes; all are killed when the test ends."""
    with Processes(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def reference_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceServer]:
    """One reference server in memory for all tests: use a stream name of your own, and do not kill it."""
    with Processes(tmp_path_factory.mktemp("reference-server")) as started:
        server = ReferenceServer(started)
        server.start()
        yield server
