"""Records that an operator skips: the file that they go into, and what the loss record says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ds_gateway.errors import JournalError
from ds_gateway.journal.skipping import FOLDER, Skipped, write_file
from ds_gateway.journal.tally import Tally
from harness.journal_box import JournalBox, reading

if TYPE_CHECKING:
    from pathlib import Path

STREAM = "telemetry/a"
FIRST = [b'{"id":"aa.b.1","n":1}', b'{"id":"aa.b.2","n":2}']


def test_the_ids_name_the_file(tmp_path: Path) -> None:
    path = write_file(tmp_path, 7, FIRST, Skipped())
    assert path == tmp_path / FOLDER / "stream-7-aa.b.1-aa.b.2.jsonl"
    assert path.read_bytes() == b"".join(record + b"\n" for record in FIRST)
    salvaged = [record.replace(b"aa.b", b"aa.c") for record in FIRST]
    assert write_file(tmp_path, 7, salvaged, Skipped()) != path


def test_no_file_with_other_content_is_replaced(tmp_path: Path) -> None:
    path = write_file(tmp_path, 7, FIRST, Skipped())
    before = path.read_bytes()
    other = [FIRST[0].replace(b'"n":1', b'"n":9'), FIRST[1]]
    second = write_file(tmp_path, 7, other, Skipped())
    assert second.name == "stream-7-aa.b.1-aa.b.2-2.jsonl"
    assert path.read_bytes() == before
    assert write_file(tmp_path, 7, FIRST, Skipped()) == path, "the same again is the same file"
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_a_file_that_cannot_be_written_says_what_is_skipped_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(JournalError, match=r"2.jsonl cannot be written: .*; nothing is skipped$"):
        write_file(tmp_path, 7, FIRST, Skipped())
    before = Skipped(30, (tmp_path / "a.jsonl", tmp_path / "b.jsonl"))
    with pytest.raises(JournalError, match=r"; 30 records are skipped and in 2 files, .* b.jsonl; the others are"):
        write_file(tmp_path, 7, FIRST, before)


@pytest.mark.parametrize("certain", [True, False])
def test_a_loss_that_takes_over_another_is_as_certain_as_both(*, certain: bool) -> None:
    tally = Tally("skipped", 1, 1)
    time = "2026-01-01T00:00:00.000000Z"
    tally.add_loss(
        {
            "cause": "skipped",
            "certain": certain,
            "count": 1,
            "first_position": 1,
            "last_position": 1,
            "first_time": time,
            "last_time": time,
        }
    )
    assert tally.loss(0).certain is certain


def test_a_producer_that_begins_again_does_not_wait_for_a_batch_that_was_just_resolved(tmp_path: Path) -> None:
    box = JournalBox(tmp_path / "data")
    box.open()

    async def again() -> None:
        store = box.journal.store(box.stream(STREAM).number, birth={})
        batch = await store.next_batch(1 << 20)
        await store.resolve(batch, "0001")
        loaded = await asyncio.wait_for(store.load(), 20)
        assert (loaded.batch, loaded.resolved_seq) == (None, batch.seq)

    try:
        box.accept(reading(1, stream=STREAM))
        asyncio.run(again())
    finally:
        box.journal.stop()
