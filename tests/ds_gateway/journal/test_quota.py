"""A stream that is stopped keeps at most half of the journal, and the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.journal_box import JournalBox, covered, losses, reading, readings
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B, C = "telemetry/a", "telemetry/b", "telemetry/c"
MAX_BYTES = 200_000
WHY = "halted: the server answered 403"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[JournalBox]:
    box = JournalBox(tmp_path / "data", max_bytes=MAX_BYTES, batch_max_bytes=50_000)
    box.open()
    yield box
    box.journal.stop()


def offer(box: JournalBox, stream: str, count: int) -> None:
    box.accept(*[reading(n, stream=stream, size=900) for n in range(count)])


def test_a_stopped_stream_sheds_its_newest_beyond_half_and_the_others_go_on(box: JournalBox) -> None:
    offer(box, A, 1)
    offer(box, B, 1)
    box.journal.set_stopped(box.number(A), WHY)
    for _ in range(4):
        offer(box, A, 60)
    offer(box, B, 40)
    assert not box.journal.full, "under backpressure, too"
    assert box.stream(B).lost == 0
    stopped = box.stream(A)
    assert stopped.accepted == 241
    assert stopped.lost > 100
    book = box.journal._writer.state.books[stopped.number]
    assert book.open_size <= MAX_BYTES // 2
    assert WHY in stopped.shedding
    box.journal.set_stopped(stopped.number, "")
    messages = box.drain(A)
    assert covered(messages) == list(range(1, 242))
    (loss,) = losses(messages)
    assert (loss["cause"], loss["count"]) == ("shed_newest", stopped.lost + 1)
    assert WHY in loss["detail"]


def test_what_goes_on_tells_of_the_loss_and_takes_records_again(box: JournalBox) -> None:
    offer(box, A, 1)
    box.journal.set_stopped(box.number(A), WHY)
    offer(box, A, 150)
    assert box.stream(A).shedding
    box.journal.set_stopped(box.number(A), "")
    wait_until(lambda: not box.stream(A).shedding, what="the loss record is written")
    offer(box, A, 2)
    assert readings(box.drain(A))[-2:] == [0, 1]


def test_all_stopped_streams_share_the_half(box: JournalBox) -> None:
    for name in (A, B, C):
        offer(box, name, 1)
    for name in (A, B):
        box.journal.set_stopped(box.number(name), WHY)
        offer(box, name, 80)
        offer(box, name, 80)
    offer(box, C, 60)
    assert not box.journal.full
    assert box.stream(C).lost == 0
    books = box.journal._writer.state.books
    assert sum(books[box.number(name)].open_size for name in (A, B)) <= MAX_BYTES // 2


def test_it_is_durable_when_the_source_is_told(box: JournalBox) -> None:
    offer(box, A, 1)
    box.journal.set_stopped(box.number(A), WHY)
    offer(box, A, 200)
    before = box.stream(A)
    box.restart()
    wait_until(lambda: not box.stream(A).shedding, what="the loss record is written")
    after = box.stream(A)
    assert (after.accepted, after.lost, after.in_journal) == (201, before.lost, before.in_journal)
    assert covered(box.drain(A)) == list(range(1, 202))
