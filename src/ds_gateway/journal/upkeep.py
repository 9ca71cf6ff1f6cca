"""What the writer sees to in each transaction beside the records.

Room, ages, what the clock's state has to be told of, and what the quarantine deleted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import ages, clocks
from ds_gateway.journal.room import Admission, Room, shed_oldest
from ds_gateway.journal.shedding import Dropped, drop_front
from ds_gateway.logs import event, logger
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.disk import Disk
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.state import State
    from ds_gateway.timekeeping import WallClock

_log = logger("journal")

WhenFull = Literal["backpressure", "shed_oldest", "shed_newest"]
FULL_RECHECK_SECONDS: Final = 1.0
MAX_GAPS: Final = 64
"""Gaps among a stream's segments where records were shed: they are part of the stream's row."""
LEDGER_SECONDS: Final = 60.0
"""How often the ledger tells at most of what the quarantine deleted."""


class Upkeep:
    """Used in the writer's thread; only `set_stopped` and the flags are for others."""

    def __init__(
        self,
        state: State,
        disk: Disk,
        room: Room,
        *,
        when_full: WhenFull,
        min_free_bytes: int,
        max_age_seconds: float | None,
        boot_clock: ages.BootClock | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: WallClock = UNWATCHED,
    ) -> None:
        self.full = False
        """Whether sources wait because there is no room."""
        self.shedding = False
        """Whether records are lost because there is no room."""
        self.out_of_disk = False
        """Whether the last transaction found no room on the file system."""
        self._disk_is_low = False
        """Whether the file system has less free than is to stay free."""
        self.stopped: dict[int, str] = {}
        """Streams that are not sent, and why. Replaced whole."""
        self._disk = disk
        self._room = room
        self._when_full = when_full
        self._sheds = when_full != "backpressure"
        self._min_free_bytes = min_free_bytes
        self._max_age = max_age_seconds
        self._clock = clock
        self._checked_at = float("-inf")
        self._has_refused = any(book.refused for book in state.books.values())
        self._told_at = float("-inf")
        self._ages = ages.Ages(state.counters, boot_clock or ages.SystemBootClock())
        self._age_due = float("-inf")
        self._wall_clock = wall_clock
        self._unsynced = _unsynced(state)

    def due_at(self, state: State) -> float:
        """When there is something to do, even if no record comes and none is asked for."""
        due = float("inf")
        if self._has_refused or self.shedding:
            due = self.recheck_at
        if state.counters.quarantine_untold[0]:
            due = min(due, self._told_at + LEDGER_SECONDS)
        if self._max_age is not None and self._age_due <= self._ages.now():
            due = float("-inf")
        if self._has_to_tell_clock(state):
            due = float("-inf")
        return due

    @property
    def recheck_at(self) -> float:
        """When it is worth looking again whether there is room."""
        return self._checked_at + FULL_RECHECK_SECONDS

    def back_out(self) -> None:
        """The file system has no room for a transaction."""
        self._disk.drop_ballast()
        self.out_of_disk = True
        self.full = not self._sheds
        self._checked_at = self._clock()

    # -- room

    @property
    def why_full(self) -> str:
        """Why there is no room, and what to do; empty if there is. Any thread."""
        if not (self.full or self.shedding):
            return ""
        if self._disk_is_low or self.out_of_disk:
            return (
                "the disk has less free than journal.min_free_bytes wants "
                f"({_mib(self._min_free_bytes)}): make room on it"
            )
        return (
            f"what is not sent yet fills journal.max_bytes ({_mib(self._room.max_bytes)}): see to the streams and "
            "their server, or raise it"
        )

    def admission(self, plan: Plan, state: State, waiting_bytes: int) -> Admission | None:
        """Make room as the policy says, and decide who may have it; None: take nothing in this transaction."""
        if not (waiting_bytes or self._has_refused or self.shedding):
            return None
        was_out = self.full or self.shedding
        enough = self._make_room(plan, state, waiting_bytes)
        if enough is None:
            return None
        self.full = not enough and not self._sheds
        self._tell_room(state, was_out=was_out)
        admission = Admission(state, self._room, self.stopped, is_full=not enough)
        if enough:
            for book in state.books.values():
                if book.refused is not None and not admission.refusal(book.name, 0):
                    plan.write_refused(book)
        elif self._sheds:
            plan.keep_quarantine_size()
        return admission

    def _make_room(self, plan: Plan, state: State, waiting_bytes: int) -> bool | None:
        """Whether there is room; None while what is kept for repair is being deleted. That gives way first."""
        room = self._room
        self._checked_at = self._clock()
        self._disk_is_low = self._disk.free_bytes() < self._min_free_bytes
        disk_low = self._disk_is_low or (self._sheds and self.out_of_disk)
        wanted = 1
        if self._when_full == "shed_oldest":
            wanted = min(waiting_bytes, room.slack)
        elif self._when_full == "shed_newest" and self.shedding:
            wanted = room.slack
        left = room.left(state)
        gained = 0
        gives_way = left < wanted or (disk_low and self._sheds)
        if gives_way:
            plan.trim_quarantine()
            for book in list(state.books.values()):
                plan.trim(book, 0)
            gained = room.left(state) - left
            left += gained
        # On a file system without room the journal's file may not grow: then only what was given up counts.
        missing = wanted - gained if disk_low and self._sheds else wanted - left
        enough = missing <= 0 and (self._sheds or not disk_low)
        if (
            gives_way
            and not enough
            and any(book.kept_size and not book.repairing for book in state.books.values())
        ):
            self._checked_at = float("-inf")
            return None
        self.shedding = self._sheds and not enough
        if not enough and self._when_full == "shed_oldest":
            at_once = missing if disk_low else max(missing, room.slack - left)
            return shed_oldest(plan, state, room, at_once) >= missing or (not disk_low and room.left(state) > 0)
        return enough

    def _tell_room(self, state: State, *, was_out: bool) -> None:
        is_out = self.full or self.shedding
        if is_out and not was_out:
            event(
                _log,
                "error" if self._sheds else "warning",
                "journal.full",
                reason=self.why_full,
                bytes=state.size,
                max_bytes=self._room.max_bytes,
                when_full=self._when_full,
            )
        elif was_out and not is_out:
            self._disk.load_ballast()
            event(_log, "info", "journal.room", bytes=state.size)

    def trim(self, plan: Plan, state: State, retain_bytes: int) -> None:
        """Delete what need not be kept for repair any more."""
        books = list(state.books.values())
        share = fair_share([book.kept_size for book in books], retain_bytes)
        for book in books:
            if len(book.gaps) > MAX_GAPS:
                plan.trim(book, 0)  # what is kept lies between them
            elif book.kept_size > share:
                plan.trim(book, share)

    def set_stopped(self, stream: int, reason: str) -> None:
        """A stream is not sent for this reason, or it is sent again (empty)."""
        others = {number: why for number, why in self.stopped.items() if number != stream}
        self.stopped = {**others, stream: reason} if reason else others

    def committed(self, state: State) -> None:
        """A transaction is done."""
        self.out_of_disk = False
        self._unsynced = _unsynced(state)
        self._has_refused = any(book.refused for book in state.books.values())

    # -- ages

    def shed_aged(self, plan: Plan, state: State) -> None:
        """Let open records that are too old give way, a bounded number at a time. Losses, receipts have none."""
        if self._max_age is None:
            return
        now = self._ages.now()
        for book in state.books.values():
            bound = None if self._room.is_reserved(book) else ages.aged_before(book, now, self._max_age)
            if bound is None:
                continue
            try:
                dropped = drop_front(plan, book, cause="max_age", before_segment=bound)
            except JournalDamagedError:
                dropped = Dropped()  # its uplink finds that, too, and halts
            if not dropped.more:
                ages.forget(book, bound)
                plan.touch(book)

    def mark_ages(self, plan: Plan, state: State) -> None:
        """Note the ages of what was accepted, and now and then how far the clock is."""
        if self._max_age is None:
            return
        now, spacing = self._ages.now(), ages.spacing_seconds(self._max_age)
        waiting = [book for book in state.books.values() if book.open_records]
        for book in waiting:
            if ages.mark(book, now, spacing):
                plan.touch(book)
        rest = max(ages.PERSIST_SECONDS, spacing)
        if waiting and now - state.counters.age_seconds >= rest:
            plan.touch(waiting[0])
        if plan.touched:
            self._ages.note(state.counters)
        due = [ages.due_at(book, self._max_age) for book in waiting]
        self._age_due = min([*due, state.counters.age_seconds + rest]) if waiting else float("inf")

    # -- the clock

    def _may_tell_clock(self, book: Book) -> bool:
        return not (self.full or self.shedding or self.out_of_disk) and book.refused is None

    def _has_to_tell_clock(self, state: State) -> bool:
        clock = self._wall_clock.state
        return clock is not None and any(
            clocks.untold(book, clock) and self._may_tell_clock(book)
            for book in map(state.books.__getitem__, self._unsynced)
        )

    def tell_clock(self, plan: Plan, state: State) -> None:
        """Let clock records follow what they correct, where there is room."""
        clock = self._wall_clock.state
        if clock is None:
            return
        for book in map(state.books.__getitem__, self._unsynced):
            if self._may_tell_clock(book):
                plan.tell_clock(book, clock)

    # -- the quarantine

    def tell_quarantine(self, plan: Plan, state: State) -> None:
        """Let the ledger have what the quarantine deleted, at most once a minute."""
        if state.counters.quarantine_untold[0] and self._clock() >= self._told_at + LEDGER_SECONDS:
            self._told_at = self._clock()
            plan.tell_quarantine()


def fair_share(sizes: Sequence[int], total: int) -> int:
    """What each may keep, so that all keep ``total`` at most: those that need less leave the rest to the others.

    A stream with a record now and then, as the ledger's or the health stream, takes nothing from the busy ones.
    """
    if sum(sizes) <= total:
        return total
    left = total
    for count, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * count > left:
            return left // count
        left -= size
    raise AssertionError("they are more than the total, so one of them is above its share")


def _unsynced(state: State) -> list[int]:
    """Streams with records that a clock record has to follow."""
    return [book.number for book in state.books.values() if book.unsynced]


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.4g} MiB"
