"""A whole downlink: real journal, real uplinks, a real stream server, and a device that remembers what it did."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.commands import Order, Progress
from ds_gateway.errors import ConfigError, Problem
from ds_gateway.records import rfc3339
from durable_streams import DurableStream
from harness.commands import FakeRoute, element
from harness.downlink_box import COMMANDS, Device, DownlinkBox, KilledError
from harness.waiting import await_until

if TYPE_CHECKING:
    from pathlib import Path

    from ds_gateway.commands import Delivery
    from durable_streams.testing import InMemoryStreamServer

pytestmark = pytest.mark.anyio

PUBLISHED = Progress("published", is_final=True)


def now(seconds: float = 0.0) -> str:
    return rfc3339(time.time_ns() + int(seconds * 1e9))


def fresh(device: str = "d", payload: Any = 1, **more: Any) -> bytes:
    return element(device, payload, issued_at=now(), **more)


def statuses(receipts: list[dict[str, Any]], number: int) -> list[str]:
    return [each["status"] for each in receipts if each["number"] == number]


class TestACommand:
    async def test_it_reaches_its_device_and_the_stream_says_so(self, box: DownlinkBox) -> None:
        await box.start()
        await box.send(fresh("d1", {"on": True}, id="one"))
        receipts = await box.wait_for(1)
        await box.stop()
        (order,) = box.device.done
        assert (order.command_id, order.device, order.delivery) == ("one", "d1", "at_least_once")
        assert receipts == [
            {"command": "one", "number": 0, "status": "accepted", "final": False, "device": "d1"},
            {"command": "one", "number": 0, "status": "published", "final": True, "device": "d1"},
        ]

    async def test_nothing_is_done_before_the_server_has_its_acceptance(self, box: DownlinkBox) -> None:
        seen: list[list[dict[str, Any]]] = []
        loop = asyncio.get_running_loop()

        def answer(_order: Order) -> list[Progress]:
            seen.append(asyncio.run_coroutine_threadsafe(box.receipts(), loop).result(10))
            return [PUBLISHED]

        box.device.answer = answer
        await box.start()
        await box.send(fresh(id="one"), fresh(id="two"))
        await box.wait_for(2)
        await box.stop()
        assert statuses(seen[0], 0) == ["accepted"]
        assert statuses(seen[1], 1) == ["accepted"]

    async def test_the_devices_words_are_in_the_receipt(self, box: DownlinkBox) -> None:
        box.device.answer = lambda _order: [
            Progress("published", is_final=False),
            Progress("published", is_final=False),
            Progress("acknowledged", is_final=True, reply="OK \ud800"),
        ]
        await box.start()
        await box.send(fresh())
        receipts = await box.wait_for(1)
        await box.stop()
        assert statuses(receipts, 0) == ["accepted", "published", "acknowledged"]
        assert receipts[-1]["reply"] == "OK ?"

    async def test_what_cannot_be_done_is_answered_and_the_next_one_is_done(self, box: DownlinkBox) -> None:
        await box.start()
        deep = b'{"device":"d","payload":%b}' % (b"[" * 900 + b"]" * 900)
        await box.send(
            b"7", deep, fresh("nobody"), fresh(payload="bad"), fresh(typo=1), fresh(payload="x" * 66_000)
        )
        await box.send(fresh(id="good"), fresh(id="good"))
        receipts = await box.wait_for(8)
        await box.stop()
        codes = [each.get("code") for each in receipts if each["final"] and not each.get("repeated")]
        assert Counter(codes) == Counter(
            ["malformed", "unknown_device", "bad_payload", "malformed", "too_large", None]
            + [code for code in codes if code == "no_issued_at"]
        )
        assert [each["number"] for each in receipts if each.get("repeated")] == [7]
        assert [order.command_id for order in box.device.done] == ["good"]


class TestOrder:
    async def test_a_slow_device_keeps_its_order_and_holds_back_nobody_else(self, box: DownlinkBox) -> None:
        held: list[Any] = []
        send = box.device.send

        def hold(order: Order, on_progress: Any) -> None:
            if order.device == "slow" and not held:
                held.append((order, on_progress))
            else:
                send(order, on_progress)

        box.routes.known["slow"] = FakeRoute("slow")
        box.device.send = hold  # type: ignore[method-assign]
        await box.start()
        await box.send(*(fresh(each, id=f"{each}{index}") for index in range(3) for each in ("slow", "d")))
        await await_until(lambda: len(box.device.done) == 3, what="the other device has done its commands")
        assert {order.device for order in box.device.done} == {"d"}
        assert [each["state"] for each in box.downlink.commands({})["commands"]] == [
            "sent",
            "accepted",
            "accepted",
        ]
        held[0][1](PUBLISHED)
        await box.wait_for(6)
        await box.stop()
        assert [order.command_id for order in box.device.done] == ["d0", "d1", "d2", "slow1", "slow2"]


class TestAges:
    async def test_half_of_a_backlog_is_expired(self, box: DownlinkBox) -> None:
        old = [element("d", 1, id=f"old{n}", issued_at=now(-61)) for n in range(50)]
        new = [fresh(id=f"new{n}") for n in range(50)]
        await box.send(*(each for pair in zip(old, new, strict=True) for each in pair))
        await box.start()
        receipts = await box.wait_for(100)
        await box.stop()
        assert Counter(each["status"] for each in receipts if each["final"]) == {"expired": 50, "published": 50}
        assert box.device.times() == Counter(f"new{n}" for n in range(50))

    async def test_without_a_time_only_what_is_read_live_is_done(self, box: DownlinkBox) -> None:
        await box.send(element(id="old"))
        await box.start()
        await await_until(lambda: box.downlink.is_up_to_date, what="it is up to date")
        await box.wait_for(1)
        await box.send(element(id="live"))
        receipts = await box.wait_for(2)
        await box.stop()
        assert receipts[0]["code"] == "no_issued_at"
        assert box.device.times() == {"live": 1}

    async def test_what_waits_expires_with_a_receipt(self, box: DownlinkBox) -> None:
        box.device.answer = lambda _order: []
        await box.start()
        await box.send(fresh(id="a"), fresh(id="b", expires_after=1), fresh(id="c", expires_after=1))
        await box.wait_for(2)
        await box.stop()
        assert box.device.times() == {"a": 1}
        assert [each["command"] for each in await box.receipts() if each["status"] == "expired"] == ["b", "c"]

    async def test_a_clock_that_is_set_forward_ends_it(self, box: DownlinkBox) -> None:
        box.device.answer = lambda _order: []
        await box.start()
        await box.send(fresh(id="a"), fresh(id="b"))
        await await_until(lambda: box.device.done, what="the first is with the device")
        box.shift_seconds = 120
        receipts = await box.wait_for(1)
        await box.stop()
        assert (receipts[-1]["command"], receipts[-1]["status"]) == ("b", "expired")

    async def test_nothing_is_read_while_the_clock_is_not_synchronised(self, box: DownlinkBox) -> None:
        box.is_synchronised = False
        await box.send(fresh(id="a"))
        await box.start()
        await await_until(lambda: box.downlink.state == "held", what="it is held")
        assert "clock" in box.downlink.summary()["reason"]
        assert await box.receipts() == []
        box.is_synchronised = True
        await box.wait_for(1)
        await box.stop()
        assert box.device.times() == {"a": 1}


class TestANewGateway:
    async def test_it_starts_at_the_tail(self, box: DownlinkBox) -> None:
        box.options["start"] = "tail"
        await box.send(fresh(id="old"))
        await box.start()
        await await_until(lambda: box.downlink.state == "reading", what="it reads")
        await box.send(fresh(id="new"))
        receipts = await box.wait_for(1)
        await box.stop()
        assert [each["number"] for each in receipts] == [0, 0]
        assert box.device.times() == {"new": 1}

    async def test_it_makes_its_stream(self, box: DownlinkBox) -> None:
        await box.start()
        await await_until(lambda: box.downlink.is_up_to_date, what="it reads an empty stream")
        await box.stop()


class TestAStreamThatIsLost:
    async def test_it_is_read_anew_and_nothing_is_done_twice(self, box: DownlinkBox) -> None:
        await box.start()
        await box.send(fresh(id="a"), fresh(id="b"))
        await box.wait_for(2)
        await asyncio.to_thread(DurableStream.delete_static, box.server.url(f"v1/{COMMANDS}"))
        await box.send(fresh(id="b"), fresh(), fresh(id="c"))
        receipts = await box.wait_for(5)
        assert box.device.times() == {"a": 1, "b": 1, "c": 1}
        assert [each["number"] for each in receipts if each["final"]] == [0, 1, 2, 3, 4]
        await await_until(lambda: not box.downlink.book.is_doubtful, what="the doubt is over")
        await box.send(fresh())
        await box.wait_for(6)
        await box.stop()
        assert box.device.times()["#5"] == 1


class TestACrash:
    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    async def test_at_any_commit(self, box: DownlinkBox, delivery: Delivery) -> None:
        count = 60
        chance = random.Random(delivery)
        await box.start()
        for number in range(count):
            if number % 6 == 0:
                last = box.commits + chance.randrange(1, 24)

                def die(commits: int, last: int = last) -> None:
                    if commits >= last:
                        raise KilledError

                box.on_commit = die
            await box.send(fresh(f"d{number % 3}", id=f"c{number}", delivery=delivery, expires_after=600))
            if number % 6 == 5:
                # Or nothing is left to be committed, and it is killed then.
                await await_until(
                    lambda sent=number + 1: not box.journal.running or box.downlink.book.through == sent,  # type: ignore[misc]
                    what="it is killed",
                    timeout_seconds=60,
                )
                await box.kill()
                await box.start()
        receipts = await box.wait_for(count)
        await box.stop()
        final = Counter(each["number"] for each in receipts if each["final"])
        assert final == Counter(range(count)), "one ending each"
        assert {each["command"] for each in receipts if each["final"]} == {f"c{number}" for number in range(count)}
        assert all(each["command"] == f"c{each['number']}" for each in receipts), "numbers are the same"
        times = box.device.times()
        unknown = {each["command"] for each in receipts if each["status"] == "unknown"}
        if delivery == "at_most_once":
            assert max(times.values()) == 1
            assert {f"c{number}" for number in range(count)} - set(times) <= unknown
        else:
            assert set(times) == {f"c{number}" for number in range(count)}
            assert unknown == set()

    async def test_what_was_open_at_a_stop_goes_on(self, box: DownlinkBox) -> None:
        box.device.answer = lambda _order: []
        await box.start()
        await box.send(fresh(id="a"), fresh(id="b", delivery="at_most_once"))
        await await_until(lambda: len(box.device.done) == 1, what="the first is with the device")
        await box.stop()
        box.device.answer = lambda _order: [PUBLISHED]
        await box.start()
        receipts = await box.wait_for(2)
        await box.stop()
        assert box.device.times() == {"a": 2, "b": 1}
        assert Counter(each["status"] for each in receipts) == {"accepted": 2, "published": 2}

    async def test_a_start_after_a_clean_stop_warns_of_nothing(
        self, box: DownlinkBox, caplog: pytest.LogCaptureFixture
    ) -> None:
        await box.start()
        await box.send(fresh(id="a"))
        await box.wait_for(1)
        await box.stop()
        with caplog.at_level(logging.INFO, logger="ds_gateway"):
            await box.start()
            await await_until(lambda: not box.downlink.why_held(), what="the receipts stream is claimed anew")
            await box.stop()
        repairs = [each for each in caplog.records if each.message == "uplink.repair"]
        assert [each.levelno for each in repairs] == [logging.INFO]
        assert [each.message for each in caplog.records if each.levelno > logging.INFO] == []

    async def test_what_may_have_been_sent_at_most_once_is_unknown(self, box: DownlinkBox) -> None:
        box.device.answer = lambda _order: []
        await box.start()
        await box.send(fresh(id="a", delivery="at_most_once"))
        await await_until(lambda: box.device.done, what="it is with the device")
        await box.kill()
        await box.start()
        receipts = await box.wait_for(1)
        await box.stop()
        assert statuses(receipts, 0) == ["accepted", "unknown"]
        assert box.device.times() == {"a": 1}


class TestTwoGateways:
    async def test_the_older_one_executes_nothing_more(
        self, box: DownlinkBox, tmp_path: Path, server: InMemoryStreamServer
    ) -> None:
        await box.start()
        await box.send(fresh(id="a"))
        await box.wait_for(1)
        await box.stop()
        shutil.copytree(box.directory, tmp_path / "copy")
        other_device = Device()
        other = DownlinkBox(tmp_path / "copy", server, other_device)
        await box.start()
        await await_until(lambda: not box.downlink.why_held(), what="the first has claimed")
        await other.start()
        await await_until(lambda: not other.downlink.why_held(), what="the second has claimed")
        await box.send(*(fresh(id=f"b{n}") for n in range(5)))
        await other.wait_for(6)
        await await_until(box.downlink.why_held, what="the first is fenced")
        await box.send(*(fresh(id=f"c{n}") for n in range(5)))
        receipts = await other.wait_for(11)
        await box.stop()
        await other.stop()
        other_device.close()
        assert box.device.times() == {"a": 1}
        assert other_device.times() == Counter([*(f"b{n}" for n in range(5)), *(f"c{n}" for n in range(5))])
        assert Counter(each["number"] for each in receipts if each["final"]) == Counter(range(11))

    async def test_one_with_a_journal_of_its_own_takes_over_as_well(
        self, box: DownlinkBox, tmp_path: Path, server: InMemoryStreamServer
    ) -> None:
        await box.start()
        await box.send(fresh(id="a"))
        await box.wait_for(1)
        other_device = Device()
        other = DownlinkBox(tmp_path / "other", server, other_device, start="tail")
        await other.start()
        await await_until(lambda: other.downlink.state == "reading", what="the second reads")
        # Its receipt makes the second one claim.
        await box.send(fresh("unknown", id="b"))
        await await_until(lambda: not other.downlink.why_held(), what="the second has claimed")
        await box.send(*(fresh(id=f"c{n}") for n in range(5)))
        await await_until(box.downlink.why_held, what="the first is fenced")
        await await_until(lambda: sum(other_device.times().values()) == 5, what="the second does all")
        await box.stop()
        await other.stop()
        other_device.close()
        assert box.device.times() == {"a": 1}
        assert other_device.times() == Counter(f"c{n}" for n in range(5))


class TestNothingIsSent:
    async def test_in_a_dry_run(self, box: DownlinkBox) -> None:
        box.options["dry_run"] = True
        await box.start()
        await box.send(fresh("d1"))
        receipts = await box.wait_for(1)
        await box.stop()
        assert (receipts[-1]["status"], receipts[-1]["code"]) == ("failed", "dry_run")
        assert receipts[-1]["reason"] == "would have sent '1' to the topic d1/set"
        assert box.device.done == []


class TestTheGatewayItself:
    async def test_it_does_what_it_is_allowed(self, box: DownlinkBox) -> None:
        box.options["gateway_commands"] = ["status"]
        box.verbs["status"] = lambda _arguments: {"gateway": {"id": "g"}, "devices": ["x" * 40_000]}
        await box.start()
        await box.send(fresh("@gateway", "status"), fresh("@gateway", {"verb": "resolve"}), fresh("@gateway", 7))
        receipts = await box.wait_for(3)
        await box.stop()
        assert statuses(receipts, 0) == ["accepted", "acknowledged"]
        assert [each for each in receipts if each["number"] == 0][-1]["reply"] == (
            '{"gateway":{"id":"g"},"truncated":true}'
        )
        assert [each["code"] for each in receipts if each["number"] == 1] == ["not_allowed"]
        assert [each["code"] for each in receipts if each["number"] == 2] == ["bad_payload"]

    async def test_a_verb_that_fails_ends_its_command(self, box: DownlinkBox) -> None:
        def reload(_arguments: object) -> dict[str, Any]:
            raise ConfigError([Problem("gateway.yaml", n, "mqtt", "x" * 400) for n in range(9)])

        def status(_arguments: object) -> dict[str, Any]:
            raise ZeroDivisionError

        box.options["gateway_commands"] = ["status", "reload"]
        box.verbs |= {"status": status, "reload": reload}
        await box.start()
        await box.send(fresh("@gateway", "status"), fresh("@gateway", "reload"))
        receipts = await box.wait_for(2)
        await box.stop()
        ended = {each["number"]: each for each in receipts if each["final"]}
        assert {n: (each["status"], each["code"]) for n, each in ended.items()} == {
            0: ("failed", "defect"),
            1: ("failed", "configuration"),
        }
        assert "ZeroDivisionError" in ended[0]["reason"]
        assert [line[:20] for line in ended[1]["reason"].splitlines()] == [
            "gateway.yaml:0: mqtt",
            "gateway.yaml:1: mqtt",
            "and 7 more: ds-gatew",
        ]

    async def test_what_follows_a_verb_comes_after_its_receipt(self, box: DownlinkBox) -> None:
        seen: list[int] = []
        box.options["gateway_commands"] = ["reload"]
        box.verbs["reload"] = lambda _arguments: {}
        box.afterwards["reload"] = lambda: seen.append(box.downlink.book.open_count)
        await box.start()
        await box.send(fresh("@gateway", "reload"))
        await box.wait_for(1)
        await await_until(lambda: seen, what="it followed")
        await box.stop()
        assert seen == [0]


class TestAFullJournal:
    async def test_no_more_is_taken_than_its_receipts_have_room_for(self, box: DownlinkBox) -> None:
        box.limits["max_bytes"] = 1024 * 1024
        box.device.answer = lambda _order: []
        await box.start()
        await box.send(*(fresh(f"d{n}", id=f"c{n}") for n in range(40)))
        await await_until(lambda: box.downlink.state == "held", what="it is held")
        assert "room" in box.downlink.reason
        assert 10 < box.downlink.book.open_count < 25
        await box.stop()
