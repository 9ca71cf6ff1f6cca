"""What every `ProducerStore` promises, asked of each that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio
import orjson
import pytest

from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.records import Item, Record
from durable_streams import Presence, ProducerState, ProducerStore, SealedBatch, SqliteProducerStore
from harness.memory_store import MemoryDisk, MemoryStore
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.anyio

ROOM = 1 << 20
URL = "http://streams.test/v1"


class Bench(Protocol):
    """A store with a disk under it: numbers go in, batches come out."""

    store: ProducerStore

    async def start(self) -> None:
        """Open the store; after `stop`, over the same disk."""

    async def stop(self) -> None:
        """Close it."""

    async def write(self, *numbers: int) -> None:
        """Store one message for each number; durable on return."""


class SqliteBench:
    def __init__(self, folder: Path, *, id_member: str | None = None) -> None:
        self._path = folder / "store.db"
        self._id_member = id_member

    async def start(self) -> None:
        self.store = SqliteProducerStore(self._path, id_member=self._id_member)
        await self.store.open("p", URL)

    async def stop(self) -> None:
        await self.store.aclose()

    async def write(self, *numbers: int) -> None:
        for number in numbers:
            await self.store.append({"n": number})


class SqliteBenchWithIds(SqliteBench):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, id_member="id")


class MemoryBench:
    def __init__(self, folder: Path) -> None:
        self._disk = MemoryDisk()

    async def start(self) -> None:
        self.store = MemoryStore(self._disk)

    async def stop(self) -> None:
        pass

    async def write(self, *numbers: int) -> None:
        for number in numbers:
            await self.store.append(number)


class JournalBench:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> None:
        limits = JournalLimits(min_free_bytes=0, max_delay_seconds=0.0)
        self._journal = Journal.open(self._folder, gateway="g", url=URL, limits=limits)
        self._committed = 0
        self._intake = self._journal.intake("s", max_items=1000, on_committed=self._count)
        self._journal.start()
        self.store: ProducerStore = self._journal.store(1, birth={})

    def _count(self, items: Sequence[Item], _commit: int) -> None:
        self._committed += len(items)

    async def stop(self) -> None:
        self._journal.stop()

    async def write(self, *numbers: int) -> None:
        before = self._committed
        self._intake.offer([Item(Record("one", "d", b'"data":{"n":%d}}' % number)) for number in numbers])
        await await_until(lambda: self._committed == before + len(numbers), what="the records are committed")


@pytest.fixture(params=[SqliteBench, SqliteBenchWithIds, MemoryBench, JournalBench])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A store that is claimed at epoch 0, with its anchor at ``a``, and has taken the number 0."""
    made: Bench = request.param(tmp_path)
    await made.start()
    await made.write(0)
    await made.store.save_anchor("a")
    await made.store.save_claim(0)
    yield made
    await made.stop()


def numbers(batch: SealedBatch) -> list[int]:
    return [_number(message) for message in orjson.loads(batch.body)]


def _number(message: dict[str, Any]) -> int:
    number: int = message["n"] if "n" in message else message["data"]["n"]
    return number


async def restart(bench: Bench) -> ProducerState:
    await bench.stop()
    await bench.start()
    return await bench.store.load()


async def test_the_claim_and_the_anchor_survive_a_restart(bench: Bench) -> None:
    state = await restart(bench)
    assert (state.epoch, state.claimed, state.anchor) == (0, True, "a")
    assert (state.resolved_seq, state.sealed_seq, state.batch) == (0, 0, None)
    assert state.content_type == "application/json"


async def test_batches_are_numbered_from_one_and_keep_the_order(bench: Bench) -> None:
    await bench.write(1, 2)
    first = await bench.store.next_batch(ROOM)
    assert (first.epoch, first.seq, first.count) == (0, 1, 3)
    assert numbers(first) == [0, 1, 2]
    await bench.store.resolve(first, "b")
    await bench.write(3)
    second = await bench.store.next_batch(ROOM)
    assert (second.seq, numbers(second)) == (2, [3])


async def test_a_sealed_batch_never_changes_until_it_is_resolved(bench: Bench) -> None:
    sealed = await bench.store.next_batch(ROOM)
    await bench.write(1, 2, 3)
    assert await bench.store.next_batch(ROOM) == sealed
    assert await bench.store.next_batch(1) == sealed
    state = await restart(bench)
    assert state.batch == sealed
    assert (state.resolved_seq, state.sealed_seq) == (0, 1)
    assert await bench.store.next_batch(ROOM) == sealed


async def test_resolving_moves_the_anchor_and_the_number_together(bench: Bench) -> None:
    await bench.store.resolve(await bench.store.next_batch(ROOM), "b")
    state = await restart(bench)
    assert (state.anchor, state.resolved_seq, state.batch) == ("b", 1, None)
    assert bench.store.pending_count == 0


async def test_nothing_leaves_the_store_before_it_is_resolved(bench: Bench) -> None:
    await bench.write(1)
    await bench.write(2)
    seen: list[int] = []
    while len(seen) < 3:
        state = await restart(bench)
        assert bench.store.pending_count == 3 - len(seen)
        batch = await bench.store.next_batch(1)
        assert state.batch in {None, batch}
        await bench.store.resolve(batch, f"b{len(seen)}")
        seen += numbers(batch)
    assert seen == [0, 1, 2]


async def test_a_batch_has_the_size_that_was_asked_for_or_one_message(bench: Bench) -> None:
    for number in range(1, 10):
        await bench.write(number)
    alone = await bench.store.next_batch(1)
    assert numbers(alone) == [0]
    await bench.store.resolve(alone, "b")
    room = len(alone.body) * 5
    batch = await bench.store.next_batch(room)
    assert len(batch.body) <= room
    assert numbers(batch) == list(range(1, 1 + batch.count))
    assert batch.count > 1


async def test_a_batch_is_waited_for(bench: Bench) -> None:
    await bench.store.resolve(await bench.store.next_batch(ROOM), "b")
    batches: list[SealedBatch] = []

    async def take() -> None:
        batches.append(await bench.store.next_batch(ROOM))

    async with anyio.create_task_group() as waiting:
        waiting.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert batches == []
        await bench.write(7)
    assert [numbers(batch) for batch in batches] == [[7]]


async def test_a_wait_that_is_given_up_takes_nothing_along(bench: Bench) -> None:
    await bench.store.resolve(await bench.store.next_batch(ROOM), "b")
    async with anyio.create_task_group() as waiting:
        waiting.start_soon(bench.store.next_batch, ROOM)
        await anyio.wait_all_tasks_blocked()
        waiting.cancel_scope.cancel()
    await bench.write(7)
    assert numbers(await bench.store.next_batch(ROOM)) == [7]


async def test_drained_means_that_everything_is_resolved(bench: Bench) -> None:
    await bench.write(1)
    assert bench.store.pending_count == 2
    drained = anyio.Event()

    async def wait() -> None:
        await bench.store.drained()
        drained.set()

    async with anyio.create_task_group() as waiting:
        waiting.start_soon(wait)
        await bench.store.resolve(await bench.store.next_batch(1), "b")
        await anyio.wait_all_tasks_blocked()
        assert not drained.is_set()
        await bench.store.resolve(await bench.store.next_batch(1), "c")
        await drained.wait()
    assert bench.store.pending_count == 0


async def test_a_new_epoch_is_not_claimed_and_counts_anew(bench: Bench) -> None:
    await bench.store.resolve(await bench.store.next_batch(ROOM), "b")
    await bench.store.save_epoch(4)
    state = await restart(bench)
    assert (state.epoch, state.claimed, state.anchor, state.resolved_seq) == (4, False, "b", 0)
    await bench.store.save_claim(4)
    await bench.write(1)
    batch = await bench.store.next_batch(ROOM)
    assert (batch.epoch, batch.seq) == (4, 1)


async def test_the_claim_and_the_probe_are_one_message_each(bench: Bench) -> None:
    assert len(orjson.loads(bench.store.claim_body(3))) == 1
    assert len(orjson.loads(bench.store.probe_body())) == 1


class TestFinding:
    async def test_a_batch_is_found_among_other_messages_and_across_pages(self, bench: Bench) -> None:
        await bench.write(1, 2)
        batch = await bench.store.next_batch(ROOM)
        one, two, three = orjson.loads(batch.body)
        finder = bench.store.finder(batch)
        for page in ([{"other": 1}, one], [two], [], [three, {"other": 2}]):
            finder.feed(orjson.dumps(page))
        assert finder.verdict() is Presence.PRESENT

    async def test_a_batch_is_absent_where_only_others_are(self, bench: Bench) -> None:
        batch = await bench.store.next_batch(ROOM)
        finder = bench.store.finder(batch)
        finder.feed(bench.store.claim_body(0))
        finder.feed(b'[1, "a", null, [0], {"n": "0"}, {"n": true}]')
        assert finder.verdict() is Presence.ABSENT

    async def test_it_is_found_as_well_after_a_restart(self, bench: Bench) -> None:
        batch = await bench.store.next_batch(ROOM)
        state = await restart(bench)
        assert state.batch is not None
        finder = bench.store.finder(state.batch)
        finder.feed(batch.body)
        assert finder.verdict() is Presence.PRESENT

    @pytest.mark.parametrize("page", [b"", b"{}", b"[1", b"<html>"])
    async def test_what_is_no_page_is_refused(self, bench: Bench, page: bytes) -> None:
        finder = bench.store.finder(await bench.store.next_batch(ROOM))
        with pytest.raises(ValueError, match=r".+"):
            finder.feed(page)
