"""What a stream's ``clock`` records tell, and when: pure decisions about a book.

A record that was stamped while the clock was not synchronised says so, with the boot and the boot's clock. Sooner
or later a ``clock`` record of that boot follows it in its stream, exactly once: with the base, when the clock is
synchronised, or without one, when the boot has ended before that. A step of a synchronised clock is told in front
of the first record that was stamped behind it.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.records import NANOSECONDS, ClockState, rfc3339
from ds_gateway.timekeeping import STEP_NS

if TYPE_CHECKING:
    from ds_gateway.journal.book import Book

_SAID: Final = re.compile(
    rb'"time":"([^"]+)",(?:"received":"([^"]+)",)?"clock":"unsynced","boot":"([^"]+)","mono":"?([0-9.]+)'
)
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
        "offset": round(offset_ns / NANOSECONDS, 6) + 0.0,  # not -0.0
    }
    return orjson.dumps(info)


def tell_ended(book: Book, boot: str) -> bytes:
    """The ``info`` of the record for a boot that has ended: its times stay unknown."""
    book.unsynced = [each for each in book.unsynced if each != boot]
    return orjson.dumps({"boot": boot, "base": None})


def untold(book: Book, clock: ClockState) -> list[str]:
    """Boots of which the stream can be told now."""
    return [boot for boot in book.unsynced if boot != clock.boot or clock.is_synchronised]


# -- taken over from a damaged journal


def owe(book: Book, owing: Book) -> None:
    """Tell of the boots that another journal's book of the stream has not told of."""
    book.unsynced = list(dict.fromkeys([*owing.unsynced, *book.unsynced]))[-MAX_BOOTS:]
    if not book.clock_boot:
        book.clock_boot, book.clock_base_ns = owing.clock_boot, owing.clock_base_ns


def stamped(tail: bytes) -> ClockState | None:
    """By what clock a record was stamped, as it says itself; None: it says nothing."""
    # What a device sends may look the same, and comes behind: the names before it are escaped.
    found = _SAID.search(tail.partition(b'"data":')[0])
    if found is None:
        return None
    time, received, boot, mono = (each.decode("latin-1") for each in found.groups(b""))
    try:
        read_ns = round(datetime.fromisoformat(received or time).timestamp() * 10**6) * 1000
        boot_ns = int(Decimal(mono) * NANOSECONDS)
    except (ValueError, ArithmeticError):
        return None  # not as any version wrote it
    return ClockState(boot, is_synchronised=False, base_ns=read_ns - boot_ns, since_ns=0)
