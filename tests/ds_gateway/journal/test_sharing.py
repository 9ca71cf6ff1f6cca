"""How streams share what is kept of sent batches."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.journal.upkeep import fair_share
from harness.journal_box import JournalBox, reading

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("sizes", "total", "share"),
    [
        ([], 100, 100),
        ([70, 30], 100, 100),
        ([500], 100, 100),
        ([500, 500], 100, 50),
        ([500, 10], 100, 90),
        ([500, 10, 400], 100, 45),
    ],
)
def test_who_needs_less_leaves_the_rest_to_the_others(sizes: list[int], total: int, share: int) -> None:
    assert fair_share(sizes, total) == share


@given(sizes=st.lists(st.integers(0, 10_000), max_size=30), total=st.integers(0, 10_000))
def test_together_they_keep_no_more_and_waste_little(sizes: list[int], total: int) -> None:
    share = fair_share(sizes, total)
    kept = sum(min(size, share) for size in sizes)
    assert kept <= total
    assert kept > total - len(sizes) or kept == sum(sizes)


def test_a_stream_with_a_record_now_and_then_takes_nothing_from_a_busy_one(tmp_path: Path) -> None:
    box = JournalBox(tmp_path, retain_bytes=20_000, batch_max_bytes=2_000)
    box.open()
    with closing(box):
        for quiet in ("health/g", "gateway/g", "receipts/g"):
            box.accept(reading(0, stream=quiet))
            box.send(quiet)
        for number in range(60):
            box.accept(reading(number, size=500))
            box.send("telemetry/a")
        box.accept(reading(60))
        kept = box.journal.snapshot().bytes
    assert 15_000 < kept < 21_500
