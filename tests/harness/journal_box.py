"""A journal with its writer thread over one directory, and an audit of what came out, position by position."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import orjson

from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.journal.requests import Change, Demand
from ds_gateway.records import Item, Record, control_info
from ds_gateway.timekeeping import UNWATCHED
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.snapshot import StreamSnapshot
    from ds_gateway.records import Loss, Rejected
    from ds_gateway.timekeeping import WallClock
    from durable_streams import SealedBatch

PATIENCE_SECONDS = 10.0


class FakeBootClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.boot = "boot-1"
        self.now = 50.0

    def seconds(self) -> float:
        return self.now

    def reboot(self) -> None:
        self.boot = f"boot-{int(self.boot[5:]) + 1}"
        self.now = 1.0


class JournalBox:
    """One journal, opened as often as a test likes; ``sent`` is what its streams have got."""

    def __init__(self, directory: Path, **limits: Any) -> None:
        self.directory = directory
        self.limits = {
            "min_free_bytes": 0,
            "retain_bytes": 1500,
            "batch_max_bytes": 400,
            "max_delay_seconds": 0,
            "commit_interval_seconds": 0,
        } | limits
        self.clock = FakeBootClock()
        self.wall_clock: WallClock = UNWATCHED
        self.sent: dict[str, list[dict[str, Any]]] = {}
        self.points: Callable[[str, frozenset[str]], None] = lambda _when, _parts: None

    def open(self, **limits: Any) -> Journal:
        self.committed = 0
        self.limits |= limits
        self.journal = Journal.open(
            self.directory,
            gateway="g",
            url="http://streams.test/v1",
            limits=JournalLimits(**self.limits),
            on_point=self.points,
            boot_clock=self.clock,
            wall_clock=self.wall_clock,
        )
        self.intake = self.journal.intake("source", max_items=100_000, on_committed=self._on_committed)
        self.journal.start()
        return self.journal

    def _on_committed(self, items: Sequence[Item], _commit: int) -> None:
        self.committed += len(items)

    def close(self) -> None:
        assert self.journal.stop()
        assert self.journal.failure is None, self.journal.failure

    def restart(self, **limits: Any) -> None:
        self.close()
        self.open(**limits)

    def offer(self, *payloads: Record | Rejected | Loss) -> None:
        assert self.intake.offer([Item(payload) for payload in payloads])

    def accept(self, *payloads: Record | Rejected | Loss) -> None:
        """Offer, and wait until the source is told."""
        before = self.committed
        self.offer(*payloads)
        wait_until(
            lambda: self.committed == before + len(payloads) or self.journal.failure,
            timeout_seconds=PATIENCE_SECONDS,
            what="the records are committed",
        )
        assert self.journal.failure is None, self.journal.failure

    def stream(self, name: str) -> StreamSnapshot:
        return next(each for each in self.journal.snapshot().streams if each.name == name)

    def number(self, name: str) -> int:
        return self.stream(name).number

    def change(self, name: str, apply: Callable[[Book, Plan], None]) -> None:
        """Let the writer do something to a stream in its next transaction."""
        done: Future[None] = Future()
        self.journal._writer.submit(Change(self.number(name), apply, done))
        done.result(PATIENCE_SECONDS)

    def demand(self, name: str, max_bytes: int = 400) -> SealedBatch:
        future: Future[SealedBatch] = Future()
        self.journal._writer.submit(Demand(self.number(name), max_bytes, future))
        return future.result(PATIENCE_SECONDS)

    def resolve(self, name: str, batch: SealedBatch) -> None:
        store = self.journal.store(self.number(name), birth={})
        asyncio.run(store.resolve(batch, f"{batch.seq:016d}"))
        self.sent.setdefault(name, []).extend(orjson.loads(batch.body))

    def send(self, name: str) -> None:
        """Seal, send and resolve one batch."""
        self.resolve(name, self.demand(name))

    def drain(self, name: str) -> list[dict[str, Any]]:
        """Send everything that the journal has of a stream; return all that it ever got."""
        while (stream := self.stream(name)).in_journal:
            if stream.in_journal > stream.in_flight or not self.sent.get(name):
                self.send(name)
            else:
                # Resolved and not committed, unless it was sealed before.
                wait_until(lambda: self.stream(name).in_flight == 0, what="the resolution is committed")
        return self.sent.get(name, [])


def reading(
    n: int, *, stream: str = "telemetry/a", device: str = "d", size: int = 20, about: bytes = b""
) -> Record:
    tail = b'"device":"%b","time":"2026-01-01T00:00:%02d.000000Z","data":{"n":%d,"x":"%s"}}'
    return Record(stream, device, tail % (device.encode(), n % 60, n, b"x" * size), about)


def position(message: Mapping[str, Any]) -> int:
    return int(message["id"].rpartition(".")[2])


def losses(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [control_info(message, "loss") for message in messages if message.get("kind") == "loss"]


def readings(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    return [message["data"]["n"] for message in messages if "data" in message and "kind" not in message]


def covered(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Every position that the messages stand for, in their order; a loss record for all that it names."""
    positions: list[int] = []
    for message in messages:
        info = control_info(message, "loss")
        if "first_position" in info:
            assert info["first_position"] == position(message), "a loss record takes the first position"
            assert info["count"] == info["last_position"] - info["first_position"] + 1
            positions += range(info["first_position"], info["last_position"] + 1)
        else:
            positions.append(position(message))
    return positions
