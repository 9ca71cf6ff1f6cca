"""How fast the client of `durable_streams` is, beside the limit and the published client, in one run.

    python benchmarks/client.py [--quick] [--json] [--only write,catch-up,memory,live,append]

All talk to the reference server (npm) of this machine, each from a process of its own: a bare socket,
`http.client` and httpx doing the same requests; our client, sync and async; and the package `durable-streams` that
was published under the same import name, in an environment of its own. They take turns over several rounds. Each
figure is a median, each ratio the median of the rounds' ratios. Times of different machines are not comparable;
ratios of one run are.

- write     messages of 100 bytes through the idempotent producer, until all are confirmed
- catch-up  reading them all
- memory    the peak above the start, reading 30 MB of JSON message by message
- live      from just before a POST until the reader has the message, by long-poll and by server-sent events
- append    processor time of one small append
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from clients import measurements
from clients.environment import PUBLISHED, NotInstallableError, published_python
from clients.measurements import Measured, Plan
from clients.processes import Reference, TaskError, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.table import Section

FULL = Plan(messages=100_000, rounds=5, samples=100, appends=1000)
QUICK = Plan(messages=20_000, rounds=1, samples=30, appends=200)
MEASUREMENTS = ("write", "catch-up", "memory", "live", "append")


def sections(who: Measured, plan: Plan, chosen: list[str]) -> Iterator[Section]:
    """The measurements, one after the other."""
    if "write" in chosen:
        yield measurements.write(who, plan)
    if "catch-up" in chosen:
        yield measurements.catch_up(who, plan)
    if "memory" in chosen:
        yield measurements.memory(who)
    if "live" in chosen:
        yield measurements.live(who, plan, "long-poll")
        yield measurements.live(who, plan, "sse")
    if "append" in chosen:
        yield measurements.small_appends(who, plan)


def enter_all(stack: ExitStack) -> Measured:
    """Start the server, and make ready those who are measured."""
    published, reason = None, ""
    try:
        published = stack.enter_context(Worker("clients.published", published_python()))
    except NotInstallableError as error:
        reason = str(error)
        print(f"{PUBLISHED} cannot be installed, and is left out: {reason}", file=sys.stderr)
    return Measured(
        stack.enter_context(Reference()),
        stack.enter_context(Worker("clients.raw")),
        stack.enter_context(Worker("clients.ours")),
        published,
        reason,
    )


def what_ran(who: Measured) -> str:
    """One line about what was measured, on what."""
    parts = [f"{os.cpu_count()} processors", f"Python {platform.python_version()}"]
    for name, worker in (("ours", who.ours), (PUBLISHED, who.published)):
        if worker is not None:
            try:
                parts.append(f"{name} with httpx {worker.run('versions')['httpx']}")
            except TaskError as error:
                parts.append(f"{name}: {error}")
    return ", ".join(parts)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round: to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object with every round's figures")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--rounds", type=positive, help="rounds of each measurement")
    parser.add_argument("--messages", type=positive, help="messages to write and to catch up on")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(MEASUREMENTS):
        parser.error(f"--only takes {', '.join(MEASUREMENTS)}, not {', '.join(sorted(unknown))}")
    plan = QUICK if arguments.quick else FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds, messages=arguments.messages or plan.messages)
    with ExitStack() as stack:
        who = enter_all(stack)
        about = what_ran(who)
        if arguments.json:
            found = [section.as_json() for section in sections(who, plan, chosen)]
            print(json.dumps({"about": about, "rounds": plan.rounds, "sections": found}))
            return
        print(f"{about}, {plan.rounds} rounds")
        for section in sections(who, plan, chosen):
            print()
            print("\n".join(section.lines()), flush=True)


if __name__ == "__main__":
    main()
