"""What a retry leaves behind in the quarantine: holes, sizes, reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.journal import Journal, JournalLimits, rows
from ds_gateway.journal.quarantine import Quarantined, encode, read_quarantine
from ds_gateway.journal.reading import numbered_rows
from ds_gateway.records import Item, Record, Rejected, Retried, RetryOutcome
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ds_gateway.records import Loss


def rejected(number: int, size: int = 400) -> Rejected:
    return Rejected("hall", "one", "not JSON", bytes(size), number, topic="a")


class Box:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._told = 0
        limits = JournalLimits(min_free_bytes=0, max_bytes=80_000)
        self.journal = Journal.open(directory, gateway="g", url="http://streams.test", limits=limits)
        self._intake = self.journal.intake("x", max_items=1000, on_committed=self._take)
        self.journal.start()

    def _take(self, items: Sequence[Item], _commit: int) -> None:
        self._told += len(items)

    def offer(self, *payloads: Rejected | Retried | Loss) -> None:
        before = self._told
        assert self._intake.offer([Item(each) for each in payloads])
        wait_until(lambda: self._told == before + len(payloads), what="they are committed")

    def retry(self, number: int, now: Record | Rejected | None) -> str:
        outcome = RetryOutcome()
        self.offer(Retried(number, now, outcome))
        return outcome.word

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in read_quarantine(self.directory)]

    @property
    def lost(self) -> int:
        return self.journal.snapshot().losses.get("quarantined", (0, 0))[1]

    def check_size(self) -> None:
        """What is counted is what is there."""
        found = numbered_rows(self.directory, rows.quarantine_key(0), "q/", newest_first=False)
        size = sum(len(row or b"") + rows.ROW_OVERHEAD_BYTES for _, row in found)
        streams = sum(book.size for book in self.journal._writer.state.books.values())
        assert self.journal.snapshot().bytes - streams == size


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.check_size()
    box.journal.stop()


RECORD = Record("telemetry/g", "one", b'"data":{}}')


class TestARetry:
    def test_takes_each_out_once(self, box: Box) -> None:
        box.offer(*(rejected(n) for n in range(1, 5)))
        assert [box.retry(n, RECORD) for n in (2, 2, 3, 9)] == ["accepted", "gone", "accepted", "gone"]
        assert box.numbers == [1, 4]
        assert box.journal.accepted("telemetry/g") == 2

    def test_of_what_is_not_reported_leaves_nothing(self, box: Box) -> None:
        box.offer(rejected(1))
        assert (box.retry(1, None), box.numbers) == ("not_reported", [])
        assert box.journal.accepted("telemetry/g") == 0

    def test_keeps_what_still_fails_with_its_new_reason(self, box: Box) -> None:
        box.offer(rejected(1), rejected(2))
        now = Rejected("hall", "two", "a longer reason than before", b"", 99)
        assert box.retry(1, now) == "kept"
        kept = dict(read_quarantine(box.directory))[1]
        assert kept == Quarantined(1, "hall", "two", now.reason, bytes(400), 1, "a")
        box.check_size()

    def test_leaves_holes_that_are_no_losses(self, box: Box) -> None:
        """10,000 bytes are kept: ten of these."""
        box.offer(*(rejected(n) for n in range(1, 9)))
        assert (box.lost, box.numbers) == (0, list(range(1, 9)))
        for number in (1, 3, 4, 6, 8):
            box.retry(number, RECORD)
        assert box.numbers == [2, 5, 7]
        box.offer(*(rejected(n) for n in range(9, 18)))
        lost = box.lost
        assert 0 < lost <= 12
        assert len(box.numbers) == 12 - lost
        box.check_size()

    def test_of_all_leaves_an_empty_quarantine(self, box: Box) -> None:
        box.offer(*(rejected(n) for n in range(1, 6)))
        for number in (5, 3, 1, 2, 4):
            box.retry(number, RECORD)
        assert box.numbers == []
        counters = box.journal._writer.state.counters
        assert (counters.quarantine_first, counters.quarantine_next, counters.quarantine_size) == (6, 6, 0)


class TestARow:
    def test_of_a_frame_is_as_earlier_versions_wrote_it(self) -> None:
        frame = Rejected("scale", "scale", "r", b"\x01", 7)
        assert encode(frame) == {"source": "scale", "device": "scale", "reason": "r", "time_ns": 7, "raw": "01"}

    def test_of_an_earlier_version_has_no_topic(self) -> None:
        row = {"source": "hall", "device": "one", "reason": "r", "time_ns": 7, "raw": "01"}
        key = rows.quarantine_key(3)
        assert Quarantined.decode(key, rows.encode_json(key, row)) == Quarantined(
            3, "hall", "one", "r", b"\x01", 7
        )
