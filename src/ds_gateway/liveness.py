"""Whether a thread makes progress: what the watchdog looks at."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESOLVE_SECONDS: Final = 50.0
"""Name resolution knows no timeout of its own; the resolver's defaults end within this."""


class Liveness:
    """Stamped by one thread, read by any."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._turned = monotonic()
        self._deadline = 0.0

    @property
    def alive_at(self) -> float:
        """When the thread last turned; now, while it waits for something outside and the deadline is not over."""
        return max(self._turned, min(self._deadline, self._monotonic()))

    def turn(self) -> None:
        """The loop turned."""
        self._turned = self._monotonic()

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """Cover a call that may block for so long."""
        self.turn()
        self._deadline = self._turned + seconds
        try:
            yield
        finally:
            self._deadline = 0.0
            self.turn()
