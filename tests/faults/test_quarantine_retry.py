"""A payload that is read again is in its stream or in the quarantine, never in both or neither: with kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ds_gateway.journal import Journal, JournalLimits, rows
from ds_gateway.journal.quarantine import read_quarantine
from ds_gateway.journal.reading import numbered_rows
from ds_gateway.records import Item, Rejected
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

CHILD = Path(__file__).with_name("retrying_journal.py")
COUNT = 450
"""Three steps of a retry."""


def fill(directory: Path) -> None:
    told: list[int] = []
    limits = JournalLimits(min_free_bytes=0)
    journal = Journal.open(directory, gateway="g", url="http://streams.test/v1", limits=limits)

    def on_committed(items: Sequence[Item], _commit: int) -> None:
        told.append(len(items))

    intake = journal.intake("hall", max_items=1000, on_committed=on_committed)
    intake.offer(
        [
            Item(Rejected("hall", "a", "not JSON", b"reading %d" % n, n * 10**9, topic="sensors/a"))
            for n in range(1, COUNT + 1)
        ]
    )
    journal.start()
    wait_until(lambda: sum(told) == COUNT, what="all are in the quarantine")
    journal.stop()


def in_quarantine(directory: Path) -> list[int]:
    return [number for number, _ in read_quarantine(directory)]


def in_stream(directory: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for key, row in numbered_rows(directory, rows.segment_key(1, 0), "s/", newest_first=False):
        records += map(orjson.loads, rows.decode_segment(key, row or b"").elements())
    return [record for record in records if "data" in record]


def run(directory: Path, when: str, number: int) -> int:
    done = subprocess.run([sys.executable, CHILD, directory, when, str(number)], check=False, timeout=60)
    return done.returncode


@pytest.mark.parametrize(("when", "number"), [("before", 2), ("after", 2)])
def test_each_is_in_one_place_after_a_kill(when: str, number: int, tmp_path: Path) -> None:
    fill(tmp_path)
    assert run(tmp_path, when, number) == -signal.SIGKILL
    left, there = in_quarantine(tmp_path), in_stream(tmp_path)
    assert sorted(left + [int(record["data"]["value"].split()[1]) for record in there]) == list(
        range(1, COUNT + 1)
    )
    assert len(left) > 0 if when == "before" else len(there) > 0
    assert run(tmp_path, "never", 0) == 0
    assert in_quarantine(tmp_path) == []
    there = in_stream(tmp_path)
    assert [record["data"]["value"] for record in there] == [f"reading {n}" for n in range(1, COUNT + 1)]
    assert [record["time"] for record in there[:2]] == [f"1970-01-01T00:00:0{n}.000000Z" for n in (1, 2)]
    assert len({record["id"] for record in there}) == COUNT


def test_a_row_that_stays_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same judgement on a journal that forgets to take the row out."""

    fill(tmp_path)
    mutant = tmp_path / "mutant"
    mutant.mkdir()
    (mutant / "sitecustomize.py").write_text(
        "from ds_gateway.journal.quarantine import Retrying\n"
        "Retrying._release = lambda self, number, key, row: self.parts.add('A')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{mutant}")
    assert run(tmp_path, "after", 2) == -signal.SIGKILL
    assert set(in_quarantine(tmp_path)) & {
        int(record["data"]["value"].split()[1]) for record in in_stream(tmp_path)
    }
