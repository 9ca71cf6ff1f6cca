"""Two gateways with one identity, one after the other or side by side: each command is executed by one of them."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.commands import Progress
from ds_gateway.records import rfc3339
from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer, Status
from harness.commands import element
from harness.downlink_box import RECEIPTS, Device, DownlinkBox
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.commands import Delivery

pytestmark = pytest.mark.anyio

PUBLISHED = Progress("published", is_final=True)
DELIVERIES = ("at_least_once", "at_most_once")


@pytest.fixture
def other_device() -> Iterator[Device]:
    device = Device()
    yield device
    device.close()


@pytest.fixture
def other(tmp_path: Path, server: InMemoryStreamServer, other_device: Device) -> DownlinkBox:
    return DownlinkBox(tmp_path / "other", server, other_device)


def copy(box: DownlinkBox, other: DownlinkBox) -> None:
    shutil.copytree(box.directory, other.directory, ignore=shutil.ignore_patterns("*.sock"))


def fresh(device: str = "d", payload: Any = 1, **more: Any) -> bytes:
    return element(device, payload, issued_at=rfc3339(time.time_ns()), **more)


def finals(receipts: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The statuses that are final and no repetition, by command."""
    found: dict[str, list[str]] = {}
    for each in receipts:
        if each["final"] and not each.get("repeated"):
            found.setdefault(each["command"], []).append(each["status"])
    return found


async def is_at_work(box: DownlinkBox) -> None:
    await await_until(lambda: not box.downlink.why_held(), what="it has claimed, and knows what others did")


async def is_stopped(box: DownlinkBox) -> None:
    await await_until(lambda: box.uplinks.is_stopped(RECEIPTS), what="it was told that another one has the claim")


async def ended(box: DownlinkBox, command: str) -> list[dict[str, Any]]:
    """The receipts, once this command has its last one."""
    return await box.receipts_when(lambda receipts: command in finals(receipts))


async def two_are_open(box: DownlinkBox, delivery: Delivery) -> None:
    """One command is with its device, and another one waits behind it."""
    box.device.answer = lambda _order: []
    await box.send(fresh(id="a", delivery=delivery), fresh(id="b", delivery=delivery))
    await await_until(lambda: box.device.done, what="the first is with its device")
    await await_until(
        lambda: box.journal.confirmed(RECEIPTS) >= box.journal.accepted(RECEIPTS) > 0, what="both are accepted"
    )


class TestTheClaim:
    async def test_comes_before_any_command(self, box: DownlinkBox) -> None:
        await box.start()
        await is_at_work(box)
        head = await asyncio.to_thread(
            DurableStream.head_static, box.server.url(f"v1/{RECEIPTS}")
        )  # raises where there is no stream
        assert head.offset
        assert await box.receipts() == []
        await box.stop()

    async def test_nothing_is_read_before_it(self, box: DownlinkBox, server: InMemoryStreamServer) -> None:
        with server.inject(Status(503), method="POST", path=f"/v1/{RECEIPTS}", times=None):
            await box.start()
            await box.send(fresh(id="a"))
            await await_until(lambda: server.count("POST", f"/v1/{RECEIPTS}") >= 3, what="the claim is refused")
            assert box.downlink.state == "held"
            assert "is not claimed yet" in box.downlink.reason
            assert box.downlink.commands({})["commands"] == []
        await box.wait_for(1)
        await box.stop()
        assert box.device.times() == {"a": 1}

    @pytest.mark.parametrize("delivery", DELIVERIES)
    async def test_what_was_accepted_under_an_earlier_one_waits_for_it(
        self, box: DownlinkBox, server: InMemoryStreamServer, delivery: Delivery
    ) -> None:
        await box.start()
        await two_are_open(box, delivery)
        await box.kill()
        box.device.done.clear()
        box.device.answer = lambda _order: [PUBLISHED]
        with server.inject(Status(503), times=None):
            await box.start()
            await await_until(lambda: server.count("HEAD", f"/v1/{RECEIPTS}") >= 3, what="the server is away")
            assert box.device.done == []
        receipts = await box.wait_for(2)
        await box.stop()
        if delivery == "at_least_once":
            assert box.device.times() == {"a": 1, "b": 1}
        else:
            assert box.device.times() == {"b": 1}
            assert finals(receipts)["a"] == ["unknown"]

    async def test_what_others_did_is_read_before_anything_is_done(
        self, box: DownlinkBox, server: InMemoryStreamServer
    ) -> None:
        stale = Status(
            200,
            headers={
                "content-type": "application/json",
                "stream-next-offset": "0000000000000000_0000000000000000",
                "stream-up-to-date": "true",
            },
            body=b"[]",
        )
        path = f"/v1/{RECEIPTS}"
        with server.inject(Status(503), Status(503), stale, stale, method="GET", path=path, times=None) as plan:
            await box.start()
            await box.send(fresh(id="a"))
            await await_until(lambda: len(plan.requests) >= 4, what="it is read in vain")
            assert box.device.done == []
            assert "is not the last one there" in box.downlink.why_held()
        await box.wait_for(1)
        await box.stop()
        assert box.device.times() == {"a": 1}


class TestOneWithAJournalOfItsOwn:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    async def test_does_nothing_that_another_one_had(
        self, box: DownlinkBox, other: DownlinkBox, delivery: Delivery
    ) -> None:
        await box.start()
        await box.send(fresh(id="done"))
        await box.wait_for(1)
        await two_are_open(box, delivery)
        await other.start()  # from the beginning: it reads all of them
        await is_at_work(other)
        await box.send(fresh(id="new"))
        receipts = await ended(other, "new")
        await box.stop()
        await other.stop()
        assert box.device.times() == {"done": 1, "a": 1}
        assert other.device.times() == {"new": 1}
        told = {each["command"]: each for each in receipts if each.get("repeated")}
        assert {name: (each["status"], each["final"]) for name, each in told.items()} == {
            "done": ("published", True),
            "a": ("unknown", True),
            "b": ("unknown", True),
        }

    async def test_knows_it_after_a_restart_too(self, box: DownlinkBox, other: DownlinkBox) -> None:
        await box.start()
        await box.send(fresh(id="done"))
        await box.wait_for(1)
        await box.stop()
        other.options["start"] = "tail"
        await other.start()
        await is_at_work(other)
        await other.stop()
        await other.start()
        await is_at_work(other)
        await box.send(fresh(id="done"), fresh(id="new"))
        await ended(other, "new")
        await other.stop()
        assert other.device.times() == {"new": 1}

    async def test_does_nothing_without_an_id_that_may_have_been_done(
        self, box: DownlinkBox, other: DownlinkBox
    ) -> None:
        await box.start()
        await box.send(fresh(), fresh(id="x"))
        await box.wait_for(2)
        await box.stop()
        await other.start()
        receipts = await other.wait_for(4)
        await await_until(lambda: not other.downlink.book.is_doubtful, what="what was there before was read")
        await box.send(fresh())
        await other.wait_for(5)
        await other.stop()
        assert [each["code"] for each in receipts if each["command"] == "#0" and "code" in each] == ["no_id"]
        assert other.device.times() == {"#2": 1}

    async def test_the_first_one_stops_without_a_receipt_of_its_own(
        self, box: DownlinkBox, other: DownlinkBox
    ) -> None:
        await box.start()
        await is_at_work(box)
        await other.start()
        await is_at_work(other)
        await box.send(fresh(id="a"))
        await other.wait_for(1)
        await is_stopped(box)
        summary = box.downlink.summary()
        await box.stop()
        await other.stop()
        assert box.device.done == []
        assert other.device.times() == {"a": 1}
        assert summary["state"] == "held"
        assert "a higher epoch was claimed" in summary["reason"]


class TestACopy:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    async def test_goes_on_with_what_was_open_if_it_is_the_only_heir(
        self, box: DownlinkBox, other: DownlinkBox, delivery: Delivery
    ) -> None:
        await box.start()
        await two_are_open(box, delivery)
        await box.kill()
        copy(box, other)
        await other.start()
        receipts = await other.wait_for(2)
        await other.stop()
        if delivery == "at_least_once":
            assert other.device.times() == {"a": 1, "b": 1}
        else:
            assert other.device.times() == {"b": 1}
            assert finals(receipts)["a"] == ["unknown"]

    @pytest.mark.parametrize("delivery", DELIVERIES)
    @pytest.mark.parametrize("told", [[], [PUBLISHED]])
    async def test_does_nothing_that_was_open_if_the_other_one_was_at_work_again(
        self, box: DownlinkBox, other: DownlinkBox, delivery: Delivery, told: list[Progress]
    ) -> None:
        await box.start()
        await two_are_open(box, delivery)
        await box.kill()
        copy(box, other)
        box.device.answer = lambda _order: told
        await box.start()
        await is_at_work(box)
        if told:
            await box.wait_for(2)
        await other.start()
        await is_at_work(other)
        await box.send(fresh(id="new"))
        receipts = await ended(other, "new")
        await box.stop()
        await other.stop()
        assert other.device.times() == {"new": 1}
        if told:
            repeated = {each["command"]: each["status"] for each in receipts if each.get("repeated")}
            if delivery == "at_least_once":
                assert repeated == {"a": "published", "b": "published"}
            else:
                assert repeated == {"a": "unknown", "b": "published"}
        else:
            codes = {each["command"]: each["code"] for each in receipts if each["status"] == "unknown"}
            assert codes["b"] == "taken_over"
        assert all(len(each) == 1 for each in finals(receipts).values()), "one ending each that is no repetition"

    async def test_of_a_running_one_sees_what_that_one_told_since(
        self, box: DownlinkBox, other: DownlinkBox
    ) -> None:
        await box.start()
        await two_are_open(box, "at_least_once")
        copy(box, other)
        await box.send(fresh("d2", id="c"))  # the silent device is d
        await await_until(lambda: box.device.times()["c"], what="it is with its device")
        await await_until(
            lambda: box.journal.confirmed(RECEIPTS) >= box.journal.accepted(RECEIPTS) >= 3, what="it is accepted"
        )
        await other.start()
        receipts = await other.wait_for(3)
        await box.stop()
        await other.stop()
        assert other.device.times() == {}
        assert Counter(each["status"] for each in receipts if each["final"]) == {"unknown": 3}


class TestClaimingItBack:
    async def test_by_an_operator_does_nothing_that_the_other_one_had(
        self, box: DownlinkBox, other: DownlinkBox
    ) -> None:
        await box.start()
        await two_are_open(box, "at_least_once")
        other.options["start"] = "tail"
        await other.start()
        await is_at_work(other)
        await box.send(fresh("d2", id="c"), fresh("d2", id="new", delivery="at_most_once"))
        await other.wait_for(2)
        await is_stopped(box)
        await other.stop()
        (number,) = [number for number, name, _ in box.journal.streams() if name == RECEIPTS]
        box.device.answer = lambda _order: [PUBLISHED]
        await box.uplinks.restart(number, claim=True)
        await is_at_work(box)
        await box.send(fresh("d2", id="last"))
        await await_until(lambda: box.device.times()["last"], what="it executes again")
        await await_until(lambda: box.downlink.book.open_count == 1, what="only what its device has is open")
        await box.stop()
        assert box.device.times() == {"a": 1, "last": 1}
        assert other.device.times() == {"c": 1, "new": 1}
        (told,) = [each for each in await box.receipts() if each["command"] == "b" and each["final"]]
        assert (told["status"], told["code"], told["repeated"]) == ("unknown", "taken_over", True)
