"""Waiting for one socket and a wake-up, with any number of open files (``select`` stops at 1,023)."""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ds_gateway.mqtt.wakeup import Wakeup


class Poller:
    """Network thread only."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._selector = selectors.DefaultSelector()
        self._wakeup = wakeup
        self._selector.register(wakeup.fileno(), selectors.EVENT_READ)
        self._watched = -1
        self._mask = 0

    def wait(self, descriptor: int, *, read: bool, write: bool, timeout_seconds: float) -> bool:
        """Wait until the descriptor is ready, or the wake-up is set, or time is over. Return if it is readable."""
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        self._watch(descriptor, mask)
        readable = False
        for key, events in self._selector.select(timeout_seconds):
            if key.fd == self._watched:
                readable = bool(events & selectors.EVENT_READ)
        self._wakeup.clear()
        return readable

    def forget(self) -> None:
        """Watch the wake-up only. Needed before the descriptor's number is used again."""
        self._watch(-1, 0)

    def close(self) -> None:
        """Close the selector."""
        self._selector.close()

    def _watch(self, descriptor: int, mask: int) -> None:
        if descriptor == self._watched and mask == self._mask:
            return
        if self._mask:
            # Harmless for a descriptor that is closed by now.
            self._selector.unregister(self._watched)
        self._watched, self._mask = descriptor, mask if descriptor >= 0 else 0
        if self._mask:
            self._selector.register(descriptor, self._mask)
