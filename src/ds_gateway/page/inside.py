"""What the page asks the gateway, from its own thread: answered on the gateway's event loop, or not at all."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_R = TypeVar("_R")

ANSWER_SECONDS: Final = 5.0
"""How long the gateway's event loop may take for a turn before it is called silent."""
FRESH_SECONDS: Final = 0.5
"""So long the same status is good for everybody: many who look do not make the gateway look more often."""


class SilentError(Exception):
    """The gateway's event loop does not turn."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What can be asked. Each is called on the gateway's event loop, and must not block."""

    status: Callable[[], Mapping[str, Any]]
    """The status document."""
    stalled: Callable[[], Sequence[str]]
    """Parts that should have turned and have not: those that the watchdog starves for."""
    why_not_ready: Callable[[], str]
    """Why the gateway is not up, as the service manager was told it; empty when it is."""


class Asking:
    """Asks. Belongs to the page's event loop; ``gateway_loop`` is another one, in another thread."""

    def __init__(
        self, inside: Inside, gateway_loop: asyncio.AbstractEventLoop, *, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._inside = inside
        self._loop = gateway_loop
        self._answer_seconds = answer_seconds
        self._status: asyncio.Task[Mapping[str, Any]] | None = None
        self._status_at = 0.0

    async def status(self) -> Mapping[str, Any]:
        """The status document, at most `FRESH_SECONDS` old. Raises `SilentError`, or whatever made it fail."""
        task = self._status
        is_fresh = task is not None and (
            not task.done() or (time.monotonic() - self._status_at < FRESH_SECONDS and not task.exception())
        )
        if task is None or not is_fresh:
            task = self._status = asyncio.create_task(self._new_status())
        # Whoever asked first may go away; the others still wait for the answer.
        return await asyncio.shield(task)

    async def stalled(self) -> Sequence[str]:
        """See `Inside.stalled`. Raises `SilentError`."""
        return await self._ask(self._inside.stalled)

    async def why_not_ready(self) -> str:
        """See `Inside.why_not_ready`. Raises `SilentError`."""
        return await self._ask(self._inside.why_not_ready)

    async def _new_status(self) -> Mapping[str, Any]:
        document = await self._ask(self._inside.status)
        self._status_at = time.monotonic()
        return document

    async def _ask(self, question: Callable[[], _R]) -> _R:
        answer: Future[_R] = Future()

        def work() -> None:
            if not answer.set_running_or_notify_cancel():
                return  # nobody waits any more
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001 - told to whoever asked, who tells it
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # it is closed: the gateway has ended
            raise SilentError("the gateway has ended") from None
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            seconds = f"{self._answer_seconds:g} s"
            raise SilentError(
                f"the gateway's event loop has not turned for {seconds}; its log says what it does"
            ) from None
