"""A journal that is always too full: whatever is shed, refused, skipped, aged or crashed, every position is told.

At every step: accepted = in the stream + in the journal + lost. In the end: every position once, by its record or
by a loss record.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ds_gateway.journal import rows
from ds_gateway.journal.disk import Disk
from ds_gateway.journal.shedding import drop_front
from harness.journal_box import JournalBox, covered, reading, readings

if TYPE_CHECKING:
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from durable_streams import SealedBatch

STREAMS: Final = ("telemetry/a", "telemetry/b", "telemetry/c")
ABOUTS: Final = (b"", b'{"fields":{"n":{}}}', b'{"fields":{"n":{"unit":"K"}}}')


class SheddingMachine(RuleBasedStateMachine):
    """Offers, demands, resolutions, shedding of every kind, restarts and crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="shedding-machine-"))
        self.box = JournalBox(self.root / "0")
        self.box.points = self.on_point
        self.committing = threading.Lock()
        self.generation = 0
        self.value = 0
        self.offered: dict[str, list[int]] = {name: [] for name in STREAMS}
        self.batches: dict[str, SealedBatch] = {}
        self.kept_aside: dict[str, list[int]] = {name: [] for name in STREAMS}
        self.saved: tuple[Path, tuple[Any, ...]] | None = None

    @initialize(policy=st.sampled_from(("shed_oldest", "shed_newest")), max_age=st.sampled_from((None, 64.0)))
    def open(self, policy: str, max_age: float | None) -> None:
        self.box.open(max_bytes=9_000, when_full=policy, max_age_seconds=max_age)

    def on_point(self, when: str, _parts: frozenset[str]) -> None:
        if when == "before":
            self.committing.acquire()
        else:
            self.committing.release()

    def known(self, name: str) -> bool:
        return any(each.name == name for each in self.box.journal.snapshot().streams)

    # -- what may happen

    @rule(
        names=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=15),
        size=st.integers(0, 300),
        about=st.sampled_from(ABOUTS),
    )
    def offer(self, names: list[str], size: int, about: bytes) -> None:
        payloads = []
        for name in names:
            self.value += 1
            self.offered[name].append(self.value)
            payloads.append(reading(self.value, stream=name, size=size, about=about))
        self.box.accept(*payloads)

    @rule(name=st.sampled_from(STREAMS), max_bytes=st.integers(1, 900))
    def demand(self, name: str, max_bytes: int) -> None:
        if not self.known(name) or not self.box.stream(name).in_journal:
            return
        batch = self.box.demand(name, max_bytes)
        assert len(orjson.loads(batch.body)) == batch.count > 0
        assert self.batches.setdefault(name, batch) == batch, "a sealed batch never changes"

    @rule(name=st.sampled_from(STREAMS))
    def resolve(self, name: str) -> None:
        if name in self.batches:
            self.box.resolve(name, self.batches.pop(name))

    @rule(name=st.sampled_from(STREAMS), max_records=st.integers(1, 5))
    def reseal(self, name: str, max_records: int) -> None:
        """The server refused the batch: it is sealed anew, smaller, and may end within a segment."""
        if name not in self.batches:
            return
        resealed: list[SealedBatch] = []
        self.box.change(name, lambda book, plan: resealed.append(plan.reseal(book, max_records)))
        before, after = (readings(orjson.loads(each.body)) for each in (self.batches[name], resealed[0]))
        assert after == before[: len(after)], "a smaller batch may have room for control records only"
        self.batches[name] = resealed[0]

    @rule(name=st.sampled_from(STREAMS), ahead=st.integers(0, 12), max_rows=st.integers(1, 6))
    def skip(self, name: str, ahead: int, max_rows: int) -> None:
        """An operator skips a stream's first records, and has them kept aside."""
        if not self.known(name):
            return
        kept: list[bytes] = []

        def apply(book: Book, plan: Plan) -> None:
            before = book.next_position - min(ahead, book.next_position)
            drop_front(plan, book, cause="skipped", before_position=before, keep=kept.append, max_rows=max_rows)

        self.box.change(name, apply)
        self.kept_aside[name] += readings([orjson.loads(each) for each in kept])

    @rule(seconds=st.sampled_from((1.0, 5.0, 30.0, 70.0)))
    def wait(self, seconds: float) -> None:
        self.box.clock.now += seconds

    @rule(name=st.sampled_from(STREAMS), reason=st.sampled_from(("", "halted: it has gone")))
    def stop_stream(self, name: str, reason: str) -> None:
        if self.known(name):
            self.box.journal.set_stopped(self.box.number(name), reason)

    @rule(reboots=st.booleans())
    def restart(self, *, reboots: bool) -> None:
        self.box.close()
        self.check_the_disk()
        if reboots:
            self.box.clock.reboot()
        self.box.open()

    @rule()
    def copy(self) -> None:
        """Keep what is on the disk now, between two commits."""
        directory = self.root / "copy"
        shutil.rmtree(directory, ignore_errors=True)
        with self.committing:
            # A file that is being replaced is gone in a moment.
            shutil.copytree(self.box.directory, directory, ignore=shutil.ignore_patterns("*.new"))
        self.saved = directory, deepcopy((self.offered, self.batches, self.box.sent, self.kept_aside))

    @precondition(lambda self: self.saved is not None)
    @rule()
    def crash(self) -> None:
        """Go on with the copy, as if the process had been killed when it was taken."""
        assert self.saved is not None
        directory, (self.offered, self.batches, self.box.sent, self.kept_aside) = self.saved
        self.saved = None
        self.box.close()
        self.generation += 1
        self.box.directory = directory.rename(self.root / f"{self.generation}")
        self.box.open()
        for name, messages in self.box.sent.items():
            # The last resolution may have been lost: its batch is sealed still.
            stream = self.box.stream(name)
            if stream.in_flight and name not in self.batches:
                self.batches[name] = batch = self.box.demand(name)
                del messages[-batch.count :]

    # -- what must hold

    @invariant()
    def what_was_accepted_is_somewhere(self) -> None:
        for stream in self.box.journal.snapshot().streams:
            assert stream.accepted == stream.in_stream + stream.in_journal + stream.lost, stream

    @invariant()
    def what_is_in_a_stream_is_in_order_and_once(self) -> None:
        for name, messages in self.box.sent.items():
            positions = covered(messages)
            assert positions == list(range(1, len(positions) + 1)), name
            found = readings(messages)
            assert found == sorted(set(found)), name
            assert set(found) <= set(self.offered[name]), name

    def check_the_disk(self) -> None:
        """What the books say is what the rows hold."""
        disk = Disk(self.box.directory)
        keys = list(disk.keys_before("t"))
        for key in keys:
            if not key.startswith("k/"):
                continue
            book = rows.decode_json(key, disk.read(key) or b"")
            prefix = f"s/{book['number']:06d}/"
            segments = {
                int(each[len(prefix) :]): rows.decode_segment(each, row)
                for each in keys
                if each.startswith(prefix) and (row := disk.read(each)) is not None
            }
            size = sum(
                len(disk.read(rows.segment_key(book["number"], each)) or b"") + rows.ROW_OVERHEAD_BYTES
                for each in segments
            )
            sealed = book["sealed"]
            assert size == book["kept_size"] + book["open_size"] + (sealed["size"] if sealed else 0), key
            still_open = sum(segment.count for each, segment in segments.items() if each >= book["open_segment"])
            assert still_open - book["open_skip"] == book["open_records"], key
        disk.close()

    def teardown(self) -> None:
        """Whatever happened, each position is told once, and each reading is sent, kept aside or counted lost."""
        try:
            if not hasattr(self.box, "journal"):
                return
            self.box.close()
            self.check_the_disk()
            self.box.open(max_bytes=10_000_000, max_age_seconds=None)
            for name in STREAMS:
                if not self.known(name):
                    continue
                if name in self.batches:
                    self.box.resolve(name, self.batches.pop(name))
                messages = self.box.drain(name)
                stream = self.box.stream(name)
                assert covered(messages) == list(range(1, stream.accepted + 1)), name
                assert (stream.in_stream, stream.lost) == (len(messages), stream.accepted - len(messages))
                assert not set(readings(messages)) & set(self.kept_aside[name]), "skipped, and yet sent"
            self.what_is_in_a_stream_is_in_order_and_once()
            self.what_was_accepted_is_somewhere()
            self.box.close()
        finally:
            if hasattr(self.box, "journal"):
                self.box.journal.stop()
            shutil.rmtree(self.root)


TestShedding = SheddingMachine.TestCase
TestShedding.settings = settings(
    max_examples=10,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Each step costs real commits: shrinking a failure would take minutes. Add Phase.shrink to look into one.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
)
