"""An event loop in which hours pass as fast as there is something to do: sleeping costs nothing."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_R = TypeVar("_R")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock goes on when it would wait. For what waits for nothing else: no threads, no sockets."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now = 1000.0

    def time(self) -> float:
        """Seconds, as they are pretended."""
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """Look what is ready, and let the time pass that was to be waited for."""
        found = super().select(0)
        if not found and timeout:
            self._loop.now += timeout
        return found


def run(main: Coroutine[Any, Any, _R], loop: VirtualLoop) -> _R:
    """Run to the end."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
