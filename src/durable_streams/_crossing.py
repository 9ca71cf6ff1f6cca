"""From threads to event loops: a coroutine waits for what a thread will say, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")


async def outcome_of(future: Future[T]) -> T:
    """Wait for a future that a thread completes. Giving up leaves the future as it is: nothing is cancelled."""
    if not future.done():
        done = anyio.Event()
        call = caller()
        future.add_done_callback(lambda _: call(done.set))
        await done.wait()
    return future.result()


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
