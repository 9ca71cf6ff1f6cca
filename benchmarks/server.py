"""How fast our stream server is, beside the protocol's reference server and a bare socket, in one run.

    python benchmarks/server.py [--rounds 3] [--seconds 1.5] [--json] [--only append,produce,read,large,events]

Five servers, each a process of its own: ours with its store in memory and with SQLite, the reference server (npm)
in memory and with files, and a bare socket server, which says what the load generator itself could do. They take
turns over several rounds; each figure is a median, each ratio the median of the rounds' ratios.

- append   appends of 100 bytes, one after the other on 1 and on 16 connections with a stream each
- produce  the same through an idempotent producer on 1 connection: half, and 99 of 100, took no longer
- read     a page of ten messages again and again, on 16 connections
- large    a stream of 20 MB from its beginning to its end
- events   200 readers of one stream's events: events delivered, and from an append to its last reader
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.processes import TaskError, Worker
from clients.table import Kind, Row, Section, Target
from servers.processes import BARE, OUR_FILES, OUR_MEMORY, THEIR_FILES, THEIR_MEMORY, Server, commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MEASUREMENTS = ("append", "produce", "read", "large", "events")
READERS = 200
MEGABYTES = 20


def rows() -> list[Row]:
    """A row for each server, beside the one that it is compared with."""
    return [
        Row(BARE),
        Row(THEIR_MEMORY, BARE),
        Row(OUR_MEMORY, THEIR_MEMORY, Target(Kind.RATIO, 1.5)),
        Row(THEIR_FILES, BARE),
        Row(OUR_FILES, THEIR_FILES, Target(Kind.RATIO, 1.0)),
    ]


def microseconds_each(result: Mapping[str, float]) -> float:
    return result["seconds"] / result["done"] * 1e6


def milliseconds(name: str) -> Callable[[Mapping[str, float]], float]:
    return lambda result: result[name] * 1e3


class Bench:
    """The servers, and the process that loads them."""

    def __init__(self, urls: Mapping[str, str], load: Worker, rounds: int) -> None:
        self._urls = urls
        self._load = load
        self._rounds = rounds

    def measure(
        self, task: str, sections: list[tuple[Section, Callable[[Mapping[str, float]], float]]], **arguments: Any
    ) -> list[Section]:
        """Run one task against each server in turn; each section takes its figure from the result."""
        for _ in range(self._rounds):
            for number, (name, url) in enumerate(self._urls.items()):
                try:
                    result = self._load.run(task, url=f"{url}/v1/stream/{uuid.uuid4()}", **arguments)
                except TaskError as error:
                    for section, _ in sections:
                        section.rows[number].failure = str(error)
                    continue
                assert all(section.rows[number].name == name for section, _ in sections)
                for section, figure in sections:
                    section.rows[number].values.append(figure(result))
        return [section for section, _ in sections]


def measurements(bench: Bench, seconds: float, chosen: list[str]) -> Iterator[Section]:
    if "append" in chosen:
        for connections in (1, 16):
            title = f"appends, {connections} connection{'s' if connections > 1 else ''}"
            section = Section(title, "us each", rows(), "appends")
            arguments = {"connections": connections, "seconds": seconds, "producers": False}
            yield from bench.measure("append", [(section, microseconds_each)], **arguments)
    if "produce" in chosen:
        yield from bench.measure(
            "append",
            [
                (Section("producer's append, half of them", "ms", rows()), milliseconds("p50")),
                (Section("producer's append, 99 of 100", "ms", rows()), milliseconds("p99")),
            ],
            connections=1,
            seconds=seconds,
            producers=True,
        )
    if "read" in chosen:
        section = Section("reads of a small page, 16 connections", "us each", rows(), "reads")
        yield from bench.measure("read_small", [(section, microseconds_each)], connections=16, seconds=seconds)
    if "large" in chosen:
        section = Section(f"reading {MEGABYTES} MB", "us a MB", rows(), "MB")
        yield from bench.measure("read_large", [(section, microseconds_each)], megabytes=MEGABYTES, times=3)
    if "events" in chosen:
        yield from bench.measure(
            "fan_out",
            [
                (Section(f"events to {READERS} readers", "us each", rows(), "events"), microseconds_each),
                (Section("append to last reader, half of them", "ms", rows()), milliseconds("p50")),
                (Section("append to last reader, 99 of 100", "ms", rows()), milliseconds("p99")),
            ],
            readers=READERS,
            seconds=seconds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object with every round's figures")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each measurement")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(MEASUREMENTS):
        parser.error(f"--only takes {', '.join(MEASUREMENTS)}, not {', '.join(sorted(unknown))}")
    about = f"{os.cpu_count()} processors, Python {platform.python_version()}, {arguments.rounds} rounds"
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-server-")))
        urls = {
            name: stack.enter_context(Server(argv, folder)).url for name, (argv, folder) in commands(data).items()
        }
        load = stack.enter_context(Worker("servers.load"))
        found = measurements(Bench(urls, load, arguments.rounds), arguments.seconds, chosen)
        if arguments.json:
            print(json.dumps({"about": about, "sections": [section.as_json() for section in found]}))
            return
        print(about)
        for section in found:
            print()
            print("\n".join(section.lines()), flush=True)


if __name__ == "__main__":
    main()
