"""Waiting for a condition instead of sleeping: every wait names what it waits for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

# To look is work for both sides: what lasts is looked at less often. A pause is a tenth of the time so far.
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.05


def _pause_seconds(waited_seconds: float) -> float:
    return min(max(waited_seconds / 10, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)


def wait_until(predicate: Callable[[], object], *, timeout_seconds: float = 20.0, what: str) -> None:
    """Return as soon as the predicate holds; fail with ``what`` when the deadline passes first."""
    began = time.monotonic()
    pause = threading.Event()
    while not predicate():
        waited = time.monotonic() - began
        if waited > timeout_seconds:
            raise AssertionError(f"waited {timeout_seconds} s in vain until {what}")
        pause.wait(_pause_seconds(waited))


async def await_until(predicate: Callable[[], object], *, timeout_seconds: float = 20.0, what: str) -> None:
    """As `wait_until`, on the running event loop."""
    began = time.monotonic()
    while not predicate():
        waited = time.monotonic() - began
        if waited > timeout_seconds:
            raise AssertionError(f"waited {timeout_seconds} s in vain until {what}")
        await anyio.sleep(_pause_seconds(waited))  # the poll of the condition, not a guess at its time
