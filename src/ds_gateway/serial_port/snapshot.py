"""What is known of a serial port at one instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SerialSnapshot:
    """What is known of a port at one instant. Counters are since the start."""

    state: Literal["waiting", "open"] = "waiting"
    reason: str = "not started"
    """Why it is waiting, for an operator; empty while it is open."""
    received_frames: int = 0
    received_bytes: int = 0
    answers: int = 0
    """Those of the received frames that were answers to commands, and no readings."""
    orders_waiting: int = 0
    """Commands that were not written yet, or wait to be written again."""
    orders_unacknowledged: int = 0
    """Commands that are being written, or whose answer is waited for: one at most."""
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
