"""The five measurements. Whoever is compared is measured in the same rounds, one after the other."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from clients.messages import JSON, MESSAGE_BYTES, bodies, text
from clients.processes import TaskError, check_stored, delete, fill
from clients.raw_http import RawConnection
from clients.table import Kind, Row, Section, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clients.processes import Reference, Worker

MEMORY_STREAM_BYTES: Final = 30 * 1000 * 1000
_WARM_UP_SAMPLES: Final = 10
_PAUSE_SECONDS: Final = 0.003
"""Between a message's arrival and the next one: a long-poll must be waiting again."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    messages: int
    rounds: int
    samples: int
    appends: int


@dataclass(frozen=True)
class Measured:
    """Those who are measured. Without the published client there is a reason."""

    reference: Reference
    raw: Worker
    ours: Worker
    published: Worker | None
    reason: str = ""


@dataclass
class Case:
    """One row: who does which task."""

    row: Row
    worker: Worker | None
    task: str
    arguments: dict[str, Any] = field(default_factory=dict)


def write(who: Measured, plan: Plan) -> Section:
    """Through an idempotent producer, in milliseconds."""
    prebuilt, encoding = "raw socket, bodies made before", "raw socket, encodes with orjson"
    tight, yielding = Target(Kind.RATIO, 1.5), Target(Kind.RATIO, 3.0)
    cases = [
        Case(Row(prebuilt), who.raw, "write"),
        Case(Row(encoding, prebuilt), who.raw, "write_encoding"),
        Case(Row("ours, async, tight loop, text", prebuilt, tight), who.ours, "write"),
        Case(Row("ours, async, tight loop, values", encoding, tight), who.ours, "write_values"),
        Case(Row("ours, async, yields after every append", prebuilt, yielding), who.ours, "write_yielding"),
        Case(Row("ours, async, awaits every append", prebuilt, yielding), who.ours, "write_awaiting"),
        Case(Row("ours, sync, tight loop, text", prebuilt, tight), who.ours, "write_sync"),
        Case(Row("ours, sync, tight loop, values", encoding, tight), who.ours, "write_sync_values"),
        Case(Row("published, async, all appends at once, values", encoding), who.published, "write"),
        Case(Row("published, async, yields, values", encoding), who.published, "write_yielding"),
    ]

    def measure(case: Case, worker: Worker) -> float:
        url = who.reference.new_stream()
        try:
            result = worker.run(case.task, url=url, messages=plan.messages)
            check_stored(url, plan.messages)
        finally:
            delete(url)
        return float(result["seconds"]) * 1000

    _rounds(cases, plan.rounds, measure, who.reason)
    return _section(f"Write {plan.messages:,} messages of {MESSAGE_BYTES} bytes", "ms", cases)


def catch_up(who: Measured, plan: Plan) -> Section:
    """From the first message to the last, in milliseconds."""
    base = "http.client and json"
    target = Target(Kind.RATIO, 1.3)
    ways = (
        ("sync, read_json", "catch_up_read"),
        ("sync, iter_json", "catch_up_iterate"),
        ("async, read_json", "catch_up_read_async"),
        ("async, iter_json", "catch_up_iterate_async"),
    )
    cases = [
        Case(Row(base), who.raw, "catch_up"),
        Case(Row("http.client and orjson", base), who.raw, "catch_up_orjson"),
        *(Case(Row(f"ours, {name}", base, target), who.ours, task) for name, task in ways),
        *(Case(Row(f"published, {name}", base), who.published, task) for name, task in ways),
    ]
    url = who.reference.new_stream()
    fill(url, bodies([text(number).encode() for number in range(plan.messages)]))

    def measure(case: Case, worker: Worker) -> float:
        return float(worker.run(case.task, url=url, messages=plan.messages)["seconds"]) * 1000

    _rounds(cases, plan.rounds, measure, who.reason)
    delete(url)
    return _section(f"Catch up on {plan.messages:,} messages", "ms", cases)


def memory(who: Measured) -> Section:
    """What reading a long stream adds to the resident memory at its peak, in MiB; each in a process of its own."""
    base = "http.client and json, everything at once"
    target = Target(Kind.VALUE, 15.0)
    messages = MEMORY_STREAM_BYTES // (MESSAGE_BYTES + 1)
    small, large = who.reference.new_stream(), who.reference.new_stream()
    fill(small, [b"[1]"])
    fill(large, bodies([text(number).encode() for number in range(messages)]))
    small_url = {"small_url": small}
    cases = [
        Case(Row(base), who.raw, "memory"),
        Case(Row("ours, sync, iter_json", base, target), who.ours, "memory", small_url),
        Case(Row("ours, async, iter_json", base, target), who.ours, "memory_async", small_url),
        Case(Row("published, sync, iter_json", base), who.published, "memory", small_url),
        Case(Row("published, async, iter_json", base), who.published, "memory_async", small_url),
    ]

    def measure(case: Case, worker: Worker) -> float:
        worker.end()
        result = worker.run(case.task, url=large, messages=messages, **case.arguments)
        worker.end()
        return float(result["rise_mib"])

    _rounds(cases, 1, measure, who.reason)
    delete(small)
    delete(large)
    return _section(f"Memory to read {MEMORY_STREAM_BYTES / 1e6:.0f} MB of JSON", "MiB", cases)


def live(who: Measured, plan: Plan, mode: str) -> Section:
    """From just before the POST until the reader has the message, in milliseconds: the median of each round."""
    base = "raw socket"
    target = Target(Kind.DIFFERENCE, 0.3)
    reading = {"mode": mode}
    cases = [
        Case(Row(base), who.raw, "live_long_poll" if mode == "long-poll" else "live_sse"),
        Case(Row("ours, sync", base, target), who.ours, "live", reading),
        Case(Row("ours, async", base, target), who.ours, "live_async", reading),
        Case(Row("published, sync", base), who.published, "live", reading),
        Case(Row("published, async", base), who.published, "live_async", reading),
    ]

    def measure(case: Case, worker: Worker) -> float:
        url = who.reference.new_stream()
        samples = plan.samples + _WARM_UP_SAMPLES
        worker.begin(case.task, url=url, samples=samples, **case.arguments)
        try:
            latencies = _write_and_wait(url, worker, samples)
            worker.result()
        finally:
            delete(url)
        return median(latencies[_WARM_UP_SAMPLES:]) / 1e6

    _rounds(cases, plan.rounds, measure, who.reason)
    return _section(f"Live latency by {mode}, p50", "ms", cases)


def _write_and_wait(url: str, worker: Worker, samples: int) -> list[float]:
    latencies = []
    with RawConnection(url) as connection:
        for _ in range(samples):
            body = json.dumps({"sent": time.monotonic_ns()}).encode()
            connection.exchange("POST", headers={"content-type": JSON}, body=body)
            latencies.append(float(worker.line()["latency_ns"]))
            time.sleep(_PAUSE_SECONDS)
    return latencies


def small_appends(who: Measured, plan: Plan) -> Section:
    """Processor time of one small append, in microseconds."""
    base = "raw socket"
    cases = [
        Case(Row(base), who.raw, "append_socket"),
        Case(Row("http.client", base), who.raw, "append_http_client"),
        Case(Row("httpx, sync", base), who.raw, "append_httpx"),
        Case(Row("httpx, async", base), who.raw, "append_httpx_async"),
        Case(Row("ours, sync", base), who.ours, "append"),
        Case(Row("ours, async", base), who.ours, "append_async"),
        Case(Row("published, sync", base), who.published, "append"),
        Case(Row("published, async", base), who.published, "append_async"),
    ]

    def measure(case: Case, worker: Worker) -> float:
        url = who.reference.new_stream()
        try:
            result = worker.run(case.task, url=url, messages=plan.appends)
            check_stored(url, plan.appends)
        finally:
            delete(url)
        return float(result["cpu_seconds"]) / plan.appends * 1e6

    _rounds(cases, plan.rounds, measure, who.reason)
    return _section("Processor time of a small append", "us", cases)


def _rounds(cases: Sequence[Case], rounds: int, measure: Callable[[Case, Worker], float], reason: str) -> None:
    for number in range(rounds):
        # Back and forth, so that nobody always comes after the same one.
        for case in cases if number % 2 == 0 else reversed(cases):
            if case.worker is None:
                case.row.failure = f"not installed: {reason}"
            if case.worker is None or case.row.failure is not None:
                continue
            try:
                case.row.values.append(measure(case, case.worker))
            except TaskError as error:
                case.row.failure = str(error)
                case.worker.end()


def _section(title: str, unit: str, cases: Sequence[Case]) -> Section:
    return Section(title, unit, [case.row for case in cases])
