"""The one writer: a thread that takes what is due and commits it, one transaction at a time.

It is self-clocking. While a commit is on its way to the disk, sources and uplinks queue up; all of it makes the
next transaction. A transaction carries, in this order:

    C  resolutions of batches that are in their streams, claims, anchors
    A  records from the intakes, with the rows of the sources' gates
    B  the next batch of every stream whose uplink waits for one and whose turn it is

Only after the commit are sources told (they acknowledge then) and batches handed out (they are sent then).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalClosedError, JournalDamagedError, JournalError
from ds_gateway.journal import telling
from ds_gateway.journal.disk import DiskFullError
from ds_gateway.journal.plan import Plan
from ds_gateway.journal.requests import Change, Demand, Resolution, Task
from ds_gateway.journal.room import Room
from ds_gateway.journal.state import State, load
from ds_gateway.journal.telling import Committed
from ds_gateway.journal.transaction import QUARANTINE_MAX_BYTES
from ds_gateway.journal.upkeep import Upkeep
from ds_gateway.logs import event, logger
from ds_gateway.records import Item
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from ds_gateway.journal.ages import BootClock
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.disk import Disk
    from ds_gateway.journal.intake import Intake
    from ds_gateway.journal.settings import WriterSettings
    from ds_gateway.timekeeping import WallClock
    from durable_streams import SealedBatch

_log = logger("journal")

GROUP_MAX_ITEMS: Final = 2_000
GROUP_MAX_BYTES: Final = 1024 * 1024
LAZY_SECONDS: Final = 1.0
"""How long a resolution waits for a commit to ride with. Losing one only costs a look into the stream."""
TURN_SECONDS: Final = 1.0
"""The thread turns at least this often, so that a watchdog can tell an idle writer from a dead one."""


class Writer:
    """Owns the connection, the state and the thread. Everything public is safe from any thread."""

    def __init__(
        self,
        disk: Disk,
        state: State,
        settings: WriterSettings,
        *,
        on_stream: Callable[[Book], None],
        on_point: Callable[[str, frozenset[str]], None],
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        boot_clock: BootClock | None = None,
        on_confirmed: Callable[[int], None] = lambda _stream: None,
        wall_clock: WallClock = UNWATCHED,
    ) -> None:
        self.state = state
        self.settings = settings
        self.wall_clock = wall_clock
        self._room = Room(settings.max_bytes, settings.gateway, settings.receipts)
        self.upkeep = Upkeep(
            state,
            disk,
            self._room,
            when_full=settings.when_full,
            min_free_bytes=settings.min_free_bytes,
            max_age_seconds=settings.max_age_seconds,
            boot_clock=boot_clock,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.committed = Committed(state, self._room)
        self.failure: BaseException | None = None
        self.alive_at = clock()
        self.directory = disk.directory
        self._disk = disk
        self._on_stream = on_stream
        self._on_point = on_point
        self._on_confirmed = on_confirmed
        self._clock = clock
        self._now_ns = now_ns
        self._condition = threading.Condition()
        self._intakes: list[Intake] = []
        self._new_intakes: list[Intake] = []
        self._changes: list[Change | Task] = []
        self._resolutions: list[Resolution] = []
        self._lazy_since: float | None = None
        self._demands: dict[int, Demand] = {}
        self._sealed_at: dict[int, float] = {}
        self._committed_at = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    # -- from any thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Commit everything that is queued and end; False when that took too long."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """There may be work."""
        with self._condition:
            self._condition.notify()

    def set_stopped(self, stream: int, reason: str) -> None:
        """A stream is not sent for this reason, or it is sent again (empty)."""
        with self._condition:
            self.upkeep.set_stopped(stream, reason)
            self._condition.notify()

    def add_intake(self, intake: Intake) -> None:
        """Take from this intake from now on."""
        with self._condition:
            self._new_intakes.append(intake)
            self._condition.notify()

    def submit(self, request: Change | Task | Resolution | Demand) -> None:
        """Queue a request of an uplink. Raises `JournalClosedError` when the writer is gone."""
        with self._condition:
            if self.failure is not None or self._stopping:
                raise JournalClosedError("the journal is closed") from self.failure
            match request:
                case Change() | Task():
                    self._changes.append(request)
                case Resolution():
                    self._resolutions.append(request)
                    self.committed.confirm(request)
                case Demand(stream=stream):
                    self._demands[stream] = request
            self._condition.notify()
        if isinstance(request, Resolution):
            self._on_confirmed(request.stream)

    # -- the thread

    def _run(self) -> None:
        try:
            self._restore_gates(self._adopt_intakes())
            while True:
                is_due, stopping = self._wait_for_work()
                self.alive_at = self._clock()
                worked = is_due and self._turn(stopping=stopping)
                if stopping and not worked:
                    return
        except BaseException as error:  # noqa: BLE001 - supervision boundary: whatever ends the writer ends the gateway
            self.failure = error
            # An operator's error says what to do; of a defect the place is wanted.
            event(
                _log,
                "error",
                "journal.failed",
                error=str(error),
                exc=None if isinstance(error, JournalError) else error,
            )
        finally:
            self._fail_waiting()
            self._disk.close()

    def _fail_waiting(self) -> None:
        with self._condition:
            self._stopping = True
            futures: list[Future[None] | Future[SealedBatch]] = [change.done for change in self._changes]
            futures += [demand.batch for demand in self._demands.values()]
        for future in futures:
            if not future.done():
                future.set_exception(JournalClosedError("the journal is closed"))

    def _wait_for_work(self) -> tuple[bool, bool]:
        """Wait until something may be due; return whether it is, and whether the writer is to stop.

        Being woken is not being due: a resolution and the demand behind it wait for records to share a commit.
        """
        with self._condition:
            now = self._clock()
            due = self._due_at(now)
            if not self._stopping and due > now:
                self._condition.wait(min(due - now, TURN_SECONDS))
                now = self._clock()
                due = self._due_at(now)
            return self._stopping or due <= now, self._stopping

    def _due_at(self, now: float) -> float:
        """When the next transaction is due; at most a turn away."""
        due = now + TURN_SECONDS
        if self._changes or self._new_intakes:
            return now
        if self._resolutions:
            if self._lazy_since is None:
                self._lazy_since = now
            due = min(due, self._lazy_since + LAZY_SECONDS)
        due = min(due, self.upkeep.due_at(self.state))
        if any(len(intake) for intake in self._intakes):
            earliest = self._committed_at + self.settings.commit_interval_seconds
            in_reserve = any(intake.uses_reserve and len(intake) for intake in self._intakes)
            recheck = self.upkeep.recheck_at if self.upkeep.full and not in_reserve else 0.0
            due = min(due, max(earliest, recheck))
        resolving = {resolution.stream for resolution in self._resolutions}
        for number in self._demands:
            book = self.state.books[number]
            if book.sealed is not None and number not in resolving:
                return now
            if book.open_records:
                due = min(due, self._seal_due_at(book))
        return due

    def _seal_due_at(self, book: Book) -> float:
        """The first record after a pause goes at once; while batches follow one another, records keep company."""
        if book.open_size >= self.settings.batch_max_bytes:
            return 0.0
        return self._sealed_at.get(book.number, float("-inf")) + self.settings.max_delay_seconds

    def _adopt_intakes(self) -> list[Intake]:
        with self._condition:
            fresh, self._new_intakes = self._new_intakes, []
            self._intakes += fresh
        return fresh

    def _restore_gates(self, intakes: Sequence[Intake]) -> None:
        for intake in intakes:
            if intake.gate is not None:
                intake.gate.restore(self.state.gates.get(intake.source, {}))

    def _turn(self, *, stopping: bool) -> bool:
        """Plan and commit one transaction; return whether there was anything in it."""
        self._restore_gates(self._adopt_intakes())
        with self._condition:
            changes, self._changes = self._changes, []
            resolutions, self._resolutions = self._resolutions, []
            # With the resolutions, in one step: an uplink resolves first and asks afterwards, so whoever is seen
            # asking has been seen resolving.
            demands = [demand for demand in self._demands.values() if not demand.batch.cancelled()]
            self._lazy_since = None
        settings = self.settings
        plan = Plan(
            self.state,
            self._disk.read_written,
            read_if_any=self._disk.read,
            url=settings.url,
            segment_max_bytes=settings.batch_max_bytes,
            quarantine_max_bytes=min(QUARANTINE_MAX_BYTES, settings.max_bytes // 8),
            now_ns=self._now_ns,
            wall_clock=self.wall_clock,
        )
        taken: list[tuple[Intake, list[Item]]] = []
        try:
            for resolution in resolutions:
                plan.resolve(self.state.books[resolution.stream], resolution.seq, resolution.offset)
            failed = self._apply(changes, plan)
            self.upkeep.trim(plan, self.state, settings.retain_bytes)
            self.upkeep.shed_aged(plan, self.state)
            self._take(plan, taken)
            self.upkeep.tell_quarantine(plan, self.state)
            self.upkeep.tell_clock(plan, self.state)
            self.upkeep.mark_ages(plan, self.state)
            batches = self._seal(plan, demands, at_once=stopping)
            rows_to_write = plan.finish()
            if rows_to_write:
                self._commit(rows_to_write, plan.parts)
        except DiskFullError as error:
            self._back_out(error, changes, resolutions, taken)
            return False
        self._tell(plan, changes, failed, taken, batches)
        return bool(rows_to_write)

    def _take(self, plan: Plan, taken: list[tuple[Intake, list[Item]]]) -> None:
        waiting = sum(intake.waiting_bytes for intake in self._intakes)
        admission = self.upkeep.admission(plan, self.state, waiting)
        if admission is None:
            return
        for intake in self._intakes:
            has_room = admission.is_full or intake.uses_reserve
            room = GROUP_MAX_BYTES if has_room else self._room.left(self.state)
            if room <= 0:
                continue
            only_losses = self.upkeep.full and not intake.uses_reserve
            items = intake.take(GROUP_MAX_ITEMS, min(GROUP_MAX_BYTES, room), only_losses=only_losses)
            if not items:
                continue
            taken.append((intake, items))
            if intake.gate is None:
                plan.accept(items, admission.refusal)
            else:
                admitted = intake.gate.admit(items, plan.commit)
                plan.accept([*admitted, *map(Item, intake.gate.losses())], admission.refusal)
                plan.gate(intake.source, intake.gate.changes())

    def _apply(self, changes: list[Change | Task], plan: Plan) -> dict[int, JournalDamagedError]:
        """Make the changes; return those that met damage, by their place. Such a one has changed nothing."""
        failed: dict[int, JournalDamagedError] = {}
        for place, change in enumerate(changes):
            try:
                if isinstance(change, Task):
                    change.apply(plan)
                else:
                    change.apply(self.state.books[change.stream], plan)
            except JournalDamagedError as error:
                failed[place] = error
        return failed

    def _seal(
        self, plan: Plan, demands: Sequence[Demand], *, at_once: bool
    ) -> list[tuple[Demand, SealedBatch | JournalDamagedError]]:
        now = self._clock()
        outcomes: list[tuple[Demand, SealedBatch | JournalDamagedError]] = []
        for demand in demands:
            book = self.state.books[demand.stream]
            try:
                batch = plan.sealed_batch(book)
                if batch is None and book.open_records and (at_once or self._seal_due_at(book) <= now):
                    batch = plan.seal(book, demand.max_bytes)
                    self._sealed_at[book.number] = now
            except JournalDamagedError as error:
                # One stream's damage is that stream's halt; the others go on.
                outcomes.append((demand, error))
                continue
            if batch is not None:
                outcomes.append((demand, batch))
        return outcomes

    def _commit(self, rows_to_write: dict[str, bytes | None], parts: set[str]) -> None:
        labels = frozenset(parts)
        self._on_point("before", labels)
        with self._disk.transaction():
            for key, row in rows_to_write.items():
                if row is None:
                    self._disk.delete(key)
                else:
                    self._disk.write(key, row)
        self._on_point("after", labels)
        self.upkeep.committed(self.state)
        self._committed_at = self._clock()

    def _back_out(
        self,
        error: DiskFullError,
        changes: list[Change | Task],
        resolutions: list[Resolution],
        taken: list[tuple[Intake, list[Item]]],
    ) -> None:
        """Nothing of the transaction happened: start again from the disk, and let draining go on."""
        self.upkeep.back_out()
        event(_log, "error", "journal.disk_full", error=str(error))
        self.state = load(self._disk, self.settings.gateway)
        for intake, items in taken:
            intake.give_back(items)
        self._restore_gates(self._intakes)
        with self._condition:
            self._changes = changes + self._changes
            self._resolutions = resolutions + self._resolutions
            self._condition.wait(TURN_SECONDS)

    def _tell(
        self,
        plan: Plan,
        changes: list[Change | Task],
        failed: Mapping[int, JournalDamagedError],
        taken: list[tuple[Intake, list[Item]]],
        batches: list[tuple[Demand, SealedBatch | JournalDamagedError]],
    ) -> None:
        """After the commit, and only then."""
        telling.log(plan)
        self.committed.take(plan.touched, self.state)
        telling.tell_sources(taken, self.state.counters.commit)
        telling.answer_changes(changes, failed)
        for demand, batch in batches:
            with self._condition:
                if self._demands.get(demand.stream) is demand:
                    del self._demands[demand.stream]
            telling.answer_demand(demand, batch)
        for book in plan.new_books:
            self._on_stream(book)
