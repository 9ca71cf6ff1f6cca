"""Commands while things break: the gateway is killed, connections are cut, the server is away, a second one comes.

at_least_once: every command reaches its device, and copies carry its id. at_most_once: none reaches it twice, and
what did not reach it is reported. In both every command has one final receipt, which says what is true.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter, deque
from contextlib import ExitStack
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway.records import rfc3339
from faults.command_plant import DEVICES, GATEWAY, LAMP, PLUGS, RECEIPTS, SINK, SLOW, CommandPlant, report
from faults.disturbed_commands import disturb
from harness.audit import StreamReader, telemetry
from harness.command_audit import audit, receipts_in
from harness.mqtt_proxy import MqttProxy
from harness.paging_server import PagingServer
from harness.pty_device import PtyDevice
from harness.reference_server import ReferenceServer
from harness.stream_relay import StreamRelay
from harness.stream_server import Front, Reply, StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from paho.mqtt.client import MQTTMessage

    from ds_gateway.commands import Delivery
    from harness.command_audit import CommandFindings
    from harness.mqtt_device import Device
    from harness.mqtt_proxy import Cut
    from harness.processes import Processes
    from harness.stream_server import Asked

DELIVERIES: Final = ("at_least_once", "at_most_once")


@pytest.fixture
def server(processes: Processes, tmp_path: Path) -> StreamServer:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    return server


def judge(findings: CommandFindings, delivery: Delivery) -> None:
    assert findings.problems == ""
    if delivery == "at_least_once":
        assert (findings.missing, findings.unknown) == (0, 0)
    else:
        assert findings.repeated == 0
        assert findings.missing <= findings.unknown


class TestKillsAndCuts:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_no_command_is_lost_or_done_against_its_delivery(
        self, processes: Processes, tmp_path: Path, server: StreamServer, delivery: Delivery
    ) -> None:
        judge(
            disturb(processes, tmp_path / "plant", server.base_url, delivery, count=40, kills=2, cuts=3), delivery
        )

    @pytest.mark.soak
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_no_command_of_four_hundred_is(
        self, processes: Processes, tmp_path: Path, server: StreamServer, delivery: Delivery
    ) -> None:
        judge(
            disturb(processes, tmp_path / "plant", server.base_url, delivery, count=400, kills=8, cuts=10),
            delivery,
        )


class TestACrashInBetween:
    """The gateway is killed at one certain moment."""

    def test_what_has_its_receipt_is_not_done_again(
        self, processes: Processes, tmp_path: Path, server: StreamServer
    ) -> None:
        with CommandPlant(processes, tmp_path / "plant", server.base_url) as plant:
            plant.gateway.start()
            plant.send([PLUGS[0], SINK])
            plant.wait_ended()
            plant.gateway.kill()
            plant.gateway.start()
            plant.send([PLUGS[0], SINK])
            findings = plant.finish()
        assert findings.problems == ""
        assert findings.repeated == 0

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_what_its_device_has_and_nobody_knows_of(
        self, processes: Processes, tmp_path: Path, server: StreamServer, delivery: Delivery
    ) -> None:
        silence = deque(["once"])

        def answer(device: Device, message: MQTTMessage) -> None:
            if not silence:
                report(device, message)
            else:
                silence.clear()

        with CommandPlant(processes, tmp_path / "plant", server.base_url, answers={LAMP: answer}) as plant:
            plant.gateway.start()
            (command,) = plant.send([LAMP], delivery=delivery)
            wait_until(lambda: plant.seen[LAMP], what="the device has it")
            plant.gateway.kill()
            plant.gateway.start()
            (after,) = plant.send([LAMP], delivery=delivery)
            findings = plant.finish()
            seen, statuses = plant.seen[LAMP], plant.statuses()
        assert findings.problems == ""
        if delivery == "at_least_once":
            assert seen == [command, command, after]
            assert statuses == {command: "acknowledged", after: "acknowledged"}
        else:
            assert statuses == {command: "unknown", after: "acknowledged"}
            assert seen == [command, after]

    def test_nothing_is_done_before_the_server_has_its_acceptance(
        self, processes: Processes, tmp_path: Path, server: StreamServer
    ) -> None:
        is_refused: list[str] = []

        def rule(asked: Asked) -> Reply | None:
            if "live=sse" in asked.path:
                return Reply(400)  # a front passes on whole answers only
            is_receipt = asked.method == "POST" and RECEIPTS in asked.path
            return Reply(503) if is_receipt and is_refused else None

        with (
            Front(server.base_url) as front,
            CommandPlant(processes, tmp_path / "plant", server.base_url, gateway_url=front.base_url) as plant,
        ):
            front.rule = rule
            plant.gateway.start()
            plant.send([SINK])
            plant.wait_ended()
            refusals = plant.gateway.events("uplink.waiting")
            is_refused.append("receipts")
            (command,) = plant.send([SINK])
            wait_until(lambda: plant.told_open(command), what="the gateway has the command")
            wait_until(
                lambda: len(plant.gateway.events("uplink.waiting")) > len(refusals),
                what="its acceptance is refused",
            )
            assert command not in plant.seen[SINK], "it was done before its acceptance was confirmed"
            assert plant.reasons() == ["the server has not confirmed its acceptance yet"]
            plant.gateway.kill()
            is_refused.clear()
            plant.gateway.start()
            findings = plant.finish()
        assert (findings.problems, findings.repeated, findings.missing) == ("", 0, 0)


class TestTheServerIsAway:
    @pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.soak)])
    def test_what_is_over_when_it_is_back_expires_and_the_rest_is_done_in_order(
        self, processes: Processes, tmp_path: Path, server: StreamServer, count: int
    ) -> None:
        with (
            StreamRelay(server.base_url) as relay,
            CommandPlant(processes, tmp_path / "plant", server.base_url, gateway_url=relay.base_url) as plant,
        ):
            plant.gateway.start()
            first = plant.send(DEVICES)
            plant.wait_ended()
            relay.close()
            plant.gateway.wait_for(lambda status: status["downlink"]["state"] == "waiting", what="it says so")
            over_ns = time.time_ns() + 1_000_000_000
            deadline = {"expires_at": rfc3339(over_ns)}
            portion = [(DEVICES[place % 4], deadline if place % 8 >= 4 else {}) for place in range(40)]
            queued = [each for _ in range(count // 40) for each in plant.send_all(portion)]
            server.kill()
            wait_until(lambda: time.time_ns() > over_ns, what="the deadline has passed")
            server.start()
            relay.open()
            findings = plant.finish()
            print(Counter(plant.statuses().values()))
            over = {each for place, each in enumerate(queued) if place % 8 >= 4}
            assert {each for each, status in plant.statuses().items() if status == "expired"} == over
            seen = [each for ids in plant.seen.values() for each in ids]
        assert sorted(seen) == sorted({*first, *queued} - over)
        assert findings.problems == ""
        assert (findings.repeated, findings.missing, findings.unknown) == (0, len(over), 0)


class TestPages:
    """Pages and events fall differently before and after a crash: numbers stay, and nothing is done twice."""

    FALLS: Final = (
        {"small_pages": True, "events": False},
        {"small_pages": False, "events": True},
        {"small_pages": True, "events": True},
        {"small_pages": False, "events": False},
    )

    def test_numbers_stay_and_nothing_is_done_twice(self, processes: Processes, tmp_path: Path) -> None:
        random = Random(SystemRandom().randrange(10**9))
        with (
            PagingServer() as server,
            CommandPlant(processes, tmp_path / "plant", server.base_url) as plant,
        ):
            for place, fall in enumerate(self.FALLS):
                server.fall(**fall)
                if place:
                    plant.gateway.kill()
                plant.gateway.start()
                before = plant.progress
                # The slow device keeps the checkpoint back: what ended behind it is read again.
                for size in random.sample(range(1, 6), 4):
                    plant.send([SLOW, *random.choices(DEVICES, k=size)], delivery="at_most_once")
                plant.wait_progress(before + random.randint(3, 10))
            findings = plant.finish()
            print(dict(server.served))
        assert findings.problems == ""
        assert findings.repeated == 0
        assert findings.missing <= findings.unknown <= 5 * (len(self.FALLS) - 1)
        assert {each.split()[0] for each in server.served} == {"page", "long-poll", "sse"}


class TestASerialDevice:
    """One that answers late, never, twice, and says other things meanwhile; through the whole gateway."""

    def test_gets_each_command_once_and_its_receipts_say_what_it_answered(
        self, processes: Processes, tmp_path: Path, server: StreamServer
    ) -> None:
        reply = {"pattern": "^OK", "error": "^ERR", "timeout_seconds": 3}
        with PtyDevice(tmp_path / "scale") as scale:
            scale.plug()
            port = {
                "port": str(scale.path),
                "commands": {"write": "{payload}\r\n", "reply": reply, "expires_after": "10m"},
            }
            with CommandPlant(processes, tmp_path / "plant", server.base_url, serial={"scale": port}) as plant:
                plant.gateway.start()
                plant.gateway.wait_connected()
                scale.send(b"what comes first may be half of a line\r\n")

                def order(text: str) -> str:
                    (command,) = plant.send_all([("scale", {"payload": text})], delivery="at_most_once")
                    assert scale.receive_to(b"\r\n") == f"{text}\r\n".encode()
                    return command

                def over(command: str) -> dict[str, Any]:
                    wait_until(lambda: command in plant.statuses(), what=f"{command} is over")
                    return plant.told(command)[-1]

                noisy = order("noisy")
                scale.send(b"+0001 kg\r\n\xff\xfe~~\r\nOK zeroed\r\n+0002 kg\r\n")
                assert (over(noisy)["status"], over(noisy)["reply"].strip()) == ("acknowledged", "OK zeroed")

                never = order("never")
                assert over(never)["status"] == "unknown"

                late = order("late")
                assert over(late)["status"] == "unknown"
                scale.send(b"OK late\r\n")
                plant.gateway.wait_delivered(plant.gateway.wait_accepted(1)["streams"][0]["accepted"])

                twice = order("twice")
                scale.send(b"OK first\r\nOK again\r\n")
                assert over(twice)["reply"].strip() == "OK first"

                refused = order("refused")
                scale.send(b"ERR overload\r\n")
                assert (over(refused)["status"], over(refused)["reply"].strip()) == ("failed", "ERR overload")

                plant.gateway.kill()
                plant.gateway.start()
                plant.gateway.wait_connected()
                scale.send(b"what comes first may be half of a line\r\n")
                after = order("after")
                scale.send(b"OK\r\n")
                assert over(after)["status"] == "acknowledged"
                assert not scale.is_readable(), "something was written twice"
                assert plant.gateway.terminate() == 0
                findings = audit([], {}, plant.receipts.read())
                assert findings.positions == []
                assert Counter(plant.statuses().values()) == {"acknowledged": 3, "unknown": 2, "failed": 1}
                readings = telemetry(StreamReader(f"{server.base_url}/telemetry/{GATEWAY}").read())
        assert [each["value"] for each in readings] == ["+0001 kg", "//5+fg0=", "+0002 kg", "OK late", "OK again"]


@pytest.mark.soak
class TestTheReferenceServer:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_as_the_server_of_commands_and_receipts(
        self, processes: Processes, tmp_path: Path, delivery: Delivery
    ) -> None:
        server = ReferenceServer(processes)
        server.start()
        random = Random(SystemRandom().randrange(10**9))
        with CommandPlant(processes, tmp_path / "plant", server.base_url) as plant:
            plant.gateway.start()
            for _ in range(2):
                before = plant.progress
                for _ in range(3):
                    plant.send(random.choices(DEVICES, k=4), delivery=delivery)
                plant.wait_progress(before + random.randint(1, 12))
                plant.gateway.kill()
                plant.gateway.start()
            findings = plant.finish()
        judge(findings, delivery)


class Published:
    """The commands that one gateway published, as seen between it and its broker."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def note(self, packet: bytes) -> Cut:
        self.ids |= {each.decode() for each in re.findall(rb'"id":"(c\d+)"', packet)}
        return "pass"


def judge_turns(
    sent: Sequence[str],
    times: Counter[str],
    receipts: Sequence[dict[str, Any]],
    published: tuple[Published, Published],
    delivery: Delivery,
) -> None:
    """Compare what two gateways published, how often each command was seen, and what both told."""
    endings = {each: [told for told in receipts if told["final"] and told["command"] == each] for each in sent}
    unknown = {each for each, told in endings.items() if {one["status"] for one in told} == {"unknown"}}
    print(
        f"{len(sent)} commands, by the first {len(published[0].ids)}, by the second {len(published[1].ids)}, by "
        f"both {len(published[0].ids & published[1].ids)}, seen twice {sum(n > 1 for n in times.values())}, not "
        f"seen {len(set(sent) - set(times))}, unknown {len(unknown)}"
    )
    assert not published[0].ids & published[1].ids, "both did it"
    assert published[0].ids, published[1].ids
    if delivery == "at_most_once":
        assert set(times.values()) == {1}
    assert set(sent) - set(times) <= unknown, "what was not done is reported"
    for each, told in endings.items():
        assert told, f"nothing was told of {each}"
        assert sum(not one.get("repeated", False) for one in told) <= 1, f"{each} ended twice: {told}"
        if {one["status"] for one in told} & {"published", "acknowledged"}:
            assert times[each], f"{each} was not done: {told}"
        if {one["status"] for one in told} & {"failed", "expired"}:
            assert not times[each], f"{each} was done: {told}"


class TestTwoGatewaysWithOneIdentity:
    """Two processes with one gateway id, killed and started again, each start a claim of the receipts stream.

    Whoever claimed last goes on; a command is executed by one of the two, whatever the other one had of it.
    """

    @pytest.mark.parametrize(("data", "delivery"), [("copied", "at_most_once"), ("own", "at_least_once")])
    def test_each_command_is_done_by_one_of_them(
        self, processes: Processes, tmp_path: Path, server: StreamServer, data: str, delivery: Delivery
    ) -> None:
        self.take_turns(processes, tmp_path / "plant", server, data, delivery, turns=2)

    @pytest.mark.soak
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("data", ["copied", "own"])
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_each_command_of_twenty_turns_is(
        self, processes: Processes, tmp_path: Path, server: StreamServer, data: str, delivery: Delivery
    ) -> None:
        self.take_turns(processes, tmp_path / "plant", server, data, delivery, turns=20)

    def take_turns(
        self,
        processes: Processes,
        folder: Path,
        server: StreamServer,
        data: str,
        delivery: Delivery,
        *,
        turns: int,
    ) -> None:
        seed = SystemRandom().randrange(10**9)
        random = Random(seed)
        published = Published(), Published()
        with ExitStack() as stack:
            plant = stack.enter_context(CommandPlant(processes, folder, server.base_url))
            urls = [stack.enter_context(MqttProxy(plant.mosquitto.port, each.note)).url for each in published]
            first = plant.another("first", url=urls[0])
            second = plant.another("second", {"start": "tail"}, url=urls[1], client_id="the-second")

            def send() -> None:
                # The slow one has some that are accepted and wait, whenever anything happens.
                plant.send([*random.choices(DEVICES, k=6), *[SLOW] * 10], delivery=delivery)

            def seen() -> set[str]:
                return {each for ids in plant.seen.values() for each in ids}

            first.start()
            send()
            wait_until(lambda: len(seen()) >= 5, what="some are done")
            if data == "copied":
                first.kill()
                # What is no file is not in an image: the control socket.
                shutil.copytree(first.data_dir, second.data_dir, ignore=shutil.ignore_patterns("*.sock"))
                first.start()
                first.wait_for(lambda status: status["downlink"]["state"] == "reading", what="it goes on")
            for turn in range(turns):
                loser, winner = (first, second) if turn % 2 == 0 else (second, first)
                send()
                before = len(seen())
                if turn:
                    winner.kill()
                winner.start()
                winner.wait_for(lambda status: status["downlink"]["state"] == "reading", what="it has taken over")
                send()
                wait_until(lambda before=before: len(seen()) > before, what="something is done")  # type: ignore[misc]
                held = loser.wait_for(lambda status: status["downlink"]["state"] == "held", what="one is held")
                assert "a higher epoch was claimed" in held["downlink"]["reason"]
            second.kill()
            first.kill()
            first.start()
            first.wait_for(
                lambda status: status["downlink"]["number"] == len(plant.sent) and not status["downlink"]["open"],
                what="every command has ended",
            )
            assert first.terminate() == 0
            times = Counter(each for ids in plant.seen.values() for each in ids)
            receipts = receipts_in(plant.receipts.read())
        print(f"{data}, {delivery}, seed {seed}, {turns} turns: ", end="")
        judge_turns([each.id for each in plant.sent], times, receipts, published, delivery)
