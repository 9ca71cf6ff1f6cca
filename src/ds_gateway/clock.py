"""This machine's clocks, and whether they can be trusted: what the kernel says, or systemd's time service.

A box without a battery boots in the past. While its clock is not synchronised, nobody knows how old a command is.
"""

from __future__ import annotations

import ctypes
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the clock is not synchronised."""
STA_UNSYNC: Final = 0x40
SYSTEMD_MARK: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes it at the first synchronisation after the boot."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TOGETHER_NS: Final = 1_000_000
"""Two clocks that are read within so long are read at one instant."""
_ATTEMPTS: Final = 10
_TIMEX_BYTES: Final = 512
"""More than ``struct timex`` has anywhere."""
_STATUS_PLACE: Final = 5
"""``modes`` (with its padding), ``offset``, ``freq``, ``maxerror``, ``esterror``, then ``status``: in longs."""


def is_synchronised(*, mark: Path = SYSTEMD_MARK) -> bool:
    """Whether the clock is synchronised, as far as the machine knows."""
    return kernel_says() or mark.exists()


def kernel_says() -> bool:
    """Ask the kernel; False where it cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return False
    timex = (ctypes.c_long * (_TIMEX_BYTES // ctypes.sizeof(ctypes.c_long)))()
    state = adjtimex(ctypes.byref(timex))  # all zero: modes = 0 changes nothing
    if state < 0:
        return False
    return judged(state, status_of(bytes(timex)))


def status_of(timex: bytes) -> int:
    """The member ``status`` of a ``struct timex``."""
    place = _STATUS_PLACE * ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(timex[place : place + 4], sys.byteorder)


def judged(state: int, status: int) -> bool:
    """What the kernel's answer means."""
    return state != TIME_ERROR and not status & STA_UNSYNC


@dataclass(frozen=True, slots=True)
class Instant:
    """One instant on two clocks, in nanoseconds."""

    wall_ns: int
    """UTC, since 1970; it can be set."""
    boot_ns: int
    """Since the machine's boot, suspended times included; nobody can set it."""


def boot_ns() -> int:
    """Nanoseconds since the boot; no system call on usual machines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def instant() -> Instant:
    """Read both clocks. A thread that is stopped in between reads again: it would look as if a clock was set."""
    taken: list[tuple[int, Instant]] = []
    for _ in range(_ATTEMPTS):
        before = boot_ns()
        wall_ns = time.time_ns()
        after = boot_ns()
        taken.append((after - before, Instant(wall_ns, (before + after) // 2)))
        if after - before < _TOGETHER_NS:
            break
    return min(taken, key=lambda each: each[0])[1]


def boot_id(file: Path = BOOT_ID) -> str:
    """Which boot of the machine this is; where it does not say, one that nobody has had."""
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return uuid.uuid4().hex
