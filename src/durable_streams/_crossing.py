"""From threads to event loops: a coroutine waits for what a thread will say, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams._outcome import Outcome

T = TypeVar("T")


async def outcome_of(outcome: Outcome[T]) -> T:
    """Wait for what a thread will say. Giving up leaves it as it is: nothing is cancelled."""
    await said(outcome)
    return outcome.result()


async def said(outcome: Outcome[Any]) -> None:
    """Wait until a thread has said it, whatever it says."""
    if outcome.done():
        return
    done = anyio.Event()
    call = caller()

    def wake() -> None:
        call(done.set)

    outcome.add_done_callback(wake)
    try:
        await done.wait()
    finally:
        outcome.remove_done_callback(wake)


def caller() -> Callable[[Callable[[], object]], None]:
    """Return what calls a function on the running loop, soon, from any thread. Does nothing once that loop ended.

    Raises RuntimeError when no event loop runs.
    """
    trio = sys.modules.get("trio")
    try:
        soon = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        if trio is None:
            raise
        soon = trio.lowlevel.current_trio_token().run_sync_soon

    def call(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            soon(function)

    return call
