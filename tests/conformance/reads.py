"""What the adapter's reads collect, and when it is enough."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from conformance.fronts import following

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_streams import StreamEvent

Result = dict[str, Any]


class Collected:
    """What a read has brought so far, and when it is enough."""

    def __init__(self, command: Mapping[str, Any], offset: str) -> None:
        self.chunks: list[Result] = []
        self.offset = offset
        self.up_to_date = False
        self._live = bool(command.get("live", False))
        self._maximum = command.get("maxChunks")
        self._until_up_to_date = command.get("waitForUpToDate", False)

    async def collect(self, response: Any, *, until: float) -> None:
        """Take events until it is enough, the stream ends, or a live read's time is up."""
        events = response.iter_events(_event_mode(response.content_type or ""))
        while (event := await following(events)) is not None:
            self._add(event)
            if self._enough or (self._live and time.monotonic() >= until):
                return

    def _add(self, event: StreamEvent[Any]) -> None:
        self.offset, self.up_to_date = event.next_offset, event.up_to_date
        if event.data:
            self.chunks.append(_chunk(event))

    @property
    def _enough(self) -> bool:
        if self._maximum is not None and len(self.chunks) >= self._maximum:
            return True
        if not self._live or not self.up_to_date:
            return False
        # A live read that asks for nothing in particular ends with the data that was there, or the first to come.
        return self._until_up_to_date or (self._maximum is None and bool(self.chunks))


def _event_mode(content_type: str) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return "json"
    return "text" if kind.startswith("text/") else "bytes"


def _chunk(event: StreamEvent[Any]) -> Result:
    data, offset = event.data, event.next_offset
    if isinstance(data, bytes):
        try:
            return {"data": data.decode(), "offset": offset}
        except UnicodeDecodeError:
            return {"data": base64.b64encode(data).decode(), "binary": True, "offset": offset}
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return {"data": text, "offset": offset}
