"""The status page on a real port, beside an event loop that stands for a gateway's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self

from ds_gateway.config.credential import Credential
from ds_gateway.config.models import StatusSettings
from ds_gateway.page import Inside, StatusPage
from ds_gateway.page.inside import ANSWER_SECONDS
from harness.ports import free_port
from harness.statuses import well
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from durable_streams.server import ServerThread


class PageRig:
    """A page, and what it is told: a test changes ``status``, ``stalled`` and ``why_not_ready`` as it likes."""

    def __init__(
        self,
        *,
        token: str | Credential | None = None,
        port: int | None = None,
        listen: str = "",
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.status: Callable[[], Mapping[str, Any]] = well
        self.stalled: list[str] = []
        self.why_not_ready = ""
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        secret = Credential(token) if isinstance(token, str) else token
        settings = StatusSettings.model_validate({"listen": listen or f"127.0.0.1:{self.port}", "token": secret})
        inside = Inside(self._status, lambda: self.stalled, lambda: self.why_not_ready)
        self._make: Callable[[], StatusPage] = lambda: StatusPage(
            settings, inside, retry_seconds=0.05, answer_seconds=answer_seconds
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gateway loop")
        self._stop_asked = asyncio.Event()
        self.page: StatusPage | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.summary()["state"] in {"listening", "unheard", "off"}, what="the page was tried")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop_asked.set)
            self._thread.join()

    def summary(self) -> dict[str, Any]:
        """What the status says of the page."""
        return {"state": ""} if self.page is None else self.page.summary()

    @property
    def server(self) -> ServerThread | None:
        """The page's own thread, now; None while there is none."""
        return None if self.page is None else self.page._server

    @property
    def connections(self) -> int:
        """How many are open."""
        return 0 if self.server is None else len(self.server._connections)

    def hang_up(self) -> None:
        """Break the connections that a browser keeps for its next request."""
        if self.server is not None:
            self.server._loop.call_soon_threadsafe(self.server._connections.abort_all)
            wait_until(lambda: self.connections == 0, what="all connections are gone")

    @contextlib.contextmanager
    def stuck(self) -> Iterator[None]:
        """The gateway's event loop does not turn."""
        is_stuck, may_go_on = threading.Event(), threading.Event()

        def block() -> None:
            is_stuck.set()
            may_go_on.wait()

        self._loop.call_soon_threadsafe(block)
        is_stuck.wait()
        try:
            yield
        finally:
            may_go_on.set()

    def _status(self) -> Mapping[str, Any]:
        return self.status()  # the one of this moment

    def _run(self) -> None:
        def loop() -> asyncio.AbstractEventLoop:
            return self._loop

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self.page = self._make()
        async with self.page:
            await self._stop_asked.wait()
