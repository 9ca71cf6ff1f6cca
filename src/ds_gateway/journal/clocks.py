"""What a stream's ``clock`` records tell, and when: pure decisions about a book.

A record that was stamped while the clock was not synchronised says so, with the boot and the boot's clock. Sooner
or later a ``clock`` record of that boot follows it in its stream, exactly once: with the base, when the clock is
synchronised, or without one, when the boot has ended before that. A step of a synchronised clock is told in front
of the first record that was stamped behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.records import NANOSECONDS, rfc3339
from ds_gateway.timekeeping import STEP_NS

if TYPE_CHECKING:
    from ds_gateway.journal.book import Book
    from ds_gateway.records import ClockState

MAX_BOOTS: Final = 64
"""Boots that a stream remembers while there is no room to tell of them; the oldest are forgotten."""


def note(book: Book, clock: ClockState) -> bool:
    """A record stamped by this clock is about to stand in the stream.

    Return whether a clock record must come before it.
    """
    is_another_boot = book.clock_boot != clock.boot
    if is_another_boot:
        book.clock_boot, book.clock_base_ns = clock.boot, clock.base_ns
    if not clock.is_synchronised:
        if clock.boot not in book.unsynced:
            book.unsynced = [*book.unsynced, clock.boot][-MAX_BOOTS:]
        return False
    return clock.boot in book.unsynced or abs(clock.base_ns - book.clock_base_ns) >= STEP_NS


def tell(book: Book, clock: ClockState) -> bytes:
    """The ``info`` of the record for this boot; it is not told again."""
    offset_ns = clock.base_ns - book.clock_base_ns if book.clock_boot == clock.boot else 0
    book.clock_boot, book.clock_base_ns = clock.boot, clock.base_ns
    book.unsynced = [boot for boot in book.unsynced if boot != clock.boot]
    info: dict[str, Any] = {
        "boot": clock.boot,
        "base": rfc3339(clock.base_ns),
        "mono": round(clock.since_ns / NANOSECONDS, 6),
        "offset": round(offset_ns / NANOSECONDS, 6),
    }
    return orjson.dumps(info)


def tell_ended(book: Book, boot: str) -> bytes:
    """The ``info`` of the record for a boot that has ended: its times stay unknown."""
    book.unsynced = [each for each in book.unsynced if each != boot]
    return orjson.dumps({"boot": boot, "base": None})


def untold(book: Book, clock: ClockState) -> list[str]:
    """Boots of which the stream can be told now."""
    return [boot for boot in book.unsynced if boot != clock.boot or clock.is_synchronised]
