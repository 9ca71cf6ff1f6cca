"""Waiting for a condition instead of sleeping: every wait names what it waits for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_SECONDS = 0.01


def wait_until(predicate: Callable[[], object], *, timeout_seconds: float = 20.0, what: str) -> None:
    """Return as soon as the predicate holds; fail with ``what`` when the deadline passes first."""
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s in vain until {what}")
        pause.wait(_POLL_SECONDS)


async def await_until(predicate: Callable[[], object], *, timeout_seconds: float = 20.0, what: str) -> None:
    """As `wait_until`, on the running event loop."""
    deadline = time.monotonic() + timeout_seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s in vain until {what}")
        await anyio.sleep(_POLL_SECONDS)  # the poll of the condition, not a guess at its time
