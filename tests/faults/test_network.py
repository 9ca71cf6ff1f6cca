"""The network between the gateway and its stream server fails in every way we know of.

Each fault has a stream of its own in one plant, and all of them fail at the same time. A fault hits the first
request of each kind: the look for the stream, its creation, the claim, a batch; then, while an answer is lost, the
look and the read that find out what became of the batch.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final

import pytest

from faults.plant import END, GATEWAY, Device, Plant
from faults.test_retarget import resolve
from harness.audit import Findings, StreamReader, check_positions, compare
from harness.gateway_process import total
from harness.processes import Processes
from harness.stream_server import StreamServer
from harness.tcp_proxy import Answered, Cut, Deaf, Delayed, Repeated, TcpProxy, Truncated
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from harness.tcp_proxy import Fault, Head, Plan
    from harness.zygote import Zygote

HTML: Final = {"content-type": "text/html; charset=utf-8"}
PAGE: Final = b"<html><body><h1>Welcome to Guest WiFi</h1></body></html>"
PORTALS: Final[Mapping[str, Answered]] = {
    "portal-302": Answered(302, {"location": "http://portal.test/login"}),
    "portal-307": Answered(307, {"location": "http://portal.test/login", **HTML}, PAGE),
    "portal-200": Answered(200, HTML, PAGE),
    "portal-204": Answered(204),
    "portal-511": Answered(511, HTML, PAGE),
}
"""A captive portal answers everything itself."""
PROXIES: Final[Mapping[str, Answered]] = {
    "proxy-400": Answered(400, HTML, PAGE),
    "proxy-401": Answered(401, {"www-authenticate": "Basic", **HTML}, PAGE),
    "proxy-403": Answered(403, HTML, PAGE),
    "proxy-404": Answered(404, HTML, PAGE),
    "proxy-404-json": Answered(404, {"content-type": "application/json"}, b'{"error": "no route"}'),
    "proxy-405": Answered(405, HTML, PAGE),
    "proxy-407": Answered(407, HTML, PAGE),
    "proxy-409": Answered(409, HTML, PAGE),
    "proxy-410": Answered(410, HTML, PAGE),
    "proxy-413": Answered(413, HTML, PAGE),
    "proxy-429": Answered(429, {"retry-after": "0", **HTML}, PAGE),
    "proxy-502": Answered(502, HTML, PAGE),
    "proxy-503": Answered(503, HTML, PAGE),
    "proxy-503-retry-after": Answered(503, {"retry-after": "0", **HTML}, PAGE),
    "proxy-504": Answered(504, HTML, PAGE),
}
"""A proxy answers without asking the server."""
BROKEN: Final[Mapping[str, Fault]] = {
    "reset-before-the-request": Cut("request"),
    "reset-in-the-head": Cut("request", 60),
    "reset-in-the-body": Cut("request", 450),
    "end-in-the-body": Cut("request", 450, reset=False),
    "reset-before-the-answer": Cut("answer"),
    "end-before-the-answer": Cut("answer", reset=False),
    "end-in-the-status": Cut("answer", 7, reset=False),
    "reset-in-the-answer": Cut("answer", 100),
    "end-in-the-answer": Cut("answer", 250, reset=False),
    "delayed": Delayed(0.3),
    "swallowed": Deaf(delivered=False, seconds=0.3),
    "answer-swallowed": Deaf(delivered=True, seconds=0.3),
    "repeated-after": Repeated("after"),
    "repeated-late": Repeated("late"),
    "truncated-to-nothing": Truncated(0),
    "truncated": Truncated(40),
}
DELIVERED: Final = {
    f"delivered-{name}": replace(answer, delivered=True) for name, answer in {**PORTALS, **PROXIES}.items()
}
"""The server has got the request, and somebody else answers."""
FAULTS: Final[Mapping[str, Fault]] = {**PORTALS, **PROXIES, **BROKEN, **DELIVERED}
KINDS: Final = ("HEAD", "GET", "PUT", "claim", "probe", "batch")
SENSORS: Final = (("1", False), ("2", True))


@dataclass(frozen=True)
class Outcome:
    """What became of one stream."""

    stream: Mapping[str, Any]
    findings: Findings
    plans: Mapping[str, Plan]


class Line:
    """A plant behind a proxy; each hall is a stream."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.server = StreamServer(processes, folder / "streams")
        self.server.start()
        self.proxy = TcpProxy(self.server.base_url)
        self.plant = Plant(
            processes,
            folder,
            self.proxy,
            [],
            # All streams at once, also those whose requests are swallowed.
            more_settings={"batch": {"max_delay_seconds": 0.005, "parallel": 64}},
        )

    def publish(self, halls: Sequence[str], *numbers: int) -> None:
        self.plant.publisher.publish(
            [
                (device.topic, device.payload(number))
                for number in numbers
                for hall in halls
                for device in devices(hall)
            ]
        )

    def publish_end(self, halls: Sequence[str]) -> None:
        messages = [(device.topic, json.dumps(END).encode()) for hall in halls for device in devices(hall)]
        self.plant.publisher.publish(messages)

    def streams(self) -> dict[str, dict[str, Any]]:
        """What the gateway says of each hall's stream."""
        status = self.plant.gateway.status() or {"streams": []}
        return {stream["name"].rpartition("/")[2]: stream for stream in status["streams"]}

    def wait_streams(self, halls: Sequence[str], holds: Callable[[Mapping[str, Any]], object], what: str) -> None:
        """Wait until the streams of all these halls are such."""

        def reached() -> bool:
            streams = self.streams()
            missing[:] = [f"{hall}: {streams.get(hall)}" for hall in halls if not holds(streams.get(hall, {}))]
            return not missing

        missing: list[str] = []
        try:
            wait_until(reached, timeout_seconds=60, what=what)
        except AssertionError as error:
            error.add_note("\n".join(missing))
            raise

    def audit(self, hall: str) -> Findings:
        sent: dict[str, list[Any]] = {device.name: [] for device in devices(hall)}
        names = {device.topic: device.name for device in devices(hall)}
        for topic, payload in self.plant.publisher.confirmed:
            if topic in names:
                sent[names[topic]].append(json.loads(payload))
        records = StreamReader(f"{self.server.base_url}/telemetry/{GATEWAY}/{hall}").read()
        findings = compare(sent, records)
        check_positions(records, findings)
        return findings


def devices(hall: str) -> list[Device]:
    return [Device(hall, sensor, steady) for sensor, steady in SENSORS]


def of(hall: str, *kinds: str) -> Callable[[Head], bool]:
    """Requests of one stream and these kinds."""
    return lambda head: head.kind in kinds and head.target.partition("?")[0].endswith(f"/{hall}")


def settled(accepted: int) -> Callable[[Mapping[str, Any]], bool]:
    """So many records were accepted, and all of them are in the stream, or the stream has stopped."""

    def is_settled(stream: Mapping[str, Any]) -> bool:
        if not stream or stream["accepted"] < accepted:
            return False
        return stream["state"] in {"halted", "parked"} or not stream["in_journal"]

    return is_settled


@contextmanager
def running_line(folder: Path, zygote: Zygote) -> Iterator[Line]:
    with Processes(folder, zygote) as processes:
        line = Line(processes, folder)
        with line.proxy, line.plant:
            line.plant.establish_session()
            yield line


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Mapping[str, Outcome]:
    """All faults at once, each on its own stream."""
    with running_line(tmp_path_factory.mktemp("network"), zygote) as line:
        return all_faults(line)


def all_faults(line: Line) -> Mapping[str, Outcome]:
    halls = list(FAULTS)
    plans: dict[str, dict[str, Plan]] = {hall: {} for hall in halls}
    for hall, fault in FAULTS.items():
        for kind in ("HEAD", "PUT", "claim", "batch"):
            plans[hall][kind] = line.proxy.inject(fault, where=of(hall, kind))
    line.publish(halls, *range(1, 6))
    line.wait_streams(halls, settled(10), "everything is in its stream")
    for hall, fault in FAULTS.items():
        line.proxy.inject(Cut("answer"), where=of(hall, "batch"))
        for kind in ("HEAD", "GET"):
            plans[hall][f"{kind} after a lost answer"] = line.proxy.inject(fault, where=of(hall, kind))
    line.publish(halls, *range(6, 11))
    line.wait_streams(halls, settled(20), "everything is in its stream again")
    line.publish_end(halls)
    line.wait_streams(halls, settled(22), "the last messages are in their streams")
    line.proxy.deliver_late()
    streams = line.streams()
    return {hall: Outcome(streams[hall], line.audit(hall), plans[hall]) for hall in halls}


@pytest.mark.parametrize("fault", FAULTS)
class TestOneFaultAtEveryRequest:
    def test_the_stream_does_not_stop(self, outcomes: Mapping[str, Outcome], fault: str) -> None:
        stream = outcomes[fault].stream
        assert (stream["state"], stream["reason"]) == ("idle", "")

    def test_nothing_is_lost_or_repeated(self, outcomes: Mapping[str, Outcome], fault: str) -> None:
        outcome = outcomes[fault]
        assert {kind: plan.used for kind, plan in outcome.plans.items()} == dict.fromkeys(outcome.plans, 1)
        assert outcome.findings.sent == 22
        assert outcome.findings.problems == ""


@pytest.mark.soak
class TestAPortalOrAProxyAnswersEverything:
    def test_nothing_changes_but_the_back_off_and_everything_arrives_afterwards(
        self, tmp_path: Path, zygote: Zygote
    ) -> None:
        answers = {**PORTALS, **PROXIES}
        halls = list(answers)
        with running_line(tmp_path, zygote) as line:
            line.publish(halls, 1, 2)
            line.wait_streams(halls, settled(4), "everything is in its stream")
            before = line.streams()
            plans = [
                line.proxy.inject(answer, where=of(hall, *KINDS), times=None) for hall, answer in answers.items()
            ]
            line.publish(halls, 3, 4)
            wait_until(
                lambda: all(plan.used >= 2 for plan in plans),
                timeout_seconds=60,
                what="every stream has tried again",
            )
            line.wait_streams(halls, lambda stream: stream["state"] == "waiting", "all streams wait")
            after = line.streams()
            line.plant.gateway.kill()
            tried = [plan.used for plan in plans]
            line.plant.gateway.start()
            wait_until(
                lambda: all(plan.used >= 2 + used for plan, used in zip(plans, tried, strict=True)),
                timeout_seconds=60,
                what="every stream has tried again after a restart",
            )
            line.wait_streams(halls, lambda stream: stream.get("state") == "waiting", "all streams wait again")
            restarted = line.streams()
            for streams in (after, restarted):
                assert {hall: stream["in_stream"] for hall, stream in streams.items()} == dict.fromkeys(halls, 4)
                assert {hall: stream["accepted"] for hall, stream in streams.items()} == dict.fromkeys(halls, 8)
                assert {hall: stream["epoch"] for hall, stream in streams.items()} == {
                    hall: stream["epoch"] for hall, stream in before.items()
                }
            line.proxy.heal()
            line.publish_end(halls)
            line.wait_streams(halls, settled(10), "everything is in its stream again")
            assert not line.plant.gateway.events("uplink.stream.halted")
            assert {hall: line.audit(hall).problems for hall in halls} == dict.fromkeys(halls, "")


@pytest.mark.soak
class TestASecondDelivery:
    def test_the_answer_to_a_copy_that_came_first_stops_the_stream_and_repeats_nothing(
        self, tmp_path: Path, zygote: Zygote
    ) -> None:
        # 204 to a number that was never attempted: by that alone it could be a clone's batch.
        with running_line(tmp_path, zygote) as line:
            line.publish(["a"], 1)
            line.wait_streams(["a"], settled(2), "everything is in its stream")
            plan = line.proxy.inject(Repeated("before"), where=of("a", "batch"))
            line.publish(["a"], 2)
            line.wait_streams(["a"], lambda stream: stream["state"] == "halted", "the stream halts")
            assert plan.used == 1
            assert "the number was used, and not by us" in line.streams()["a"]["reason"]
            # Whatever shared no batch with the first of them waits in the journal.
            done = resolve(line.plant.gateway, f"telemetry/{GATEWAY}/a", "--claim")
            assert done.returncode == 0, done.stdout + done.stderr
            line.wait_streams(["a"], settled(4), "everything is in its stream")
            assert line.audit("a").problems == ""


def run_mix(
    folder: Path, zygote: Zygote, *, rounds: int, kills: int, faults: Sequence[Fault]
) -> Mapping[str, str]:
    """Publish and fail in rounds; return what is wrong with each stream, and that nothing is. Seeded."""
    random = Random(seed := SystemRandom().randrange(10**9))
    print(f"seed {seed}")
    halls = [f"mix-{number}" for number in range(10)]
    kill_before = set(random.sample(range(1, rounds), kills))
    with running_line(folder, zygote) as line:
        mix = line.proxy.mix(faults, Random(seed), share=0.3)
        for number in range(rounds):
            if number in kill_before:
                line.plant.gateway.kill()
                line.plant.gateway.start()
            published = random.sample(halls, random.randint(1, len(halls)))
            line.publish(published, number)
            enough = mix.used + random.randint(1, 10)
            line.plant.gateway.wait_for(
                lambda status, enough=enough: mix.used >= enough or not total(status, "in_journal"),  # type: ignore[misc]
                what="requests have failed, or everything is in its stream",
                timeout_seconds=120,
            )
        line.proxy.heal()
        line.publish_end(halls)
        sent = Counter(topic.split("/")[1] for topic, _ in line.plant.publisher.confirmed)
        for hall in halls:
            line.wait_streams([hall], settled(sent[hall]), "everything is in its stream")
        line.proxy.deliver_late()
        print(f"{mix.used} faults, {kills} kills, {sum(sent.values())} messages")
        assert mix.used > rounds
        return {hall: line.audit(hall).problems for hall in halls}


@pytest.mark.soak
class TestAllFaultsMixed:
    def test_nothing_is_lost_or_repeated(self, tmp_path: Path, zygote: Zygote) -> None:
        problems = run_mix(tmp_path, zygote, rounds=8, kills=1, faults=list(FAULTS.values()))
        assert problems == dict.fromkeys(problems, "")

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    def test_nothing_is_lost_or_repeated_in_the_long_run(self, tmp_path: Path, zygote: Zygote) -> None:
        faults = [*FAULTS.values(), Deaf(delivered=False), Deaf(delivered=True)]
        problems = run_mix(tmp_path, zygote, rounds=150, kills=30, faults=faults)
        assert problems == dict.fromkeys(problems, "")


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("delivered", [False, True], ids=["swallowed", "answer swallowed"])
def test_a_server_that_never_answers_is_given_up_and_asked_again(
    tmp_path: Path, zygote: Zygote, *, delivered: bool
) -> None:
    with running_line(tmp_path, zygote) as line:
        line.publish(["a"], 1)
        line.wait_streams(["a"], settled(2), "everything is in its stream")
        plan = line.proxy.inject(Deaf(delivered=delivered), where=of("a", "batch"))
        line.publish(["a"], 2)
        line.wait_streams(["a"], settled(4), "everything is in its stream after the time-out")
        assert plan.used == 1
        assert line.audit("a").problems == ""
