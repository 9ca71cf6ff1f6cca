"""Where the page listens: its thread, and the tries until it has its address.

| state     | means                                                                              |
|-----------|------------------------------------------------------------------------------------|
| off       | `status.listen: off`                                                               |
| opening   | not tried yet                                                                      |
| listening | there is a page                                                                    |
| unheard   | there is none, and `reason` says why; tried again for ever, and all else goes on   |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self

from ds_gateway.config.addresses import reachable_host
from ds_gateway.logs import event, logger
from ds_gateway.page.inside import ANSWER_SECONDS, Asking

if TYPE_CHECKING:
    from types import TracebackType

    from ds_gateway.config.credential import Credential
    from ds_gateway.config.models import StatusSettings
    from ds_gateway.page.inside import Inside
    from durable_streams.server import ServerThread

_log = logger("page")

RETRY_SECONDS: Final = 3.0


class StatusPage:
    """The page of one gateway: an async context manager on its event loop. It never raises."""

    def __init__(
        self,
        settings: StatusSettings,
        inside: Inside,
        *,
        retry_seconds: float = RETRY_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._settings = settings
        self._inside = inside
        self._retry_seconds = retry_seconds
        self._answer_seconds = answer_seconds
        self._server: ServerThread | None = None
        self._url = ""
        self._reason = ""
        self._stop_asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._settings.address is not None:
            self._task = asyncio.create_task(self._run(*self._settings.address), name="status page")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_asked.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._drop()

    def summary(self) -> dict[str, Any]:
        """For ``status``."""
        if self._settings.address is None:
            state = "off"
        elif self._url:
            state = "listening"
        else:
            state = "unheard" if self._reason else "opening"
        return {"state": state, "url": self._url, "reason": self._reason}

    # -- the task

    async def _run(self, host: str, port: int) -> None:
        while not self._stop_asked.is_set():
            try:
                if self._server is None or not self._server.alive:
                    await self._drop()
                    await self._open()
                if self._server is not None and not self._url:
                    await self._listen(self._server, host, port)
            except Exception as error:  # noqa: BLE001 - supervision boundary: the gateway goes on without its page
                self._tell(f"defect: {error!r}", error)
            try:
                async with asyncio.timeout(self._retry_seconds):
                    await self._stop_asked.wait()
            except TimeoutError:
                continue

    async def _open(self) -> None:
        asking = Asking(self._inside, asyncio.get_running_loop(), answer_seconds=self._answer_seconds)
        self._server = await asyncio.to_thread(_started, asking, self._settings.token)

    async def _listen(self, server: ServerThread, host: str, port: int) -> None:
        try:
            await asyncio.to_thread(server.listen, host.strip("[]"), port)
        except OSError as error:
            self._tell(
                f"cannot listen on {host} port {port}: {error.strerror or error}; there is no status page "
                "meanwhile, all else goes on: free the port, or set status.listen to another address, or to off"
            )
        else:
            self._url, self._reason = f"http://{reachable_host(host)}:{port}/", ""
            event(_log, "info", "page.listening", url=self._url)

    async def _drop(self) -> None:
        server, self._server, self._url = self._server, None, ""
        if server is None:
            return
        try:
            await asyncio.to_thread(server.stop)
        except Exception as error:  # noqa: BLE001 - supervision boundary: it is over, however it ended
            event(_log, "warning", "page.ended", error=repr(error), exc=error)

    def _tell(self, reason: str, defect: Exception | None = None) -> None:
        if reason != self._reason:
            event(_log, "warning", "page.unheard", reason=reason, exc=defect)
        self._reason = reason


def _started(asking: Asking, token: Credential | None) -> ServerThread:
    # A server and a library for metrics: half a second on a small machine, which the gateway does not wait for.
    from ds_gateway.page.server import started  # noqa: PLC0415

    return started(asking, token)
