"""``journal.max_age``: only time that the machine is known to have run makes a record old."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.records import Loss
from harness.journal_box import JournalBox, covered, losses, reading, readings
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, LEDGER = "telemetry/a", "gateway/g"
MAX_AGE = 3600.0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[JournalBox]:
    box = JournalBox(tmp_path / "data", max_age_seconds=MAX_AGE)
    box.open()
    yield box
    box.journal.stop()


def test_what_is_older_is_dropped_and_told(box: JournalBox) -> None:
    box.accept(reading(1), reading(2))
    box.clock.now += MAX_AGE / 2
    box.accept(reading(3))
    box.clock.now += MAX_AGE / 2
    wait_until(lambda: box.stream(A).in_journal == 2, what="the old ones are dropped, though nothing happens")
    messages = box.drain(A)
    assert readings(messages) == [3]
    assert [(loss["cause"], loss["count"]) for loss in losses(messages)] == [("max_age", 2)]
    assert covered(messages) == [1, 2, 3]
    assert box.journal.snapshot().losses == {"max_age": (1, 2)}


def test_nothing_is_dropped_before_its_time(box: JournalBox) -> None:
    for n in range(50):
        box.accept(reading(n))
        box.clock.now += MAX_AGE / 100
    box.clock.now += MAX_AGE * 0.4
    box.accept(reading(50))
    assert box.stream(A).lost == 0
    box.clock.now += MAX_AGE * 0.2
    box.accept(reading(51))
    assert 0 < box.stream(A).lost < 15


def test_the_sealed_batch_is_sent_however_old_it_is(box: JournalBox) -> None:
    box.accept(reading(1))
    batch = box.demand(A)
    box.clock.now += 2 * MAX_AGE
    box.restart()
    assert box.demand(A) == batch


def test_the_ledger_has_no_age(box: JournalBox) -> None:
    box.accept(Loss("id_gap", certain=False, count=None, first_ns=1, last_ns=2))
    box.clock.now += 2 * MAX_AGE
    box.accept(reading(1))
    assert [loss["cause"] for loss in losses(box.drain(LEDGER))] == ["id_gap"]


def test_on_the_same_boot_time_counts_while_the_gateway_is_away(box: JournalBox) -> None:
    box.accept(reading(1), reading(2))
    box.close()
    box.clock.now += MAX_AGE
    box.open()
    wait_until(lambda: box.stream(A).lost == 1, what="they are dropped")


def test_time_without_power_counts_as_nothing(box: JournalBox) -> None:
    """However far the clocks are apart: nobody knows how long that was."""
    box.accept(reading(1), reading(2))
    box.clock.now += MAX_AGE * 0.6
    box.accept(reading(3))
    box.close()
    box.clock.reboot()
    box.clock.now = 10 * MAX_AGE
    box.open()
    box.accept(reading(4))
    assert box.stream(A).lost == 0, "0.6 of the age, and a moment of this boot"
    box.clock.now += MAX_AGE * 0.5
    wait_until(lambda: box.stream(A).lost == 1, what="the time of both boots counts")
    assert readings(box.drain(A)) == [3, 4]


def test_wall_clock_steps_of_ten_years_change_nothing(box: JournalBox) -> None:
    years_ns = 10 * 365 * 86400 * 1_000_000_000
    writer = box.journal._writer
    for step in (0, years_ns, -years_ns, 0):
        writer._now_ns = lambda step=step: 1_700_000_000_000_000_000 + step  # type: ignore[misc]
        box.accept(reading(1), reading(2))
        box.clock.now += 1
    assert box.stream(A).lost == 0
    assert len(readings(box.drain(A))) == 8


def test_a_silent_backlog_keeps_its_age_over_a_reboot_but_for_a_bounded_part(box: JournalBox) -> None:
    box.accept(reading(1), reading(2))
    spacing = MAX_AGE / 16
    for _ in range(10):
        known = box.journal._writer.state.counters.age_seconds
        box.clock.now += spacing
        wait_until(
            lambda known=known: box.journal._writer.state.counters.age_seconds > known,  # type: ignore[misc]
            what="how far the clock is, is committed now and then",
        )
    box.close()
    box.clock.reboot()
    box.open()
    box.clock.now += 7 * spacing
    wait_until(lambda: box.stream(A).lost == 1, what="they are old by the time of both boots")


def test_the_marks_are_bounded(box: JournalBox) -> None:
    for n in range(100):
        box.accept(reading(n))
        box.clock.now += MAX_AGE / 40
    assert len(box.journal._writer.state.books[1].marks) <= 18
