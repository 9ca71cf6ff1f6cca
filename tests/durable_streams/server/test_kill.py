"""SIGKILL under load: what was acknowledged is there, once, in order and readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.kill_run import Report, kill_repeatedly, table
from harness.reference_server import ReferenceServer
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Processes

KILLS_IN_SOAK = 300


def check(report: Report) -> None:
    print(table({"ours": report}))
    assert report.given_up == []
    assert report.verdict.fine, f"acknowledged batches are not there, once: {report.verdict}"


def test_sigkill_loses_nothing_and_stores_nothing_twice(processes: Processes, tmp_path: Path) -> None:
    report = kill_repeatedly(StreamServer(processes, tmp_path / "data"), kills=15)
    assert report.verdict.acknowledged >= 15 * 3
    check(report)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_300_sigkills_lose_nothing_and_store_nothing_twice(processes: Processes, tmp_path: Path) -> None:
    ours = kill_repeatedly(StreamServer(processes, tmp_path / "ours"), kills=KILLS_IN_SOAK)
    check(ours)
    # For comparison, and no concern of a test: it is said to store data and producer state one after the other.
    reference = kill_repeatedly(ReferenceServer(processes, data=tmp_path / "reference"), kills=KILLS_IN_SOAK)
    print(table({"ours": ours, "reference server, file-backed": reference}))
    print("\n".join([*reference.verdict.damages, *reference.given_up]))
