"""Fixtures for all tests. Async tests are marked ``@pytest.mark.anyio`` and run on asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from harness.leaks import Belongings, find_leaks
from harness.peers import REPOSITORY
from harness.processes import Processes
from harness.reference_server import ReferenceServer
from harness.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# How long an example takes says how busy the machine is. Where CI is set, Hypothesis sees it so of itself.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Files that take long, the longest first. A file is run by one process: one that takes long must not be begun
# last, when the other processes have nothing left to do.
LONG: Final = (
    "faults/test_mutants.py",
    "packaging/test_install.py",
    "faults/test_downlink.py",
    "ds_gateway/test_reload.py",
    "faults/test_crash_points.py",
    "durable_streams/producer/test_exploration.py",
    "ds_gateway/test_gateway.py",
    "faults/test_journal_damage.py",
    "durable_streams/server/test_conformance.py",
    "ds_gateway/cli/test_demo.py",
    "faults/test_server_forgets.py",
    "faults/test_network.py",
    "ds_gateway/test_embedded_gateway.py",
    "ds_gateway/test_examples.py",
    "ds_gateway/page/test_browser.py",
    "conformance/test_async_cases.py",
    "conformance/test_sync_cases.py",
    "faults/test_copies.py",
    "faults/test_gateway_kills.py",
    "faults/test_server_kills.py",
    "faults/test_every_syscall.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others as they were found."""
    rank = {REPOSITORY / "tests" / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(LONG)))


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


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks the project's programs: to start one takes a hundredth of a second instead of one or two."""
    with Zygote(tmp_path_factory.mktemp("zygote")) as started:
        yield started


@pytest.fixture
def processes(tmp_path: Path, zygote: Zygote) -> Iterator[Processes]:
    """Starts child processes; all are killed when the test ends."""
    with Processes(tmp_path, zygote) as started:
        yield started


@pytest.fixture(scope="session")
def reference_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceServer]:
    """One reference server in memory for all tests: use a stream name of your own, and do not kill it."""
    with Processes(tmp_path_factory.mktemp("reference-server")) as started:
        server = ReferenceServer(started)
        server.start()
        yield server
