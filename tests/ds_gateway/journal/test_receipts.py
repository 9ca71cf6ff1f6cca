"""Receipts in the journal: a reserve of their own, never shed, never too old, and known when they have arrived."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ds_gateway.records import Item
from harness.journal_box import JournalBox, losses, reading
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.journal import Intake
    from ds_gateway.records import Record

RECEIPTS = "receipts/g"
SIZE = 64 * 1024
RESERVE = SIZE // 16


class Box(JournalBox):
    """A journal with an intake for receipts beside the one for records."""

    def receive(self) -> Intake:
        return self.journal.intake("@downlink", max_items=10_000, uses_reserve=True)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "j", max_bytes=SIZE, receipts=RECEIPTS)
    yield box
    box.close()


def receipt(n: int, size: int = 20) -> Record:
    return reading(n, stream=RECEIPTS, size=size)


def offer(intake: Intake, *records: Record) -> None:
    assert intake.offer([Item(record) for record in records])


def fill(box: Box) -> None:
    """Offer more records than there is room for, without waiting for them."""
    box.offer(*(reading(n, size=500) for n in range(400)))


class TestAFullJournal:
    def test_receipts_are_taken_where_sources_wait(self, box: Box) -> None:
        box.open()
        intake = box.receive()
        fill(box)
        wait_until(lambda: box.journal.full, what="the journal is full")
        offer(intake, *(receipt(n) for n in range(20)))
        wait_until(lambda: not intake.uncommitted, what="the receipts are committed")
        assert box.stream(RECEIPTS).in_journal == 20
        assert box.intake.uncommitted, "the records still wait"

    @pytest.mark.parametrize("policy", ["shed_oldest", "shed_newest"])
    def test_other_records_give_way(self, box: Box, policy: str) -> None:
        box.open(when_full=policy)
        intake = box.receive()
        fill(box)
        offer(intake, *(receipt(n, size=2000) for n in range(20)))  # the fullest stream of all
        wait_until(lambda: not intake.uncommitted and not box.intake.uncommitted, what="everything is committed")
        fill(box)
        wait_until(lambda: not box.intake.uncommitted, what="everything is committed")
        assert box.stream("telemetry/a").lost
        assert box.stream(RECEIPTS).lost == 0
        kept = box.drain(RECEIPTS)
        assert len(kept) == 20
        assert losses(kept) == []

    def test_a_stopped_stream_of_receipts_refuses_none(self, box: Box) -> None:
        box.open()
        intake = box.receive()
        offer(intake, receipt(0))
        wait_until(lambda: not intake.uncommitted, what="it is committed")
        box.journal.set_stopped(box.number(RECEIPTS), "halted: fenced")
        offer(intake, *(receipt(n, size=1000) for n in range(60)))
        wait_until(lambda: not intake.uncommitted, what="they are committed")
        assert box.stream(RECEIPTS).in_journal == 61
        assert box.stream(RECEIPTS).shedding == ""


class TestAges:
    def test_receipts_have_none(self, box: Box) -> None:
        box.open(max_age_seconds=10)
        intake = box.receive()
        offer(intake, receipt(0))
        wait_until(lambda: not intake.uncommitted, what="it is committed")
        box.accept(reading(0))
        box.clock.now += 100
        box.accept(reading(1))
        wait_until(lambda: box.stream("telemetry/a").in_journal < 3, what="a record is shed")
        box.clock.now += 100
        box.accept(reading(2))
        assert losses(box.drain("telemetry/a"))
        assert losses(box.drain(RECEIPTS)) == []


class TestTheRoom:
    def test_what_is_not_in_the_stream_yet_takes_it(self, box: Box) -> None:
        box.open()
        intake = box.receive()
        assert box.journal.receipt_room == RESERVE
        offer(intake, receipt(0, size=1000))
        wait_until(lambda: not intake.uncommitted, what="it is committed")
        assert RESERVE - 1500 < box.journal.receipt_room < RESERVE - 1000
        box.drain(RECEIPTS)
        wait_until(lambda: box.journal.receipt_room == RESERVE, what="the room is free again")

    def test_without_a_downlink_there_is_none(self, box: Box) -> None:
        box.open(receipts="")
        assert box.journal.receipt_room == 0


class TestWhatHasArrived:
    def test_it_is_known_before_that_is_committed_and_after_a_restart(self, box: Box) -> None:
        box.open(commit_interval_seconds=0)
        intake = box.receive()
        assert (box.journal.accepted(RECEIPTS), box.journal.confirmed(RECEIPTS)) == (0, 0)
        offer(intake, *(receipt(n) for n in range(3)))
        wait_until(lambda: not intake.uncommitted, what="they are committed")
        assert (box.journal.accepted(RECEIPTS), box.journal.confirmed(RECEIPTS)) == (3, 0)
        batch = box.demand(RECEIPTS)
        assert box.journal.confirmed(RECEIPTS) == 0
        offer(intake, receipt(3))
        wait_until(lambda: not intake.uncommitted, what="it is committed")
        store = box.journal.store(box.number(RECEIPTS), birth={})
        asyncio.run(store.resolve(batch, "1"))
        assert (box.journal.accepted(RECEIPTS), box.journal.confirmed(RECEIPTS)) == (4, 3)
        box.restart()
        assert (box.journal.accepted(RECEIPTS), box.journal.confirmed(RECEIPTS)) == (4, 3)
