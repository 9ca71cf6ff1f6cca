"""A stream server in memory whose pages can be made to fall differently, and its events refused, while it runs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs

from durable_streams.server import Limits, MemoryStore, ServerThread, StreamApp

if TYPE_CHECKING:
    from types import TracebackType

    from durable_streams.server._http import Message, Receive, Scope, Send

_LARGE_BYTES = 1024 * 1024
_LONG_POLL_SECONDS = 0.5


class PagingServer:
    """``page_bytes`` is 1 (each append is a page of its own) or large; ``serves_events``: whether it has SSE."""

    def __init__(self) -> None:
        self.page_bytes = _LARGE_BYTES
        self.serves_events = True
        self.served: Counter[str] = Counter()
        """Reads: ``page``, ``long-poll`` and ``sse``, each with its size: ``page 1``."""
        store = MemoryStore()
        self._apps = {
            size: StreamApp(store, limits=Limits(page_bytes=size, long_poll_timeout_seconds=_LONG_POLL_SECONDS))
            for size in (1, _LARGE_BYTES)
        }
        self._thread = ServerThread(self)
        self.base_url = ""

    def fall(self, *, small_pages: bool, events: bool) -> None:
        """From now on pages fall like this."""
        self.page_bytes = 1 if small_pages else _LARGE_BYTES
        self.serves_events = events

    def __enter__(self) -> Self:
        self._thread.start()
        self.base_url = f"{self._thread.listen()}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop()

    # -- the application, on the server's loop

    async def start(self) -> None:
        """See `durable_streams.server.ServerThread`."""
        await self._apps[1].start()

    def stop_waiting(self) -> None:
        """See `start`."""
        for app in self._apps.values():
            app.stop_waiting()

    async def close(self) -> None:
        """See `start`."""
        await self._apps[1].close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "GET":
            live = parse_qs(scope["query_string"].decode()).get("live", ["page"])[0]
            if live == "sse" and not self.serves_events:
                start: Message = {"type": "http.response.start", "status": 400, "headers": []}
                await send(start)
                await send({"type": "http.response.body", "body": b"no events here"})
                return
            self.served[f"{live} {self.page_bytes}"] += 1
        await self._apps[self.page_bytes](scope, receive, send)
