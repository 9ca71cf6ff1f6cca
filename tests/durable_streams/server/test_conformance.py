"""The protocol's official server suite (npm), on both stores; forks and subscriptions are left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import orjson
import pytest

from durable_streams.testing import InMemoryStreamServer
from harness.peers import require_peer, require_tool
from harness.processes import Processes, console_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import ChildProcess

LONG_POLL_SECONDS = 0.3
# The runner's own limit of 5 s for a test would tell how busy the machine is: one of them checks 100,000 bytes one
# after the other. What hangs is found all the same, as no run may take longer than the fixture waits.
TEST_MILLISECONDS = 60_000
WITHOUT_FORKS = "^(?!Fork - )"
PASSED = {
    "Basic Stream Operations": 5,
    "Append Operations": 3,
    "Read Operations": 3,
    "Long-Poll Operations": 2,
    "HTTP Protocol": 15,
    "Browser Security Headers": 9,
    "TTL and Expiry Validation": 5,
    "Case-Insensitivity": 3,
    "Content-Type Validation": 3,
    "HEAD Metadata": 3,
    "Offset Validation and Resumability": 20,
    "Protocol Edge Cases": 12,
    "Long-Poll Edge Cases": 5,
    "TTL and Expiry Edge Cases": 9,
    "HEAD Metadata Edge Cases": 2,
    "TTL Expiration Behavior": 14,
    "Caching and ETag": 5,
    "Chunking and Large Payloads": 2,
    "Read-Your-Writes Consistency": 3,
    "SSE Mode": 31,
    "JSON Mode": 16,
    "Property-Based Tests (fast-check)": 17,
    "Idempotent Producer Operations": 29,
    "Stream Closure": 34,
}
STORES = ("memory", "sqlite")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The suite's report for each store. Both runs mostly wait, so they run at the same time."""
    peer = require_peer("conformance")
    folder = tmp_path_factory.mktemp("conformance")
    found = {store: folder / f"{store}.json" for store in STORES}
    with (
        Processes(folder) as processes,
        InMemoryStreamServer(long_poll_timeout_seconds=LONG_POLL_SECONDS) as memory,
    ):
        urls = {"memory": memory.url(), "sqlite": serve(processes, folder / "data")}
        runs = [run_suite(processes, peer, urls[store], found[store]) for store in STORES]
        for run in runs:
            run.wait(timeout_seconds=110)
        yield found


def serve(processes: Processes, data: Path) -> str:
    options = ["--data", str(data), "--port", "0", "--long-poll-timeout", str(LONG_POLL_SECONDS)]
    server = processes.start([console_script("durable-streams"), "serve", *options])
    return server.wait_for_output(r"^http://\S+$")[0]


def run_suite(processes: Processes, peer: Path, url: str, report: Path) -> ChildProcess:
    vitest = peer / "node_modules" / "vitest" / "vitest.mjs"
    arguments = [str(vitest), "run", "-t", WITHOUT_FORKS, "--reporter=json", f"--outputFile={report}"]
    arguments.append(f"--testTimeout={TEST_MILLISECONDS}")
    return processes.start(
        [require_tool("node"), *arguments], name="vitest", env={"STREAM_SERVER_URL": url}, cwd=peer
    )


@pytest.mark.parametrize("store", STORES)
def test_every_test_of_every_group_passes(reports: dict[str, Path], store: str) -> None:
    results = [
        test
        for module in orjson.loads(reports[store].read_bytes())["testResults"]
        for test in module["assertionResults"]
    ]
    failures = {test["fullName"]: test["failureMessages"] for test in results if test["status"] == "failed"}
    assert failures == {}
    passed = Counter(test["ancestorTitles"][0] for test in results if test["status"] == "passed")
    assert dict(passed) == PASSED
    assert passed.total() == 250
