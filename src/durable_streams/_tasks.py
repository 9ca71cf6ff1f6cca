"""Tasks that outlive the call that started them, on asyncio and on trio.

A task group would tie them to a block of the caller's code; what sends a handle's appends or a producer's batches
must go on when the call that happened to start it is cancelled. Neither loop has a common word for that.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_RUNNING: Final[set[asyncio.Task[None]]] = set()
"""asyncio itself holds its tasks weakly."""


class BackgroundTask:
    """A task that was started by `spawn`."""

    def __init__(self, on_end: Callable[[], object]) -> None:
        self._on_end = on_end
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self.done = False
        """Whether it has ended, in whatever way."""

    def cancel(self) -> None:
        """Ask it to end; `wait` tells when it has."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Be the task; called once, by `spawn`."""
        try:
            with self._scope:
                await function()
        finally:
            self.end()

    def end(self) -> None:
        """Take note that it has ended. Only the first call counts."""
        if not self.done:
            self.done = True
            try:
                self._on_end()
            finally:
                self._ended.set()


def _nothing() -> None:
    pass


def spawn(
    function: Callable[[], Awaitable[None]], *, name: str, on_end: Callable[[], object] = _nothing
) -> BackgroundTask:
    """Start a task. ``function`` handles its own errors: there is nobody whom an exception could reach.

    ``on_end`` is called when the task has ended, in whatever way: also if it was cancelled before it began.

    Raises RuntimeError when no event loop runs.
    """
    trio = None if _on_asyncio() else sys.modules.get("trio")
    if trio is None:
        loop = asyncio.get_running_loop()  # raises what the caller should see
        task = BackgroundTask(on_end)
        running = loop.create_task(task.run(function), name=name)
        _RUNNING.add(running)
        running.add_done_callback(_RUNNING.discard)
        running.add_done_callback(lambda _: task.end())  # what is cancelled at once never runs, nor its `finally`
        return task
    trio.lowlevel.current_trio_token()  # raises RuntimeError outside of trio's loop
    task = BackgroundTask(on_end)
    trio.lowlevel.spawn_system_task(task.run, function, name=name)
    return task


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
