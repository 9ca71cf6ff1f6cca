"""What a full journal gives up, and how it tells of it. Real files; the writer runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from ds_gateway.journal.shedding import Dropped, drop_front
from ds_gateway.records import Item, Loss, Rejected
from harness.journal_box import JournalBox, covered, losses, position, reading, readings
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from durable_streams import SealedBatch

A, B, LEDGER = "telemetry/a", "telemetry/b", "gateway/g"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[JournalBox]:
    box = JournalBox(tmp_path / "data")
    yield box
    box.journal.stop()


def fill(box: JournalBox, count: int, *, stream: str = A, start: int = 1, size: int = 100) -> None:
    """Records, each in a commit of its own."""
    for n in range(start, start + count):
        box.accept(reading(n, stream=stream, size=size))


def adds_up(box: JournalBox, name: str) -> bool:
    stream = box.stream(name)
    return stream.accepted == stream.in_stream + stream.in_journal + stream.lost


def dropping(**limits: object) -> tuple[Callable[[Book, Plan], None], list[Dropped], list[bytes]]:
    """A change that drops a stream's front, with what it said and what was kept aside."""
    said: list[Dropped] = []
    kept: list[bytes] = []

    def apply(book: Book, plan: Plan) -> None:
        said.append(drop_front(plan, book, cause="skipped", keep=kept.append, **limits))  # type: ignore[arg-type]

    return apply, said, kept


class TestTheOldestGiveWay:
    @pytest.mark.parametrize("envelope", ["plain", "cloudevents"])
    def test_the_newest_are_there_and_one_record_at_the_first_position_tells_of_the_others(
        self, box: JournalBox, envelope: str
    ) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest", envelope=envelope)
        fill(box, 200)
        messages = box.drain(A)
        assert covered(messages) == list(range(1, 201))
        (loss,) = losses(messages)
        assert position(messages[0]) == loss["first_position"] == 1
        assert (loss["cause"], loss["certain"], loss["devices"]) == ("shed_oldest", True, {"d": loss["count"]})
        assert loss["first_time"] == "2026-01-01T00:00:00.000000Z"
        found = readings(messages)
        assert found == list(range(loss["last_position"] + 1, 201))
        assert len(found) > 20, "no more gave way than had to"
        assert box.journal.snapshot().losses == {"shed_oldest": (1, loss["count"])}

    def test_the_sealed_batch_never_gives_way(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest")
        fill(box, 3)
        batch = box.demand(A, 10_000)
        fill(box, 150, start=4)
        box.restart()
        assert box.demand(A) == batch, "the same bytes, after a restart, too"
        box.resolve(A, batch)
        messages = box.drain(A)
        assert readings(messages)[:3] == [1, 2, 3]
        assert covered(messages) == list(range(1, 154))

    def test_a_batch_that_ends_within_a_segment_keeps_its_part_of_it(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest")
        box.accept(*[reading(n, size=10) for n in range(1, 9)])
        box.demand(A, 10_000)
        resealed: list[SealedBatch] = []
        box.change(A, lambda book, plan: resealed.append(plan.reseal(book, 2)))
        batch = box.demand(A)
        fill(box, 150, start=9)
        box.restart()
        assert box.demand(A) == batch
        box.resolve(A, batch)
        messages = box.drain(A)
        assert readings(messages)[:2] == [1, 2]
        assert losses(messages)[0]["first_position"] == 3
        assert covered(messages) == list(range(1, 159))

    def test_a_batch_that_is_sealed_anew_has_nothing_that_came_since(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000)
        box.accept(reading(1))
        before = box.demand(A, 10_000)
        box.accept(reading(2))
        resealed: list[SealedBatch] = []
        box.change(A, lambda book, plan: resealed.append(plan.reseal(book, 5)))
        assert resealed[0] == before

    def test_the_fullest_stream_gives_way(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest")
        fill(box, 5, stream=B)
        fill(box, 150, stream=A)
        assert box.stream(A).lost > 0
        assert box.stream(B).lost == 0

    def test_what_is_kept_for_repair_gives_way_first(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, retain_bytes=20_000, when_full="shed_oldest", batch_max_bytes=20_000)
        fill(box, 30)
        box.resolve(A, box.demand(A, 20_000))
        fill(box, 30, start=31)
        assert box.stream(A).lost == 0
        assert box.stream(A).in_journal == 30

    def test_a_source_never_waits(self, box: JournalBox) -> None:
        journal = box.open(max_bytes=20_000, when_full="shed_oldest")
        fill(box, 150)
        assert not journal.full
        assert adds_up(box, A)

    def test_devices_are_announced_again_when_their_announcement_gave_way(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest")
        about = b'{"fields":{"n":{"unit":"K"}}}'
        box.accept(reading(1, about=about))
        fill(box, 150, start=2)
        assert box.stream(A).lost > 0
        box.accept(reading(500, about=about))
        kinds = [message.get("kind") for message in box.drain(A)]
        assert kinds[-2:] == ["device", None]

    def test_what_no_longer_exists_takes_no_room(self, box: JournalBox) -> None:
        """Shedding for months must not leave a row behind for every segment."""
        box.open(max_bytes=20_000, when_full="shed_oldest")
        fill(box, 400)
        assert box.journal.snapshot().bytes <= 20_000
        assert len(box.journal._writer.state.books[1].gaps) == 1


class TestTheNewestAreNotKept:
    def test_the_oldest_are_there_and_a_record_at_the_end_tells_of_the_others(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_newest")
        fill(box, 200)
        messages = box.drain(A)
        assert covered(messages) == list(range(1, 201))
        (loss,) = losses(messages)
        assert (loss["cause"], loss["last_position"], loss["devices"]) == (
            "shed_newest",
            200,
            {"d": loss["count"]},
        )
        assert readings(messages) == list(range(1, loss["first_position"]))
        assert box.journal.snapshot().losses == {"shed_newest": (1, loss["count"])}

    def test_what_was_acknowledged_and_not_kept_is_told_after_a_kill(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_newest")
        fill(box, 100)
        before = box.stream(A)
        box.close()  # nothing is written at the end that was not written before
        box.open()
        assert (box.stream(A).accepted, box.stream(A).lost) == (before.accepted, before.lost) == (100, before.lost)
        assert before.lost > 10
        assert covered(box.drain(A)) == list(range(1, 101))

    def test_what_is_accepted_later_comes_after_the_loss(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_newest")
        fill(box, 100)
        lost = box.stream(A).lost
        for _ in range(20):
            box.send(A)
        fill(box, 3, start=101)
        messages = box.drain(A)
        assert covered(messages) == list(range(1, 104))
        assert readings(messages)[-3:] == [101, 102, 103]
        assert len(losses(messages)) == 1
        assert losses(messages)[0]["count"] >= lost

    def test_devices_are_counted_but_not_without_bound(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_newest")
        fill(box, 100)
        box.accept(*[reading(n, device=f"d{n % 50}") for n in range(500)], *[reading(1, device="most")] * 30)
        loss = losses(box.drain(A))[-1]
        assert len(loss["devices"]) == 20
        assert loss["devices"]["most"] == 30
        assert loss["count"] > 530

    def test_the_stream_says_so(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_newest")
        fill(box, 100)
        assert "new records are not kept" in box.stream(A).shedding
        assert box.journal.snapshot().shedding == "shed_newest"
        box.drain(A)
        assert box.stream(A).shedding == box.journal.snapshot().shedding == ""

    def test_rejected_payloads_push_older_ones_out(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_newest")
        fill(box, 100)
        used = box.journal.snapshot().bytes
        box.accept(*[Rejected("s", "d", "no", b"x" * 500, n) for n in range(20)])
        assert box.journal.snapshot().bytes <= used + 1000
        assert box.journal.snapshot().losses["quarantined"] == (1, 20)


class TestDroppingTheFront:
    def test_a_position_within_a_segment(self, box: JournalBox) -> None:
        box.open(batch_max_bytes=2000)
        box.accept(*[reading(n) for n in range(1, 11)])
        apply, said, kept = dropping(before_position=5)
        box.change(A, apply)
        assert said[0].records == 4
        assert not said[0].more
        assert readings([orjson.loads(each) for each in kept]) == [1, 2, 3, 4]
        messages = box.drain(A)
        assert covered(messages) == list(range(1, 11))
        assert readings(messages) == [5, 6, 7, 8, 9, 10]

    def test_a_position_within_a_later_segment(self, box: JournalBox) -> None:
        box.open(batch_max_bytes=2000)
        for start in (1, 5, 9):
            box.accept(*[reading(n) for n in range(start, start + 4)])
        apply, said, _ = dropping(before_position=7)
        box.change(A, apply)
        assert said[0].records == 6
        box.restart()
        messages = box.drain(A)
        assert covered(messages) == list(range(1, 13))
        assert readings(messages) == list(range(7, 13))

    def test_in_pieces_it_comes_to_the_same(self, box: JournalBox) -> None:
        box.open()
        fill(box, 20)
        apply, said, kept = dropping(before_position=18, max_rows=3)
        while not said or said[-1].more:
            box.change(A, apply)
        assert len(said) > 3
        assert readings([orjson.loads(each) for each in kept]) == list(range(1, 18))
        messages = box.drain(A)
        assert covered(messages) == list(range(1, 21))
        assert [loss["count"] for loss in losses(messages)] == [17]
        assert box.journal.snapshot().losses == {"skipped": (1, 17)}

    def test_nothing_to_drop_changes_nothing(self, box: JournalBox) -> None:
        box.open()
        fill(box, 3)
        apply, said, _ = dropping(before_position=1)
        box.change(A, apply)
        assert said == [Dropped()]
        assert losses(box.drain(A)) == []

    def test_a_loss_for_another_cause_is_taken_over_and_told(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest")
        fill(box, 150)
        shed = box.stream(A).lost + 1
        apply, _, kept = dropping(before_position=shed + 3)
        box.change(A, apply)
        (loss,) = losses(box.drain(A))
        assert (loss["cause"], loss["count"], loss["others"]) == ("skipped", shed + 2, {"shed_oldest": shed})
        assert len(kept) == 2, "a loss record is not kept aside: it is told by the new one"

    def test_trimming_passes_over_what_was_shed(self, box: JournalBox) -> None:
        box.open(max_bytes=20_000, when_full="shed_oldest", retain_bytes=0)
        fill(box, 300)
        box.drain(A)
        fill(box, 1, start=301)
        box.drain(A)
        wait_until(lambda: box.journal.snapshot().bytes < 1000, what="what was sent is trimmed")
        assert box.journal._writer.state.books[1].gaps == []


class TestTheLedger:
    def test_a_source_may_tell_of_a_loss_while_the_journal_is_full(self, box: JournalBox) -> None:
        journal = box.open(max_bytes=200_000)
        box.offer(*[reading(n, size=1000) for n in range(300)])
        wait_until(lambda: journal.full, what="the journal is full")
        other = journal.intake("other", max_items=100)
        other.offer([Item(Loss("qos0", certain=True, count=7, first_ns=1, last_ns=2, source="s"))])
        wait_until(lambda: other.uncommitted == 0, what="the loss is committed")
        assert journal.full, "and nothing else was taken"
        assert journal.snapshot().losses == {"qos0": (1, 7)}
        assert [loss["count"] for loss in losses(box.drain(LEDGER))] == [7]

    def test_it_never_gives_way(self, box: JournalBox) -> None:
        box.open(max_bytes=80_000, when_full="shed_oldest", batch_max_bytes=20_000)
        box.accept(*[Loss("id_gap", certain=False, count=n, first_ns=1, last_ns=2) for n in range(150)])
        for start in range(0, 200, 20):
            box.accept(*[reading(n, size=500) for n in range(start, start + 20)])
        assert box.stream(A).lost > 0
        assert box.stream(LEDGER).lost == 0, "though it is the fullest"
        assert [loss["count"] for loss in losses(box.drain(LEDGER))] == list(range(150))


class TestTheQuarantine:
    def test_what_it_deletes_is_counted_and_told(self, box: JournalBox) -> None:
        box.open(max_bytes=80_000)
        for n in range(60):
            box.accept(Rejected("s", "d", "no", b"x" * 100, 1_000_000_000 * n))
        deleted = box.journal.snapshot().losses["quarantined"][1]
        assert 0 < deleted < 60
        box.restart()
        wait_until(lambda: box.journal.snapshot().losses["quarantined"][0] == 2, what="the rest is told, too")
        told = losses(box.drain(LEDGER))
        assert sum(loss["count"] for loss in told) == deleted
        assert {loss["cause"] for loss in told} == {"quarantined"}
        assert (told[0]["first_time"], told[0]["count"]) == ("1970-01-01T00:00:00.000000Z", 1)
