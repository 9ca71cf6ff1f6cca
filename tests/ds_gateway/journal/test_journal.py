"""The journal with its writer thread and real files."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import diskcache
import orjson
import pytest

from ds_gateway.errors import (
    JournalDamagedError,
    JournalError,
    JournalFormatError,
    JournalIdentityError,
    JournalLockedError,
)
from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.journal import rows as journal_rows
from ds_gateway.journal.disk import Disk
from ds_gateway.journal.state import load
from ds_gateway.records import Item, Loss, Record, Rejected
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ds_gateway.journal.stream_store import StreamStore
    from durable_streams import SealedBatch

URL = "http://streams.test/v1"


def record(text: str, *, stream: str = "telemetry/g", device: str = "d", about: bytes = b"") -> Record:
    return Record(stream, device, b'"data":{"value":"%b"}}' % text.encode(), about)


class Harness:
    """One journal over one directory, opened as often as a test likes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal: Journal | None = None
        self.committed: list[tuple[list[Item], int]] = []
        self.points: list[tuple[str, frozenset[str]]] = []
        self.new_streams: list[str] = []

    def open(self, *, gateway: str = "g", url: str = URL, **limits: Any) -> Journal:
        limits.setdefault("min_free_bytes", 0)
        self.journal = Journal.open(
            self.directory,
            gateway=gateway,
            url=url,
            limits=JournalLimits(**limits),
            on_stream=lambda book: self.new_streams.append(book.name),
            on_point=lambda when, parts: self.points.append((when, parts)),
        )
        self.intake = self.journal.intake(
            "source",
            max_items=100_000,
            on_committed=lambda items, commit: self.committed.append((list(items), commit)),
        )
        self.journal.start()
        return self.journal

    def accept(self, *payloads: Record | Rejected) -> None:
        """Offer and wait for the commit."""
        before = sum(len(items) for items, _ in self.committed)
        assert self.intake.offer([Item(payload) for payload in payloads])
        wait_until(
            lambda: sum(len(items) for items, _ in self.committed) == before + len(payloads),
            what="the records are committed",
        )

    def store(self, stream: int = 1) -> StreamStore:
        assert self.journal is not None
        return self.journal.store(stream, birth={"version": "1"})

    def next_batch(self, max_bytes: int = 100_000, stream: int = 1) -> SealedBatch:
        return asyncio.run(asyncio.wait_for(self.store(stream).next_batch(max_bytes), 20))

    def resolve(self, batch: SealedBatch, offset: str, stream: int = 1) -> None:
        asyncio.run(self.store(stream).resolve(batch, offset))

    def close(self) -> None:
        if self.journal is not None:
            assert self.journal.stop(), "the writer ends"
            assert self.journal.failure is None
            self.journal = None


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(tmp_path / "data")
    yield harness
    harness.close()


def values(batch: SealedBatch) -> list[str]:
    return [message["data"]["value"] for message in orjson.loads(batch.body) if "data" in message]


def ids(batch: SealedBatch) -> list[str]:
    return [message["id"] for message in orjson.loads(batch.body)]


class TestAccepting:
    def test_what_a_source_gave_counts_as_uncommitted_until_it_shows_in_the_snapshot(self, tmp_path: Path) -> None:
        """A drain that looks between the taking and the commit must not believe that all is done."""
        seen: list[tuple[int, int]] = []

        def look(_when: str, _parts: frozenset[str]) -> None:
            seen.append((len(intake), intake.uncommitted))

        limits = JournalLimits(min_free_bytes=0)
        journal = Journal.open(tmp_path / "data", gateway="g", url=URL, limits=limits, on_point=look)
        intake = journal.intake("source", max_items=100)
        journal.start()
        intake.offer([Item(record("a")), Item(record("b"))])
        wait_until(lambda: intake.uncommitted == 0, what="the records are committed")
        assert [stream.accepted for stream in journal.snapshot().streams] == [2]
        journal.stop()
        assert seen[:2] == [(0, 2), (0, 2)]

    def test_records_come_out_in_order_with_dense_ids(self, harness: Harness) -> None:
        journal = harness.open()
        harness.accept(*[record(str(n)) for n in range(50)])
        batch = harness.next_batch()
        assert values(batch) == [str(n) for n in range(50)]
        prefix = ids(batch)[0].rsplit(".", 1)[0]
        assert ids(batch) == [f"{prefix}.{n}" for n in range(1, 51)]
        assert prefix.split(".")[0] == journal.identity.short_install
        assert (batch.count, batch.epoch, batch.seq) == (50, 0, 1)

    def test_a_source_is_told_only_after_the_commit(self, harness: Harness) -> None:
        order: list[str] = []
        journal = Journal.open(
            harness.directory,
            gateway="g",
            url=URL,
            limits=JournalLimits(min_free_bytes=0),
            on_point=lambda when, parts: order.append(f"{when} {''.join(sorted(parts))}"),
        )
        intake = journal.intake("s", max_items=10, on_committed=lambda _items, _commit: order.append("told"))
        journal.start()
        intake.offer([Item(record("1"))])
        wait_until(lambda: "told" in order, what="the source is told")
        journal.stop()
        assert order == ["before A", "after A", "told"]

    def test_nothing_is_told_before_it_is_committed(self, harness: Harness) -> None:
        told: list[tuple[str, int]] = []
        journal = Journal.open(
            harness.directory,
            gateway="g",
            url=URL,
            limits=JournalLimits(min_free_bytes=0),
            on_point=lambda when, _: told.append(
                (when, sum(each.accepted for each in journal.snapshot().streams))
            ),
        )
        intake = journal.intake("s", max_items=10)
        journal.start()
        intake.offer([Item(record("1"))])
        wait_until(lambda: journal.snapshot().streams, what="the record is committed")
        journal.stop()
        assert told[0] == ("before", 0)

    def test_streams_count_positions_by_themselves(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("a", stream="one"), record("b", stream="two"), record("c", stream="one"))
        wait_until(lambda: harness.new_streams == ["one", "two"], what="both streams are told")
        one, two = harness.next_batch(stream=1), harness.next_batch(stream=2)
        assert (values(one), values(two)) == (["a", "c"], ["b"])
        assert ids(one)[0] != ids(two)[0], "ids are unique over all streams"

    def test_an_intake_that_is_full_refuses_the_whole_offer(self, tmp_path: Path) -> None:
        journal = Journal.open(tmp_path, gateway="g", url=URL)
        intake = journal.intake("s", max_items=3)
        assert intake.offer([Item(record("1")), Item(record("2"))])
        assert not intake.offer([Item(record("3")), Item(record("4"))])
        assert len(intake) == 2
        journal.stop()

    def test_what_was_rejected_is_kept_aside_and_acknowledged(self, harness: Harness) -> None:
        journal = harness.open()
        harness.accept(Rejected("source", "d", "not JSON", b"\xff{", 1))
        assert journal.snapshot().quarantined == 1
        assert journal.snapshot().streams == ()

    def test_the_quarantine_is_bounded(self, harness: Harness) -> None:
        journal = harness.open()
        for _ in range(3):
            harness.accept(*[Rejected("source", "d", "too big", bytes(1_000_000), 1) for _ in range(4)])
        snapshot = journal.snapshot()
        assert snapshot.quarantined == 12
        assert snapshot.bytes < 17 * 1024 * 1024

    def test_a_device_is_announced_before_its_first_reading_and_when_it_changes(self, harness: Harness) -> None:
        harness.open()
        celsius, kelvin = b'{"fields":{"t":{"unit":"Cel"}}}', b'{"fields":{"t":{"unit":"K"}}}'
        harness.accept(record("1", about=celsius), record("2", about=celsius), record("3", about=kelvin))
        messages = orjson.loads(harness.next_batch().body)
        assert [message.get("kind", "reading") for message in messages] == [
            "device",
            "reading",
            "reading",
            "device",
            "reading",
        ]
        assert messages[0]["info"] == orjson.loads(celsius)
        assert [int(message["id"].rsplit(".", 1)[1]) for message in messages] == [1, 2, 3, 4, 5]

    def test_an_announcement_is_not_repeated_after_a_restart(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1", about=b"{}"))
        harness.close()
        harness.open()
        harness.accept(record("2", about=b"{}"))
        assert [message.get("kind") for message in orjson.loads(harness.next_batch().body)] == [
            "device",
            None,
            None,
        ]


class TestSealing:
    def test_a_batch_keeps_its_bytes_over_a_restart(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"), record("2"))
        batch = harness.next_batch()
        harness.accept(record("3"))
        harness.close()
        harness.open()
        state = asyncio.run(harness.store().load())
        assert state.batch == batch
        assert harness.next_batch() == batch, "until it is resolved, the same one is handed out"

    def test_a_batch_is_durable_when_it_is_handed_out(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.next_batch()
        sealing = [(when, parts) for when, parts in harness.points if "B" in parts]
        assert sealing == [("before", frozenset("B")), ("after", frozenset("B"))]

    def test_a_waiting_uplink_gets_its_batch_in_the_transaction_that_accepts(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.resolve(harness.next_batch(), "o1")

        async def wait_and_offer() -> SealedBatch:
            waiting = asyncio.ensure_future(harness.store().next_batch(1000))
            await asyncio.sleep(0)  # lets the demand reach the writer first
            harness.intake.offer([Item(record("2"))])
            return await asyncio.wait_for(waiting, 20)

        harness.points.clear()
        assert values(asyncio.run(wait_and_offer())) == ["2"]
        assert any({"A", "B"} <= parts for _, parts in harness.points) or any("B" in p for _, p in harness.points)

    def test_a_batch_is_whole_segments_up_to_the_limit(self, harness: Harness) -> None:
        harness.open()
        for n in range(10):
            harness.accept(record(f"{n}" * 100))
        batch = harness.next_batch(max_bytes=700)
        assert len(batch.body) <= 700
        assert 0 < batch.count < 10
        harness.resolve(batch, "o1")
        following = harness.next_batch()
        assert values(batch) + values(following) == [f"{n}" * 100 for n in range(10)]
        assert following.seq == batch.seq + 1

    def test_a_record_larger_than_a_batch_goes_alone(self, harness: Harness) -> None:
        harness.open(batch_max_bytes=1024)
        harness.accept(record("a"), record("b" * 5000), record("c"))
        batches = []
        for n in range(3):
            batch = harness.next_batch(max_bytes=1024)
            harness.resolve(batch, f"o{n}")
            batches.append(values(batch))
        assert batches == [["a"], ["b" * 5000], ["c"]]

    def test_a_resolved_batch_is_never_handed_out_again(self, harness: Harness) -> None:
        harness.open(max_delay_seconds=0.0)
        seen: list[str] = []

        async def drain() -> None:
            store = harness.store()
            while len(seen) < 300:
                batch = await store.next_batch(200)
                seen.extend(values(batch))
                await store.resolve(batch, f"o{batch.seq:06d}")

        harness.accept(*[record(str(n)) for n in range(300)])
        asyncio.run(asyncio.wait_for(drain(), 30))
        assert seen == [str(n) for n in range(300)]


class TestResolving:
    def test_the_anchor_moves_with_the_resolved_number(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.resolve(harness.next_batch(), "offset-7")
        harness.close()
        harness.open()
        state = asyncio.run(harness.store().load())
        assert (state.anchor, state.resolved_seq, state.batch) == ("offset-7", 1, None)

    def test_an_answer_told_twice_resolves_once(self, harness: Harness) -> None:
        journal = harness.open()
        harness.accept(record("1"))
        batch = harness.next_batch()
        harness.resolve(batch, "o1")
        harness.resolve(batch, "o2")
        harness.accept(record("2"))
        harness.next_batch()
        assert journal.snapshot().streams[0].in_stream == 1

    def test_a_resolution_is_committed_even_when_nothing_else_happens(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.resolve(harness.next_batch(), "o1")
        wait_until(lambda: ("after", frozenset("C")) in harness.points, what="the lazy commit")

    def test_counts_add_up(self, harness: Harness) -> None:
        journal = harness.open()
        harness.accept(*[record(str(n)) for n in range(20)])
        batch = harness.next_batch(max_bytes=10_000)
        harness.resolve(batch, "o1")
        harness.accept(record("more"))
        (stream,) = journal.snapshot().streams
        assert (stream.accepted, stream.in_stream, stream.in_journal) == (21, 20, 1)

    def test_kept_batches_are_trimmed_to_the_limit(self, harness: Harness) -> None:
        journal = harness.open(retain_bytes=20_000)
        for n in range(40):
            harness.accept(record("x" * 1000))
            harness.resolve(harness.next_batch(), f"o{n:03d}")
        harness.accept(record("last"))
        assert journal.snapshot().bytes < 24_000
        harness.close()
        disk = Disk(harness.directory)
        kept = [key for key in disk.keys_before("z") if key.startswith("s/")]
        disk.close()
        assert len(kept) < 25, "their rows are gone too"


class TestEpochs:
    def test_a_claim_begins_its_numbers_anew(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1", about=b"{}"))
        store = harness.store()

        async def claim() -> None:
            await store.save_anchor("o0")
            await store.save_epoch(3)
            await store.save_claim(3)

        asyncio.run(claim())
        state = asyncio.run(store.load())
        assert (state.epoch, state.claimed, state.anchor, state.resolved_seq) == (3, True, "o0", 0)
        assert (harness.next_batch().epoch, harness.next_batch().seq) == (3, 1)

    def test_birth_and_probe_have_ids_of_their_own(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        store = harness.store()
        births = [orjson.loads(store.claim_body(4))[0] for _ in range(2)]
        assert births[0]["id"] != births[1]["id"]
        assert births[0]["id"].startswith("b.4.")
        assert births[0]["kind"] == "birth"
        assert births[0]["info"]["epoch"] == 4
        assert "data" not in births[0]
        assert orjson.loads(store.probe_body())[0]["kind"] == "probe"

    def test_another_server_begins_a_new_epoch(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.resolve(harness.next_batch(), "o1")
        harness.accept(record("2"))
        harness.close()
        harness.open(url="http://elsewhere.test/v1")
        state = asyncio.run(harness.store().load())
        assert (state.claimed, state.anchor, state.epoch, state.batch) == (False, None, 1, None)
        assert values(harness.next_batch()) == ["2"]

    def test_an_unresolved_batch_stays_with_its_server(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.next_batch()
        harness.close()
        journal = harness.open(url="http://elsewhere.test/v1")
        assert journal.streams() == [(1, "telemetry/g", URL)]


class TestMoving:
    """A stream goes on at another server: what is unresolved must be settled, or given up on purpose."""

    OTHER = "http://other.test/v1"

    def move(self, harness: Harness, *, give_up: bool = False) -> bool:
        return asyncio.run(asyncio.wait_for(harness.store().move(self.OTHER, give_up=give_up), 20))

    def state(self, harness: Harness) -> tuple[int, bool, str | None, int]:
        state = asyncio.run(asyncio.wait_for(harness.store().load(), 20))
        return state.epoch, state.claimed, state.anchor, state.resolved_seq

    def test_while_a_batch_is_unresolved_nothing_is_moved(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        batch = harness.next_batch()
        assert not self.move(harness)
        harness.close()
        journal = harness.open(url=self.OTHER)
        assert journal.streams() == [(1, "telemetry/g", URL)]
        assert harness.next_batch() == batch, "the very same, for the old server"

    def test_a_resolution_that_came_before_counts_and_is_in_the_same_transaction(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        batch = harness.next_batch()
        harness.accept(record("2"))

        async def resolve_and_move() -> bool:
            store = harness.store()
            await store.resolve(batch, "o1")
            harness.points.clear()
            return await store.move(self.OTHER)

        assert asyncio.run(resolve_and_move())
        assert harness.points == [("before", frozenset("C")), ("after", frozenset("C"))]
        assert self.state(harness) == (1, False, None, 0)
        harness.close()
        journal = harness.open(url=self.OTHER)
        assert journal.streams() == [(1, "telemetry/g", self.OTHER)]
        assert self.state(harness) == (1, False, None, 0), "moved once"
        assert values(harness.next_batch()) == ["2"]

    def test_what_is_given_up_is_sealed_again_with_the_same_bytes_before_what_came_later(
        self, harness: Harness
    ) -> None:
        harness.open()
        harness.accept(record("1"))
        harness.accept(record("2"))
        old = harness.next_batch(max_bytes=1)
        harness.accept(record("3"))
        assert values(old) == ["1"]
        assert self.move(harness, give_up=True)
        harness.close()
        harness.open(url=self.OTHER)
        assert self.state(harness) == (1, False, None, 0)
        new = harness.next_batch()
        assert values(new) == ["1", "2", "3"]
        assert (new.epoch, new.seq) == (1, 1)
        assert new.body.startswith(old.body[:-1])
        harness.resolve(new, "o1")
        harness.accept(record("4"))
        after = harness.next_batch()
        assert values(after) == ["4"]
        assert ids(after)[0].endswith(".4"), "positions are dense"

    def test_giving_up_without_a_batch_is_a_move(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("1"))
        assert self.move(harness, give_up=True)
        assert values(harness.next_batch()) == ["1"]

    @pytest.mark.parametrize("while_running", [False, True])
    def test_devices_are_announced_again_to_the_readers_of_the_new_stream(
        self, harness: Harness, *, while_running: bool
    ) -> None:
        harness.open()
        harness.accept(record("1", about=b"{}"))
        batch = harness.next_batch()
        harness.resolve(batch, "o1")
        if while_running:
            assert self.move(harness)
        harness.close()
        for _ in range(2):
            harness.open(url=self.OTHER)
            harness.close()
        harness.open(url=self.OTHER)
        harness.accept(record("2", about=b"{}"))
        messages = orjson.loads(harness.next_batch().body)
        assert [message.get("kind") for message in messages] == ["device", None]


class TestFull:
    def test_a_full_journal_takes_nothing_and_goes_on_when_there_is_room(self, harness: Harness) -> None:
        journal = harness.open(max_bytes=50_000)
        for _ in range(3):
            harness.intake.offer([Item(record("x" * 1000)) for _ in range(30)])
        wait_until(lambda: journal.full, what="the journal is full")
        assert "fills journal.max_bytes (0.04768 MiB)" in journal.snapshot().why_full
        committed = sum(len(items) for items, _ in harness.committed)
        assert 0 < committed < 90
        drained = 0
        while drained < 90:
            batch = harness.next_batch()
            drained += batch.count
            harness.resolve(batch, f"o{drained:04d}")
        assert sum(len(items) for items, _ in harness.committed) == 90
        harness.accept(record("more"))
        assert not journal.full
        assert not journal.snapshot().why_full

    def test_a_full_disk_loses_nothing_and_drains(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = harness.open()
        harness.accept(record("before"))
        failures = 2
        real_write = Disk.write

        def write(disk: Disk, key: str, row: bytes) -> None:
            nonlocal failures
            if key.startswith("s/") and failures:
                failures -= 1
                # What SQLite says when the file system is full; the transaction around it is real.
                raise sqlite3.OperationalError("database or disk is full")
            real_write(disk, key, row)

        monkeypatch.setattr(Disk, "write", write)
        harness.accept(record("1"), record("2"))
        assert failures == 0
        assert journal.failure is None
        assert values(harness.next_batch()) == ["before", "1", "2"]

    def test_a_full_disk_at_the_start_gives_the_ballast_up(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness.open()
        harness.accept(record("before"))
        harness.close()
        real_cache = diskcache.Cache

        def cache(*arguments: Any, **settings: Any) -> Any:
            if (harness.directory / "ballast").exists():
                raise sqlite3.OperationalError("database or disk is full")
            return real_cache(*arguments, **settings)

        monkeypatch.setattr(diskcache, "Cache", cache)
        assert (harness.directory / "ballast").exists()
        harness.open()
        assert values(harness.next_batch()) == ["before"]

    def test_what_was_rejected_never_fills_the_journal(self, harness: Harness) -> None:
        journal = harness.open(max_bytes=1024 * 1024)
        for _ in range(40):
            harness.accept(*[Rejected("source", "d", "no JSON", bytes(20_000), 1) for _ in range(3)])
        harness.accept(record("still taken"))
        assert not journal.full
        assert journal.snapshot().bytes < 200_000

    def test_little_room_on_the_file_system_counts_as_full(self, harness: Harness) -> None:
        journal = harness.open(min_free_bytes=2**60)
        harness.intake.offer([Item(record("1"))])
        wait_until(lambda: journal.full, what="the journal is full")
        assert harness.committed == []
        assert "the disk has less free than journal.min_free_bytes" in journal.snapshot().why_full


class TestOpening:
    def test_a_second_process_is_told_who_holds_the_journal(self, harness: Harness) -> None:
        harness.open()
        with pytest.raises(JournalLockedError, match=str(os.getpid())):
            Journal.open(harness.directory, gateway="g", url=URL)

    def test_another_gateways_journal_is_refused_with_both_names(self, harness: Harness) -> None:
        harness.open()
        harness.close()
        with pytest.raises(JournalIdentityError, match=r"'g'.*'other'"):
            Journal.open(harness.directory, gateway="other", url=URL)

    def test_a_newer_format_is_refused_and_left_alone(self, harness: Harness) -> None:
        harness.open()
        harness.close()
        disk = Disk(harness.directory)
        newer = {"format": journal_rows.FORMAT + 1, "gateway": "g", "install": "x" * 26}
        with disk.transaction():
            disk.write(journal_rows.META, journal_rows.encode_json(journal_rows.META, newer))
        disk.close()
        with pytest.raises(JournalFormatError, match="newer"):
            Journal.open(harness.directory, gateway="g", url=URL)

    def test_a_directory_that_cannot_be_made_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(JournalError, match="data_dir"):
            Journal.open(tmp_path / "file" / "data", gateway="g", url=URL)

    def test_the_identity_survives(self, harness: Harness) -> None:
        first = harness.open().identity
        harness.close()
        assert harness.open().identity == first
        assert len(first.install) == 26


class TestDamage:
    def flip(self, harness: Harness, key: str) -> None:
        disk = Disk(harness.directory)
        row = disk.read(key)
        assert row is not None
        with disk.transaction():
            disk.write(key, row[:-3] + bytes([row[-3] ^ 1]) + row[-2:])
        disk.close()

    def test_a_damaged_segment_that_was_never_sent_becomes_a_loss_record_in_its_place(
        self, harness: Harness
    ) -> None:
        harness.open()
        harness.accept(record("a"))
        harness.accept(record("b"), record("c"))
        harness.accept(record("d"))
        harness.close()
        self.flip(harness, journal_rows.segment_key(1, 2))
        journal = harness.open()
        batch = harness.next_batch()
        assert values(batch) == ["a", "d"]
        loss = orjson.loads(batch.body)[1]
        assert loss["kind"] == "loss"
        assert loss["info"]["cause"] == "corrupt"
        assert (loss["info"]["first_position"], loss["info"]["last_position"], loss["info"]["count"]) == (2, 3, 2)
        assert [each.rpartition(".")[2] for each in ids(batch)] == ["1", "2", "4"]
        harness.resolve(batch, "o1")
        harness.accept(record("e"))
        assert values(harness.next_batch()) == ["e"]
        assert journal.snapshot().losses == {"corrupt": (1, 2)}

    def test_a_damaged_segment_of_a_sealed_batch_stops_its_stream_only(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("a", stream="one"), record("b", stream="two"))
        harness.next_batch(stream=1)
        harness.close()
        self.flip(harness, journal_rows.segment_key(1, 1))
        journal = harness.open()
        with pytest.raises(JournalDamagedError, match="s/000001/000000000001"):
            harness.next_batch(stream=1)
        assert values(harness.next_batch(stream=2)) == ["b"]
        assert journal.failure is None

    def test_a_damaged_kept_batch_is_dropped_and_the_rest_goes_on(self, harness: Harness) -> None:
        harness.open()
        for n in range(4):
            harness.accept(record(f"{n}" * 1000))
            harness.resolve(harness.next_batch(), f"o{n}")
        harness.accept(record("open"))
        harness.close()
        self.flip(harness, journal_rows.kept_key(1, 1))
        journal = harness.open(retain_bytes=0)
        harness.accept(record("more"))
        wait_until(lambda: journal.snapshot().bytes < 1500, what="the kept batches are trimmed")
        assert journal.failure is None
        assert values(harness.next_batch()) == ["open", "more"]

    def test_a_pickle_in_the_file_is_never_loaded(self, harness: Harness) -> None:
        harness.open()
        harness.accept(record("a"))
        harness.close()
        with sqlite3.connect(harness.directory / "journal" / "cache.db") as connection:
            connection.execute("UPDATE Cache SET mode = 4 WHERE key LIKE 'k/%'")
        connection.close()
        disk = Disk(harness.directory)
        with pytest.raises(JournalDamagedError, match="never wrote"):
            load(disk, "g")
        disk.close()


class RecordingGate:
    """Admits what is not marked as a copy; its row counts what it saw."""

    def __init__(self) -> None:
        self.seen = 0
        self.commits: list[int] = []

    def restore(self, rows: Any) -> None:
        self.seen = int(rows.get("seen", b"0"))

    def losses(self) -> Sequence[Loss]:
        return []

    def admit(self, items: Sequence[Item], commit: int) -> Sequence[Item]:
        self.seen += len(items)
        self.commits.append(commit)
        return [item for item in items if item.token != "copy"]

    def changes(self) -> dict[str, bytes | None]:
        return {"seen": str(self.seen).encode()}


class TestGates:
    def offer_a_record_and_its_copy(self, harness: Harness) -> int:
        """Return how many items the gate has seen over all restarts."""
        gate = RecordingGate()
        told: list[Item] = []
        intake = harness.open().intake(
            "mqtt", max_items=10, gate=gate, on_committed=lambda items, _: told.extend(items)
        )
        intake.offer([Item(record("1")), Item(record("1"), token="copy")])
        wait_until(lambda: len(told) == 2, what="both are told, the dropped one too")
        harness.close()
        return gate.seen

    def test_a_gates_rows_ride_with_its_records_and_come_back(self, harness: Harness) -> None:
        assert self.offer_a_record_and_its_copy(harness) == 2
        assert self.offer_a_record_and_its_copy(harness) == 4
        harness.open()
        assert values(harness.next_batch()) == ["1", "1"]

    def test_commit_numbers_rise_over_restarts(self, harness: Harness) -> None:
        numbers = []
        for _ in range(3):
            harness.open()
            harness.accept(record("1"))
            numbers.append(harness.committed[-1][1])
            harness.close()
        assert numbers == sorted(set(numbers))


def test_requests_after_the_end_are_refused(harness: Harness) -> None:
    harness.open()
    harness.accept(record("1"))
    store = harness.store()
    harness.close()
    with pytest.raises(JournalError, match="closed"):
        asyncio.run(store.next_batch(100))


def test_waiting_uplinks_are_told_of_the_end(harness: Harness) -> None:
    harness.open()
    harness.accept(record("1"))
    harness.resolve(harness.next_batch(), "o1")

    async def wait_through_the_end() -> None:
        waiting = asyncio.ensure_future(harness.store().next_batch(100))
        await asyncio.sleep(0)  # lets the demand reach the writer first
        await asyncio.to_thread(harness.close)
        with pytest.raises(JournalError, match="closed"):
            await waiting

    asyncio.run(wait_through_the_end())
