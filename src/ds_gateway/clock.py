"""Whether this machine's clock can be trusted: what the kernel says, or systemd's time service.

A box without a battery boots in the past. While its clock is not synchronised, nobody knows how old a command is.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Final

TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the clock is not synchronised."""
STA_UNSYNC: Final = 0x40
SYSTEMD_MARK: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes it at the first synchronisation after the boot."""
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
