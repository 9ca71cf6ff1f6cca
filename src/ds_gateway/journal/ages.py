"""How old the open records are, by clocks that nobody sets. The wall clock has no say in it.

The journal has a clock of its own: seconds in which it, or at least the same boot of the machine, is known to have
run. Within a boot that is CLOCK_BOOTTIME, also while the process was away; over a reboot it goes on from what was
committed last. So a box that begins in the past, or whose clock jumps by years, makes nothing old.

A stream's `marks` say: all segments before this number had been accepted by this time. An age is never
overestimated by them, and underestimated by at most the spacing of the marks.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.state import Counters

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
MARKS_PER_AGE: Final = 16
PERSIST_SECONDS: Final = 60.0
"""What a reboot may take from the ages, where nothing else is committed."""


class BootClock(Protocol):
    """A clock that counts since the machine's boot, and says which boot that is."""

    @property
    def boot(self) -> str:
        """Identifies the boot."""
        ...  # pragma: no cover

    def seconds(self) -> float:
        """Seconds since the boot, suspended ones included."""
        ...  # pragma: no cover


class SystemBootClock:
    """The machine's."""

    def __init__(self) -> None:
        try:
            self.boot = _BOOT_ID.read_text("ascii").strip()
        except OSError:
            self.boot = uuid.uuid4().hex  # unknown: then nothing counts from one process to the next

    def seconds(self) -> float:
        """Seconds since the boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ages:
    """The journal's own clock."""

    def __init__(self, counters: Counters, clock: BootClock) -> None:
        self._clock = clock
        now, known = clock.seconds(), counters.age_seconds
        if counters.age_boot == clock.boot:
            known += max(0.0, now - counters.age_boot_seconds)
        self._offset = known - now

    def now(self) -> float:
        """Seconds that the journal is known to have lived."""
        return self._clock.seconds() + self._offset

    def note(self, counters: Counters) -> None:
        """Let the next commit carry how far the clock is."""
        seconds = self._clock.seconds()
        counters.age_boot, counters.age_boot_seconds = self._clock.boot, round(seconds, 3)
        counters.age_seconds = round(seconds + self._offset, 3)


def spacing_seconds(max_age_seconds: float) -> float:
    """How far marks are apart."""
    return max_age_seconds / MARKS_PER_AGE


def mark(book: Book, now: float, spacing: float) -> bool:
    """Note that everything there is now had come by now, if it is time to; return whether it was."""
    if not needs_mark(book) or (book.marks and now - book.marks[-1][1] < spacing):
        return False
    book.marks = [each for each in book.marks if each[0] > book.open_segment]
    book.marks.append([book.next_segment, round(now, 3)])
    return True


def needs_mark(book: Book) -> bool:
    """Whether there are open records of which no mark says anything."""
    return book.open_records > 0 and (not book.marks or book.marks[-1][0] < book.next_segment)


def aged_before(book: Book, now: float, max_age_seconds: float) -> int | None:
    """All segments before this number are too old; None if none is."""
    aged = [bound for bound, at in book.marks if now - at >= max_age_seconds and bound > book.open_segment]
    return int(aged[-1]) if aged else None


def forget(book: Book, bound: int) -> None:
    """What came before this segment number has been seen to."""
    book.marks = [each for each in book.marks if each[0] > bound]


def due_at(book: Book, max_age_seconds: float) -> float:
    """When the stream is next to be looked at, on the journal's clock."""
    due = float("inf")
    if needs_mark(book):
        due = book.marks[-1][1] + spacing_seconds(max_age_seconds) if book.marks else float("-inf")
    for bound, at in book.marks:
        if bound > book.open_segment:
            return min(due, at + max_age_seconds)
    return due
