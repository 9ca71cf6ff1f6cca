"""What a UART's driver counts: bytes that nobody took in time, and those that were no bytes. `TIOCGICOUNT`."""

from __future__ import annotations

import fcntl
import struct
from dataclasses import dataclass
from typing import Final, Self

_TIOCGICOUNT: Final = 0x545D
_LAYOUT: Final = struct.Struct("=20i")
"""serial_icounter_struct: cts dsr rng dcd rx tx frame overrun parity brk buf_overrun, nine reserved."""


@dataclass(frozen=True, slots=True)
class UartCounters:
    """Errors of a line. A driver's own count goes on while the port is closed, and begins anew when replugged."""

    framing: int = 0
    """Bytes without a stop bit: noise, or another baud rate."""
    parity: int = 0
    breaks: int = 0
    overrun: int = 0
    """Bytes that the chip dropped, because the driver did not take them in time."""
    buffer_overrun: int = 0
    """Bytes that the driver dropped, because this process did not read them in time."""

    def since(self, before: Self) -> UartCounters:
        """What came on top; a counter that is smaller than before has begun anew."""

        def more(now: int, then: int) -> int:
            return now - then if now >= then else now

        return UartCounters(
            framing=more(self.framing, before.framing),
            parity=more(self.parity, before.parity),
            breaks=more(self.breaks, before.breaks),
            overrun=more(self.overrun, before.overrun),
            buffer_overrun=more(self.buffer_overrun, before.buffer_overrun),
        )

    def plus(self, other: UartCounters) -> UartCounters:
        """Both together."""
        return UartCounters(
            framing=self.framing + other.framing,
            parity=self.parity + other.parity,
            breaks=self.breaks + other.breaks,
            overrun=self.overrun + other.overrun,
            buffer_overrun=self.buffer_overrun + other.buffer_overrun,
        )


def read_counters(descriptor: int) -> UartCounters | None:
    """What the driver has counted; None where it does not, as that of a pseudo-terminal or a socket."""
    try:
        raw = fcntl.ioctl(descriptor, _TIOCGICOUNT, bytes(_LAYOUT.size))
    except OSError:
        return None
    _cts, _dsr, _rng, _dcd, _rx, _tx, framing, overrun, parity, breaks, buffer_overrun, *_ = _LAYOUT.unpack(raw)
    return UartCounters(framing, parity, breaks, overrun, buffer_overrun)
