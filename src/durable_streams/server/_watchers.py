"""Who waits for which stream: the live reads."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


class Watchers:
    """The waiting readers of one event loop. Used from that loop only."""

    def __init__(self) -> None:
        self._events: dict[int, set[asyncio.Event]] = {}
        self._stopped = False

    @contextmanager
    def watch(self, stream_id: int) -> Generator[asyncio.Event]:
        """An event that is set at every change of the stream from now on, and once waiting must end."""
        event = asyncio.Event()
        if self._stopped:
            event.set()
        events = self._events.setdefault(stream_id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events and self._events.get(stream_id) is events:
                del self._events[stream_id]

    def changed(self, stream_ids: Iterable[int]) -> None:
        """Wake those who wait for one of these streams."""
        for stream_id in stream_ids:
            for event in self._events.get(stream_id, ()):
                event.set()

    def stop(self) -> None:
        """Wake everybody; nobody waits from now on."""
        self._stopped = True
        self.changed(tuple(self._events))

    @property
    def stopped(self) -> bool:
        """Whether waiting has ended."""
        return self._stopped

    @property
    def waiting(self) -> int:
        """How many readers wait."""
        return sum(len(events) for events in self._events.values())
