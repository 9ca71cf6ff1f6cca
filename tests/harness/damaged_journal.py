"""Journals as they were before a damage, and what comes out of them afterwards.

A journal is made with real transactions, and copied as a kill would leave it (``crashed``) or as a clean end does.
What comes out is collected as a stream server would have it: a batch that is handed out twice is taken once.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from ds_gateway.errors import JournalDamagedError, JournalError, JournalUnreadableError
from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.journal.disk import FOLDER
from ds_gateway.journal.files import JournalFiles
from ds_gateway.journal.pages import Carver
from ds_gateway.journal.rows import decode_segment
from ds_gateway.records import Item, Record, Rejected
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

GATEWAY = "g"
URL = "http://streams.test/v1"
LEDGER = f"gateway/{GATEWAY}"
LIMITS = JournalLimits(min_free_bytes=0)
_MAX_STARTS = 4
_BATCH_BYTES = 1200


@dataclass
class Kept:
    """What is in a journal, by stream: the values of its records."""

    resolved: dict[str, list[str]] = field(default_factory=dict)
    sealed: dict[str, list[str]] = field(default_factory=dict)
    unresolved: dict[str, list[str]] = field(default_factory=dict)
    """Sealed ones included, in order."""


@dataclass
class Drained:
    """What came out of a journal."""

    values: dict[str, list[str]] = field(default_factory=dict)
    losses: list[dict[str, Any]] = field(default_factory=list)
    """The ``info`` of each loss record."""
    halted: set[str] = field(default_factory=set)
    """Streams that a damaged segment stopped."""
    handed_out: set[str] = field(default_factory=set)
    """Values that came out of a start that ended by itself: what became of them may not be written down."""
    starts: int = 0
    error: JournalError | None = None
    """Why it could not be opened in the end."""
    set_aside: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """Everything that the loss records say to people."""
        return "\n".join(loss.get("detail", "") for loss in self.losses)


class Filling:
    """An open journal that a test fills."""

    def __init__(self, directory: Path, url: str = URL) -> None:
        self._committed = 0
        self._given = 0
        self.journal = Journal.open(directory, gateway=GATEWAY, url=url, limits=LIMITS)
        self._intake = self.journal.intake("source", max_items=10_000, on_committed=self._count)
        self.journal.start()

    def _count(self, items: Sequence[Item], _commit: int) -> None:
        self._committed += len(items)

    def accept(self, *payloads: Record | Rejected) -> None:
        """Commit this."""
        self._intake.offer([Item(payload) for payload in payloads])
        self._given += len(payloads)
        wait_until(lambda: self._committed == self._given, what="the records are committed")

    def stream_number(self, name: str) -> int:
        """Number of a stream in the journal."""
        return next(number for number, each, _ in self.journal.streams() if each == name)

    def seal(self, name: str) -> list[str]:
        """Seal a batch; return its values."""
        store = self.journal.store(self.stream_number(name), birth={})
        return [_value(each) for each in orjson.loads(asyncio.run(store.next_batch(_BATCH_BYTES)).body)]

    def resolve(self, name: str) -> list[str]:
        """Seal a batch and resolve it; return its values."""

        async def next_and_resolve() -> bytes:
            store = self.journal.store(self.stream_number(name), birth={})
            batch = await store.next_batch(_BATCH_BYTES)
            await store.resolve(batch, f"{batch.seq:016d}")
            return batch.body

        return [_value(each) for each in orjson.loads(asyncio.run(next_and_resolve()))]


def record(value: str, name: str, padding: int = 150) -> Record:
    """A record of one stream."""
    return Record(name, "d", orjson.dumps({"data": {"value": value, "padding": "x" * padding}})[1:])


def _value(message: dict[str, Any]) -> str:
    return str(message["data"]["value"])


def make_journal(
    directory: Path,
    *,
    crashed: bool,
    each: int = 12,
    padding: int = 150,
    url: str = URL,
    server_knows: bool = True,
) -> Kept:
    """Fill a journal in two runs, so that the database and its log both hold a part of it.

    Some of each stream is resolved, one batch is sealed, the rest is open; something is in the quarantine. Without
    ``server_knows`` all is open, as if there never was a way to the server.
    """
    streams = ("a", "b")
    work = directory.with_name(f"{directory.name}.work")
    kept = Kept()
    for run in range(2):
        filling = Filling(work, url)
        for number in range(each):
            for name in streams:
                value = f"{name}{run * each + number}"
                filling.accept(record(value, name, padding))
                kept.unresolved.setdefault(name, []).append(value)
        for name in streams if server_knows else ():
            kept.resolved.setdefault(name, []).extend(filling.resolve(name))
        if run == 0:
            filling.accept(Rejected("source", "d", "not JSON", b"\xff{", 1))
        else:
            for name in streams if server_knows else ():
                kept.sealed[name] = filling.seal(name)
            if crashed:
                shutil.copytree(work, directory)
        assert filling.journal.stop()
    if not crashed:
        shutil.copytree(work, directory)
    for name in streams:
        done = set(kept.resolved.setdefault(name, []))
        kept.unresolved[name] = [value for value in kept.unresolved[name] if value not in done]
    return kept


def drain(directory: Path) -> Drained:
    """Start a journal, as often as it ends by itself, until everything that it has was handed out."""
    drained = Drained()
    seen: set[str] = set()
    while drained.starts < _MAX_STARTS:
        drained.starts += 1
        try:
            journal = Journal.open(directory, gateway=GATEWAY, url=URL, limits=LIMITS)
        except JournalError as error:
            drained.error = error
            return drained
        journal.start()
        try:
            for number, name, _ in journal.streams():
                if name not in drained.halted and not _drain_stream(journal, number, name, drained, seen):
                    break
            else:
                drained.set_aside = journal.snapshot().set_aside
                return drained
        finally:
            journal.stop()
        assert isinstance(journal.failure, JournalUnreadableError), repr(journal.failure)
        drained.handed_out.update(*drained.values.values())
    raise AssertionError(f"the journal in {directory} ended {_MAX_STARTS} times")


def _drain_stream(journal: Journal, number: int, name: str, drained: Drained, seen: set[str]) -> bool:
    """Take all batches of a stream; False when the journal has ended over it."""
    store = journal.store(number, birth={})

    async def take_all() -> None:
        pending = store.pending_count
        while pending > 0:
            batch = await asyncio.wait_for(store.next_batch(_BATCH_BYTES), 20)
            pending -= batch.count
            await store.resolve(batch, f"{batch.seq:016d}")
            for message in orjson.loads(batch.body):
                if message["id"] in seen:
                    continue
                seen.add(message["id"])
                if message.get("kind") == "loss":
                    info = message["info"]
                    drained.losses.append(info)
                    # A damaged segment that was not sealed yet: one record stands for all of it from now on.
                    pending -= info.get("last_position", 0) - info.get("first_position", 0)
                else:
                    drained.values.setdefault(name, []).append(_value(message))

    try:
        asyncio.run(take_all())
    except JournalDamagedError:
        drained.halted.add(name)
    except JournalError:
        wait_until(lambda: not journal.running, what="the journal has ended")
        return False
    return True


def judge(kept: Kept, drained: Drained, *, may_lose: Collection[str] = ()) -> None:
    """Everything that is not in ``may_lose`` arrived once and in order, or what is wrong with that was told."""
    assert drained.error is None, drained.error
    for name, unresolved in kept.unresolved.items():
        # By value: a stream whose name nothing tells any more has another one.
        arrived = [value for values in drained.values.values() for value in values if value[0] == name]
        once = list(dict.fromkeys(arrived))
        twice = {value for value in once if arrived.count(value) > 1}
        assert twice <= drained.handed_out, f"{name}: twice in {arrived}"
        assert once == sorted(once, key=lambda value: int(value[1:])), f"{name}: out of order: {arrived}"
        again = twice | set(arrived) & set(kept.resolved[name])
        assert not again or "possible duplicates" in drained.told, f"{name}: {again} again, and nobody is told"
        assert set(arrived) <= {*unresolved, *kept.resolved[name]}
        if name in drained.halted:
            continue  # this stream waits for an operator, and says so; nothing of it is lost
        lost = set(unresolved) - set(arrived)
        assert lost <= set(may_lose), f"{name}: {lost - set(may_lose)} was readable"
        assert not lost or drained.losses, f"{name}: {lost} is lost, and nobody is told"


def values_by_page(directory: Path) -> dict[int, set[str]]:
    """Which values an intact journal has in which page of its database."""
    found: dict[int, set[str]] = {}
    with JournalFiles(directory / FOLDER) as files:
        for row in Carver(files).rows():
            if row.key.startswith("s/"):
                elements = decode_segment(row.key, row.value).elements()
                found.setdefault(row.place.page, set()).update(_value(orjson.loads(each)) for each in elements)
    return found
