"""The executor alone, with a desk that commits and confirms when a test says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ds_gateway.commands import Progress
from ds_gateway.downlink.ageing import Deadline, Now
from ds_gateway.downlink.book import Book, Entry
from ds_gateway.downlink.executor import Bell, Executor
from ds_gateway.downlink.reception import Ready, Write
from ds_gateway.records import NANOSECONDS
from harness.commands import START_NS, FakeRoute
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ds_gateway.commands import Receipt

pytestmark = pytest.mark.anyio

PUBLISHED = Progress("published", is_final=True)


class Desk:
    """Everything that the executor needs, by hand."""

    def __init__(self) -> None:
        self.book = Book()
        self.book.begin("-1")
        self.seconds = 0.0
        self.held = ""
        self.alone = True
        self.confirmed = 100
        self.commits = True
        self.writes: list[Write] = []
        self.waiting: list[asyncio.Future[int]] = []
        self.given: list[tuple[Ready, Callable[[Progress], None]]] = []
        self.bell = Bell()
        self.executor = Executor(self, lambda ready, tell: self.given.append((ready, tell)), self.bell)
        self._number = 0

    def now(self) -> Now:
        return Now(START_NS + int(self.seconds * NANOSECONDS), self.seconds)

    def write(self, write: Write) -> asyncio.Future[int]:
        self.writes.append(write)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        if self.commits:
            self.commit()
        return done

    def commit(self) -> None:
        for done in self.waiting:
            done.set_result(1)
        self.waiting.clear()

    def why_held(self) -> str:
        return self.held

    def is_alone(self) -> bool:
        return self.alone

    def is_confirmed(self, position: int) -> bool:
        return self.confirmed >= position

    def add(
        self,
        device: str = "d",
        *,
        seconds: float = 60.0,
        rate: float | None = None,
        may_have_been_sent: bool = False,
    ) -> int:
        number = self._number
        self._number += 1
        entry = Entry(
            number,
            f"c{number}",
            device,
            "at_least_once",
            "given" if may_have_been_sent else "accepted",
            START_NS + int(seconds * NANOSECONDS),
            START_NS,
        )
        route = FakeRoute(device, max_rate=rate)
        ready = Ready(
            number,
            entry.id,
            device,
            "at_least_once",
            Deadline.at(entry.deadline_ns, self.now()),
            route,
            route.message(1),
            100,
            may_have_been_sent=may_have_been_sent,
        )
        self.executor.add(ready, self.write(Write(self.book.accept(entry))))
        return number

    @property
    def receipts(self) -> list[Receipt]:
        return [write.receipt for write in self.writes if write.receipt is not None]

    async def wait_given(self, count: int) -> None:
        await await_until(lambda: len(self.given) >= count, what=f"{count} are given")

    async def settle(self) -> None:
        """Let every task go as far as it can without time passing."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.executor.stop()


class TestBeforeItIsGiven:
    async def test_its_acceptance_is_committed_then_confirmed_then_its_turn_is_committed(self, desk: Desk) -> None:
        desk.commits, desk.confirmed = False, 0
        desk.add()
        await desk.settle()
        assert len(desk.writes) == 1
        desk.commit()
        await desk.settle()
        assert len(desk.writes) == 1, "not confirmed yet"
        desk.confirmed = 1
        desk.bell.ring()
        await desk.settle()
        assert b'"given"' in (desk.writes[-1].rows["c0"] or b"")
        assert desk.given == []
        desk.commit()
        await desk.settle()
        assert len(desk.given) == 1

    @pytest.mark.parametrize("when", ["before", "while it is committed"])
    async def test_what_is_held_is_not_given(self, desk: Desk, when: str) -> None:
        desk.commits = when == "before"
        if when == "before":
            desk.held = "fenced"
        number = desk.add()
        desk.commit()
        await desk.settle()
        desk.held = "fenced"
        desk.commit()
        await desk.settle()
        assert desk.given == []
        turn = desk.executor.turn(number)
        assert turn is not None
        assert turn.reason == "fenced"
        desk.held, desk.commits = "", True
        desk.bell.ring()
        await desk.wait_given(1)

    async def test_its_time_may_be_over_while_it_is_committed(self, desk: Desk) -> None:
        desk.commits = False
        desk.add()
        desk.commit()
        await desk.settle()
        desk.seconds = 61
        desk.commit()
        await desk.settle()
        assert desk.given == []
        assert [(each.status, each.is_final) for each in desk.receipts] == [("expired", True)]

    async def test_what_an_earlier_process_may_have_sent_never_expires(self, desk: Desk) -> None:
        desk.held = "x"
        desk.add(may_have_been_sent=True)
        desk.add("e")
        await desk.settle()
        desk.seconds = 61
        desk.executor.expire()
        assert [each.status for each in desk.receipts] == ["unknown", "expired"]
        assert list(desk.executor) == []

    async def test_it_does_not_expire_while_another_gateway_may_have_done_it(self, desk: Desk) -> None:
        desk.alone, desk.held = False, "the claim is lost"
        desk.add(seconds=5)
        await desk.settle()
        desk.seconds = 6
        desk.bell.ring()
        await desk.settle()
        assert desk.receipts == []
        desk.alone, desk.held = True, ""
        desk.bell.ring()
        await desk.settle()
        assert [each.status for each in desk.receipts] == ["expired"]
        assert desk.given == []


class TestTheOrder:
    async def test_one_at_a_time_for_each_device(self, desk: Desk) -> None:
        numbers = [desk.add(device) for device in ("d", "e", "d")]
        await desk.wait_given(2)
        await desk.settle()
        assert [ready.number for ready, _ in desk.given] == numbers[:2]
        desk.given[0][1](PUBLISHED)
        await desk.wait_given(3)
        assert desk.given[2][0].number == numbers[2]

    async def test_the_rate_of_a_device_is_kept(self, desk: Desk) -> None:
        desk.add(rate=0.1)
        desk.add(rate=0.1)
        await desk.wait_given(1)
        desk.given[0][1](PUBLISHED)
        await desk.settle()
        await await_until(lambda: len(desk.receipts) == 1, what="the first has ended")
        desk.seconds = 9.9
        desk.bell.ring()
        await desk.settle()
        assert len(desk.given) == 1
        desk.seconds = 10
        desk.bell.ring()
        await desk.wait_given(2)


class TestWhatTheSourceSays:
    @pytest.mark.parametrize(
        ("sent_before", "said", "told"),
        [
            (False, "published", "published"),
            (False, "failed", "failed"),
            (False, "expired", "expired"),
            (False, "unknown", "unknown"),
            (True, "expired", "unknown"),
            (True, "failed", "failed"),
        ],
    )
    async def test_is_in_the_last_receipt(
        self,
        desk: Desk,
        sent_before: bool,  # noqa: FBT001 - a parameter of the table
        said: str,
        told: str,
    ) -> None:
        desk.add(may_have_been_sent=sent_before)
        await desk.wait_given(1)
        desk.given[0][1](Progress(said, is_final=True, reason="why", reply="what"))  # type: ignore[arg-type]
        await await_until(lambda: desk.receipts, what="it has ended")
        (receipt,) = desk.receipts
        assert (receipt.status, receipt.is_final, receipt.reason, receipt.reply) == (told, True, "why", "what")
        assert desk.executor.open_bytes == 0

    async def test_never_comes_back_to_it_as_an_error(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.add()
        await desk.wait_given(1)
        (_, tell), *_ = desk.given
        with monkeypatch.context() as patch:

            def fail(*_arguments: object) -> None:
                raise MemoryError

            patch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", fail)
            tell(Progress("published", is_final=False))  # in its thread, which must live on
        tell(PUBLISHED)
        await await_until(lambda: desk.receipts, what="the command ends all the same")
        assert [each.status for each in desk.receipts] == ["published"]

    async def test_is_not_heard_after_the_stop(self, desk: Desk) -> None:
        desk.add()
        await desk.wait_given(1)
        await desk.executor.stop()
        desk.given[0][1](PUBLISHED)
        await desk.settle()
        assert desk.receipts == []
        assert desk.book.open_count == 1

    async def test_a_source_that_breaks_costs_one_command(self, desk: Desk) -> None:
        def give(ready: Ready, tell: Callable[[Progress], None]) -> None:
            if ready.number == 0:
                raise RuntimeError("broken")
            desk.given.append((ready, tell))

        desk.executor = Executor(desk, give, desk.bell)
        desk.add()
        desk.add()
        await desk.wait_given(1)
        assert [(each.status, each.code) for each in desk.receipts] == [("unknown", "defect")]


class TestFinishing:
    async def test_what_was_begun_is_waited_for_and_nothing_is_begun(self, desk: Desk) -> None:
        for device in "dde":
            desk.add(device)
        await desk.wait_given(2)
        finishing = asyncio.create_task(desk.executor.finish(60))
        await desk.settle()
        desk.given[0][1](PUBLISHED)
        await desk.settle()
        assert not finishing.done(), "e's is with its device"
        desk.given[1][1](PUBLISHED)
        await finishing
        await desk.settle()
        assert [ready.number for ready, _ in desk.given] == [0, 2]
        turn = desk.executor.turn(1)
        assert turn is not None
        assert turn.reason == "the gateway stops; it is done after the next start"

    async def test_one_whose_turn_is_being_committed_is_given(self, desk: Desk) -> None:
        desk.add()
        desk.commits = False
        await await_until(lambda: desk.waiting, what="its turn is written")
        finishing = asyncio.create_task(desk.executor.finish(60))
        await desk.settle()
        desk.commit()
        await desk.wait_given(1)
        desk.commits = True
        desk.given[0][1](PUBLISHED)
        await finishing

    async def test_not_for_ever(self, desk: Desk) -> None:
        desk.add()
        await desk.wait_given(1)
        finishing = asyncio.create_task(desk.executor.finish(5))
        await desk.settle()
        desk.seconds = 6.0
        desk.bell.ring()
        await finishing
        assert desk.executor.turn(0) is not None


class TestWhatComesAfterTheEnd:
    async def test_is_done_when_the_receipt_is_committed(self, desk: Desk) -> None:
        done: list[str] = []
        desk.add()
        await desk.wait_given(1)
        desk.commits = False
        then = Progress("acknowledged", is_final=True, then=lambda: done.append("done"))
        desk.given[0][1](then)
        await desk.settle()
        assert (desk.receipts[-1].status, done) == ("acknowledged", [])
        desk.commit()
        await desk.settle()
        assert done == ["done"]

    async def test_a_code_of_its_own_is_told(self, desk: Desk) -> None:
        desk.add()
        await desk.wait_given(1)
        desk.given[0][1](Progress("failed", is_final=True, code="configuration"))
        await desk.settle()
        assert desk.receipts[-1].code == "configuration"
