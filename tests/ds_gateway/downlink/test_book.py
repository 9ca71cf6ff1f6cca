"""The book over every way in which pages, commits and crashes can fall."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.downlink.ageing import Now
from ds_gateway.downlink.book import Book, Place
from ds_gateway.downlink.ids import Done, DoneIds
from ds_gateway.downlink.reception import (
    Reading,
    Ready,
    Write,
    abandon,
    end,
    overdue,
    receive,
    stranded,
)
from ds_gateway.errors import JournalDamagedError
from ds_gateway.records import NANOSECONDS, rfc3339
from harness.commands import START_NS, FakeRoutes, element

if TYPE_CHECKING:
    from ds_gateway.commands import Receipt

ROUTES = FakeRoutes()
NOW = Now(START_NS, 0.0)


class World:
    """A stream, a disk, devices, and one process at a time between them."""

    def __init__(self, stream: list[bytes]) -> None:
        self.stream = stream
        self.rows: dict[str, bytes] = {}
        self.receipts: list[Receipt] = []
        self.executed: list[Ready] = []
        self.seconds = 0.0
        self.start()

    @property
    def now(self) -> Now:
        return Now(START_NS + int(self.seconds * NANOSECONDS), self.seconds)

    def start(self) -> None:
        self.book = Book.restored(self.rows)
        self.uncommitted: deque[Write] = deque()
        self.ready: dict[int, Ready] = {}
        self.given: dict[int, Ready] = {}
        """The row says so; the order goes out once that is committed."""
        if self.book.at is None:
            self.write(Write(self.book.begin("0")))
        for write in stranded(self.book, self.now):
            self.write(write)
        assert self.book.at is not None
        self.place = (int(self.book.at.offset), self.book.at.number)

    def write(self, write: Write) -> None:
        self.uncommitted.append(write)

    def commit(self, count: int) -> None:
        for _ in range(min(count, len(self.uncommitted))):
            write = self.uncommitted.popleft()
            for name, row in write.rows.items():
                if row is None:
                    self.rows.pop(name, None)
                else:
                    self.rows[name] = row
            if write.receipt is not None:
                self.receipts.append(write.receipt)

    def read(self, count: int, *, is_live: bool) -> None:
        """One page. An offset is the index of an element here, and the book must not know it."""
        start, number = self.place
        page = self.stream[start : start + count]
        self.book.bound(Place(str(start + len(page)), number + len(page), (str(start), "digest")))
        for index, each in enumerate(page):
            if number + index in self.ready or number + index in self.given:
                continue
            received = receive(self.book, each, number + index, ROUTES, Reading(self.now, is_live))
            assert not received.is_lost
            if received.write is not None:
                self.write(received.write)
            if received.ready is not None:
                self.ready[received.ready.number] = received.ready
        self.place = (start + len(page), number + len(page))

    def give(self, which: int) -> None:
        """One command's turn comes: its row first, then its order, then what became of it."""
        if self.ready:
            number = sorted(self.ready)[which % len(self.ready)]
            entry = self.book.entries[number]
            ready = self.ready.pop(number)
            if ready.deadline.is_over(self.now):
                self.write(overdue(self.book, entry, self.now, may_have_been_sent=ready.may_have_been_sent))
            else:
                self.write(Write(self.book.give(number)))
                self.given[number] = ready

    def execute(self) -> None:
        if not self.uncommitted:
            self.executed += self.given.values()
            for number in list(self.given):
                del self.given[number]
                self.write(end(self.book, self.book.entries[number], "published", self.now))

    def watch(self) -> None:
        for entry in self.book.open_entries:
            is_over = START_NS + self.seconds * NANOSECONDS >= entry.deadline_ns
            if entry.number not in self.ready and entry.number not in self.given and is_over:
                self.write(overdue(self.book, entry, self.now, may_have_been_sent=entry.state == "given"))

    def finish(self) -> None:
        while self.place[0] < len(self.stream):
            self.read(3, is_live=False)
        while self.ready:
            self.give(0)
        self.watch()
        self.commit(10_000)
        self.execute()
        self.commit(10_000)


issued = {"issued_at": rfc3339(START_NS)}
elements = st.one_of(
    st.builds(
        lambda device, number, delivery, after: element(
            device, delivery=delivery, expires_after=after, **issued, **({} if number is None else {"id": number})
        ),
        st.sampled_from(["d1", "d2", "nobody"]),
        st.sampled_from([None, "a", "b", "c"]),
        st.sampled_from(["at_least_once", "at_most_once"]),
        st.sampled_from([5, 1000]),
    ),
    st.just(b"7"),
    st.just(element("d1", "bad", id="z")),
    st.just(element("d1")),  # no issued_at
)
actions = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 4)),
    st.tuples(st.just("commit"), st.integers(1, 12)),
    st.tuples(st.just("give"), st.integers(0, 4)),
    st.tuples(st.just("execute"), st.just(0)),
    st.tuples(st.just("crash"), st.just(0)),
    st.tuples(st.just("pass"), st.sampled_from([1, 10])),
)


def run(world: World, steps: list[tuple[str, int]]) -> None:
    for action, count in steps:
        match action:
            case "read":
                world.read(count, is_live=bool(count % 2))
            case "commit":
                world.commit(count)
            case "give":
                world.give(count)
            case "execute":
                world.execute()
            case "crash":
                world.start()
            case "pass":
                world.seconds += count
                world.watch()
    world.finish()


class TestEveryCommandEndsOnce:
    @settings(max_examples=600, deadline=None)
    @given(st.lists(elements, max_size=8), st.lists(actions, max_size=40))
    def test_whatever_happens(self, stream: list[bytes], steps: list[tuple[str, int]]) -> None:
        world = World(stream)
        run(world, steps)
        endings = Counter(each.number for each in world.receipts if each.is_final or each.is_repeated)
        assert endings == Counter(range(len(stream))), "each element of the stream has one ending"
        accepted = Counter(each.number for each in world.receipts if each.status == "accepted")
        assert max(accepted.values(), default=1) == 1
        status = {each.number: each.status for each in world.receipts if each.is_final and not each.is_repeated}
        executed = Counter(each.number for each in world.executed)
        by_id = Counter(each.id for each in world.executed if each.delivery == "at_most_once")
        assert max(by_id.values(), default=1) == 1, "at most once"
        for number in range(len(stream)):
            if status.get(number) == "published":
                assert executed[number], "what is published was executed"
            elif status.get(number) != "unknown":
                assert not executed[number], f"{status.get(number)}, and it was executed"
        for each in world.executed:
            assert world.stream[each.number].count(b'"at_most_once"') == (each.delivery == "at_most_once")

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_a_crash_between_the_device_and_its_receipt(self, delivery: str) -> None:
        world = World([element("d1", delivery=delivery, expires_after=1000, **issued)])
        run(world, [("read", 1), ("give", 0), ("commit", 9), ("execute", 0), ("crash", 0)])
        is_repeated = delivery == "at_least_once"
        assert len(world.executed) == 1 + is_repeated
        assert [each.status for each in world.receipts] == ["accepted", "published" if is_repeated else "unknown"]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(elements, max_size=8), st.lists(actions, max_size=30))
    def test_all_is_forgotten_but_the_checkpoint_and_the_ids(
        self, stream: list[bytes], steps: list[tuple[str, int]]
    ) -> None:
        world = World(stream)
        run(world, steps)
        assert {name for name in world.rows if name[0] == "c"} == set()
        book = Book.restored(world.rows)
        assert book.at is not None
        assert book.through == len(stream)
        assert book.at.offset == str(book.at.number)
        if ("crash", 0) not in steps:
            assert book.at.number == len(stream)
        assert len(book.ids) <= 4

        # What expired after a crash, before it was read again, ended without its offset: it is passed over.
        told, done = len(world.receipts), len(world.executed)
        world.start()
        world.finish()
        assert (len(world.receipts), len(world.executed)) == (told, done)


class TestAPlaceThatIsLost:
    def test_what_is_open_ends_and_numbers_go_on(self) -> None:
        world = World([element("d1", id=f"x{index}", **issued) for index in range(3)])
        world.read(3, is_live=False)
        world.give(1)
        for entry in world.book.open_entries:
            world.write(abandon(world.book, entry, world.now))
        world.write(Write(world.book.begin_again("-1")))
        world.commit(100)
        assert [(each.number, each.status) for each in world.receipts if each.is_final] == [
            (0, "failed"),
            (1, "unknown"),
            (2, "failed"),
        ]
        book = Book.restored(world.rows)
        assert (book.at, book.through, book.open_entries) == (Place("-1", 3), 3, [])
        repeated = receive(book, world.stream[0], 3, ROUTES, Reading(NOW, is_live=False))
        assert repeated.write is not None
        assert repeated.write.receipt is not None
        assert repeated.write.receipt.is_repeated

    def test_without_an_id_nothing_is_done_until_it_is_settled(self) -> None:
        book = Book()
        book.begin_again("-1")
        assert Book.restored({"at": book.settle()["at"] or b""}).is_doubtful is False
        book.begin_again("-1")
        refused = receive(book, element("d1", **issued), 2, ROUTES, Reading(NOW, is_live=False))
        assert refused.write is not None
        assert refused.write.receipt is not None
        assert refused.write.receipt.code == "no_id"
        book.settle()
        assert receive(book, element("d1", **issued), 3, ROUTES, Reading(NOW, is_live=False)).ready is not None

    def test_another_command_in_the_same_place_is_noticed(self) -> None:
        book = Book()
        book.begin("0")
        receive(book, element("d1", id="x", **issued), 0, ROUTES, Reading(NOW, is_live=False))
        other = receive(book, element("d1", id="y", **issued), 0, ROUTES, Reading(NOW, is_live=False))
        assert other.is_lost
        assert other.write is None


class TestAfterARestart:
    def test_a_device_that_is_gone_fails_what_was_never_given(self) -> None:
        for was_given, status in ((False, "failed"), (True, "unknown")):
            book = Book()
            book.begin("0")
            receive(book, element("d1", id="x", **issued), 0, ROUTES, Reading(NOW, is_live=False))
            if was_given:
                book.give(0)

            class Nowhere:
                def route(self, device: str) -> None:
                    raise ValueError(f"there is no device {device}")

            received = receive(book, element("d1", id="x", **issued), 0, Nowhere(), Reading(NOW, is_live=False))  # type: ignore[arg-type]
            assert received.write is not None
            assert received.write.receipt is not None
            assert received.write.receipt.status == status

    def test_a_row_that_is_not_ours_is_said_so(self) -> None:
        with pytest.raises(JournalDamagedError, match="downlink"):
            Book.restored({"c1": b"{}"})


class TestIds:
    @given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), max_size=40))
    def test_what_is_forgotten_raises_the_floor(self, steps: list[tuple[int, int]]) -> None:
        ids = DoneIds(max_ids=3)
        rows: dict[str, bytes] = {}
        time_ns = START_NS
        added: dict[str, int] = {}
        for name, seconds in steps:
            time_ns += seconds * NANOSECONDS
            added[str(name)] = time_ns
            for key, row in ids.add(str(name), Done("failed", name, time_ns)).items():
                if row is None:
                    del rows[key]
                else:
                    rows[key] = row
            ids = DoneIds.restored(rows, max_ids=3)
            assert len(ids) <= 3
            for each, when in added.items():
                assert ids.find(each) == Done("failed", int(each), when) or when < ids.floor_ns

    def test_after_a_day_it_is_too_old_to_come_again(self) -> None:
        ids = DoneIds()
        ids.add("a", Done("published", 1, START_NS))
        day = 86_400 * NANOSECONDS
        ids.add("b", Done("published", 2, START_NS + day))
        assert ids.find("a") is not None
        ids.add("c", Done("published", 3, START_NS + day + 121 * NANOSECONDS))
        assert ids.find("a") is None
        assert ids.floor_ns == 0
