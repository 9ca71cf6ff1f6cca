"""The network between the gateway and its stream server fails in every way we know of.

Each fault has a stream of its own in one plant, and all of them fail at the same time. A fault hits the first
request of each kind: the look for the stream, its creation, the claim, a batch; then, while an answer is lost, the
look and the read that find out what became of the batch.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final

import pytest

from faults.plant import END, GATEWAY, Device, Plant, numbered_and_steady
from harness.audit import Findings, StreamReader, check_positions, compare
from harness.gateway_process import stream_of
from harness.processes import Processes
from harness.stream_server import StreamServer
from harness.tcp_proxy import Answered, Cut, Deaf, Delayed, Repeated, TcpProxy, Truncated
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from harness.tcp_proxy import Fault, Head, Plan

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
    "truncated-to-nothing": Truncated(0),
    "truncated": Truncated(40),
    "delivered-then-302": Answered(302, {"location": "http://portal.test/"}, delivered=True),
    "delivered-then-413": Answered(413, HTML, PAGE, delivered=True),
    "delivered-then-502": Answered(502, HTML, PAGE, delivered=True),
    "delivered-then-504": Answered(504, HTML, PAGE, delivered=True),
}
FAULTS: Final[Mapping[str, Fault]] = {**PORTALS, **PROXIES, **BROKEN}
SENSORS: Final = (("1", False), ("2", True))
HANDED_TO_MIXES: Final = (*PORTALS.values(), *PROXIES.values(), *BROKEN.values())


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


def settled(stream: Mapping[str, Any]) -> bool:
    """Everything accepted is in the stream, or the stream has stopped."""
    return stream.get("state") in {"halted", "parked"} or (bool(stream) and not stream["in_journal"])


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("network")
    with ExitStack() as stack:
        line = Line(stack.enter_context(Processes(folder)), folder)
        stack.enter_context(line.proxy)
        stack.enter_context(line.plant)
        line.plant.establish_session()
        yield line


@pytest.fixture
def quiet_line(line: Line) -> Iterator[Line]:
    """No connection of a test outlives it."""
    yield line
    line.proxy.heal()


@pytest.fixture(scope="module")
def outcomes(line: Line) -> Mapping[str, Outcome]:
    """All faults at once, each on its own stream."""
    halls = list(FAULTS)
    plans: dict[str, dict[str, Plan]] = {hall: {} for hall in halls}
    for hall, fault in FAULTS.items():
        for kind in ("HEAD", "PUT", "claim", "batch"):
            plans[hall][kind] = line.proxy.inject(fault, where=of(hall, kind))
    line.publish(halls, *range(1, 6))
    line.wait_streams(halls, settled, "everything is in its stream")
    for hall, fault in FAULTS.items():
        line.proxy.inject(Cut("answer"), where=of(hall, "batch"))
        for kind in ("HEAD", "GET"):
            plans[hall][f"{kind} after a lost answer"] = line.proxy.inject(fault, where=of(hall, kind))
    line.publish(halls, *range(6, 11))
    line.wait_streams(halls, settled, "everything is in its stream again")
    line.publish_end(halls)
    line.wait_streams(halls, settled, "the last messages are in their streams")
    line.proxy.reset_connections()
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
