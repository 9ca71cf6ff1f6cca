"""The journal against a plain list: any order of offers, demands, resolutions, restarts and crashes.

A crash is played by a copy of the journal's directory, taken between two commits and opened instead of the
original. What the copy holds was committed then; all that was told since is forgotten with the crashed process.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.journal.disk import Disk
from ds_gateway.journal.requests import Demand
from ds_gateway.journal.rows import ROW_OVERHEAD_BYTES
from ds_gateway.records import Item, Record
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_streams import SealedBatch

STREAMS: Final = ("telemetry/a", "telemetry/b", "telemetry/c")
LIMITS: Final = JournalLimits(
    min_free_bytes=0, retain_bytes=1500, batch_max_bytes=400, max_delay_seconds=0, commit_interval_seconds=0
)
PATIENCE_SECONDS: Final = 5.0


@dataclass
class Stream:
    """What the journal promised about one stream."""

    accepted: list[int] = field(default_factory=list)
    """Every reading whose commit was reported, in order."""
    resolved: list[SealedBatch] = field(default_factory=list)
    batch: SealedBatch | None = None
    """Handed out and not resolved."""

    def copy(self) -> Stream:
        return Stream(list(self.accepted), list(self.resolved), self.batch)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What is in the stream: every message of every resolved batch."""
        return [message for batch in self.resolved for message in orjson.loads(batch.body)]

    @property
    def readings(self) -> list[int]:
        return [message["data"]["n"] for message in self.messages if "data" in message]


class JournalMachine(RuleBasedStateMachine):
    """Offers, demands, resolutions, restarts and crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="journal-machine-"))
        self.generation = 0
        self.value = 0
        self.model = {name: Stream() for name in STREAMS}
        self.saved: tuple[Path, dict[str, Stream]] | None = None
        self.committing = threading.Lock()
        self.open()

    @property
    def directory(self) -> Path:
        return self.root / f"{self.generation}"

    def open(self) -> None:
        self.committed = 0
        self.journal = Journal.open(
            self.directory,
            gateway="g",
            url="http://streams.test/v1",
            limits=LIMITS,
            on_point=self.on_point,
        )
        self.intake = self.journal.intake("source", max_items=1000, on_committed=self.on_committed)
        self.journal.start()

    def on_point(self, when: str, _parts: frozenset[str]) -> None:
        if when == "before":
            self.committing.acquire()
        else:
            self.committing.release()

    def on_committed(self, items: Sequence[Item], _commit: int) -> None:
        self.committed += len(items)

    def close(self) -> None:
        assert self.journal.stop()
        assert self.journal.failure is None, self.journal.failure

    def number(self, name: str) -> int | None:
        return next((number for number, each, _ in self.journal.streams() if each == name), None)

    # -- what may happen

    @rule(
        names=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=12),
        size=st.integers(0, 120),
        about=st.sampled_from((b"", b'{"fields":{"n":{}}}', b'{"fields":{"n":{"unit":"K"}}}')),
    )
    def offer(self, names: list[str], size: int, about: bytes) -> None:
        items = []
        for name in names:
            self.value += 1
            self.model[name].accepted.append(self.value)
            tail = b'"data":{"n":%d,"x":"%s"}}' % (self.value, b"x" * size)
            items.append(Item(Record(name, "d", tail, about)))
        before = self.committed
        assert self.intake.offer(items)
        wait_until(
            lambda: self.committed == before + len(items) or self.journal.failure,
            timeout_seconds=PATIENCE_SECONDS,
            what="the records are committed",
        )
        assert self.journal.failure is None, self.journal.failure

    @rule(name=st.sampled_from(STREAMS), max_bytes=st.integers(1, 600))
    def demand(self, name: str, max_bytes: int) -> None:
        """Ask for a batch where there is something to send; or again for the one that is not resolved."""
        stream, number = self.model[name], self.number(name)
        if number is None or len(stream.readings) == len(stream.accepted):
            return
        future: Future[SealedBatch] = Future()
        self.journal._writer.submit(Demand(number, max_bytes, future))
        batch = future.result(PATIENCE_SECONDS)
        assert len(orjson.loads(batch.body)) == batch.count > 0
        if stream.batch is None:
            assert (batch.epoch, batch.seq) == (0, len(stream.resolved) + 1)
        else:
            assert batch == stream.batch, "a sealed batch never changes"
        stream.batch = batch

    @rule(name=st.sampled_from(STREAMS))
    def resolve(self, name: str) -> None:
        stream, number = self.model[name], self.number(name)
        if stream.batch is None or number is None:
            return
        store = self.journal.store(number, birth={})
        asyncio.run(store.resolve(stream.batch, f"{stream.batch.seq:016d}"))
        stream.resolved.append(stream.batch)
        stream.batch = None

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    @rule()
    def copy(self) -> None:
        """Keep what is on the disk now, between two commits."""
        directory = self.root / "copy"
        shutil.rmtree(directory, ignore_errors=True)
        with self.committing:
            # A file that is being replaced is gone in a moment.
            shutil.copytree(self.directory, directory, ignore=shutil.ignore_patterns("*.new"))
        self.saved = directory, {name: stream.copy() for name, stream in self.model.items()}

    @precondition(lambda self: self.saved is not None)
    @rule()
    def crash(self) -> None:
        """Go on with the copy, as if the process had been killed when it was taken."""
        assert self.saved is not None
        directory, self.model = self.saved
        self.saved = None
        self.close()
        self.generation += 1
        directory.rename(self.directory)
        self.open()
        for name, stream in self.model.items():
            number = self.number(name)
            if number is not None and stream.resolved:
                self.forget_lazy_resolution(number, stream)

    def forget_lazy_resolution(self, number: int, stream: Stream) -> None:
        """The last resolution may have been lost, and no other: it rides with the next seal at the latest."""
        known = asyncio.run(self.journal.store(number, birth={}).load())
        if known.resolved_seq == len(stream.resolved) - 1:
            assert stream.batch is None
            stream.batch = stream.resolved.pop()
        assert known.resolved_seq == len(stream.resolved)
        assert known.batch == stream.batch

    # -- what must hold

    @invariant()
    def batches_are_what_was_accepted_in_order(self) -> None:
        for name, stream in self.model.items():
            readings = stream.readings
            assert readings == stream.accepted[: len(readings)], name

    @invariant()
    def positions_are_dense_and_of_one_incarnation(self) -> None:
        for stream in self.model.values():
            ids = [message["id"].rpartition(".") for message in stream.messages]
            assert [int(position) for _, _, position in ids] == list(range(1, len(ids) + 1))
            assert len({incarnation for incarnation, _, _ in ids}) <= 1

    def teardown(self) -> None:
        """Whatever happened, everything accepted can be had, and nothing else is left."""
        try:
            self.restart()
            for name, stream in self.model.items():
                while len(stream.readings) < len(stream.accepted):
                    self.demand(name, 300)
                    self.resolve(name)
            self.batches_are_what_was_accepted_in_order()
            self.positions_are_dense_and_of_one_incarnation()
            self.restart()
            snapshot = self.journal.snapshot()
            counted = {each.name: (each.accepted, each.in_journal) for each in snapshot.streams}
            assert counted == {name: (len(each.messages), 0) for name, each in self.model.items() if each.accepted}
            assert snapshot.bytes <= LIMITS.retain_bytes
            self.close()
            assert snapshot.bytes == self.segment_bytes(), "what is said to be used is what is used"
        finally:
            self.journal.stop()
            shutil.rmtree(self.root)

    def segment_bytes(self) -> int:
        disk = Disk(self.directory)
        segments = [disk.read(key) or b"" for key in disk.keys_before("t") if key.startswith("s/")]
        disk.close()
        return sum(len(row) + ROW_OVERHEAD_BYTES for row in segments)


TestTheJournal = JournalMachine.TestCase
TestTheJournal.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Each step costs real commits: shrinking a failure would take minutes. Add Phase.shrink to look into one.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
)
