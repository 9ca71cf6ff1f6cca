"""One adapter process a front and module, and the official cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.adapter_process import AdapterProcess
from conformance.cases import MISSING, Case
from harness.leaks import Belongings, find_leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.reference_server import ReferenceServer


@pytest.fixture(scope="module", params=["sync", "async"])
def adapter(
    request: pytest.FixtureRequest, reference_server: ReferenceServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AdapterProcess]:
    """The adapter with one of the client's fronts, connected to the reference server."""
    process = AdapterProcess.of_front(
        request.param, reference_server.url, tmp_path_factory.mktemp(f"adapter-{request.param}")
    )
    yield process
    process.kill()


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """A case; where the cases cannot be had, the reason why not."""
    if request.param is None:
        pytest.skip(MISSING)
    found: Case = request.param
    return found


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """As everywhere; but an adapter that an earlier test had to kill is replaced before stock is taken."""
    if "adapter" in request.fixturenames:
        request.getfixturevalue("adapter").ensure_running()
    earlier = Belongings.now()
    yield
    leaks = find_leaks(earlier)
    if leaks:
        pytest.fail("the test left behind: " + "; ".join(leaks), pytrace=False)
