"""What is known of a serial port at one instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ds_gateway.serial_port.polls import PollCounters
    from ds_gateway.serial_port.uart import UartCounters


@dataclass(frozen=True, slots=True)
class SerialSnapshot:
    """What is known of a port at one instant. Counters are since the start."""

    state: Literal["waiting", "open", "alarm"] = "waiting"
    """alarm: it is open, and something is wrong."""
    reason: str = "not started"
    """Why it is waiting, or what is wrong, for an operator; empty while it is open and all is well."""
    received_frames: int = 0
    received_bytes: int = 0
    answers: int = 0
    """Those of the received frames that were answers to commands, and no readings."""
    orders_waiting: int = 0
    """Commands that were not written yet, or wait to be written again."""
    orders_unacknowledged: int = 0
    """Commands that are being written, or whose answer is waited for: one at most."""
    unasked: int = 0
    """Those that answered nothing, on a port whose devices only answer: dropped."""
    overlong: int = 0
    """Frames discarded because they were longer than allowed."""
    bad_checks: int = 0
    """Frames discarded because they were damaged."""
    resyncs: int = 0
    """How often bytes that are part of no frame were skipped."""
    overflow_lost: int = 0
    """Readings lost because the journal's queue was full."""
    last_frame_time_ns: int | None = None
    """UTC, nanoseconds since 1970."""
    reopens: int = 0
    """How often the port was opened after the first time."""
    alarms: tuple[str, ...] = ()
    """What is wrong though it is open, for an operator: silence, no answers, nothing that can be read."""
    silent: bool = False
    """Whether one of the alarms is silence."""
    unreadable: bool = False
    """Whether one of the alarms is that nothing of what comes can be read."""
    polls: PollCounters | None = None
    """None where nothing is asked."""
    uart: UartCounters | None = None
    """What the line's driver counted since the start; None where it does not count."""
