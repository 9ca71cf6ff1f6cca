"""A command that tares the scale: sent as ``ds-gateway send`` does it, from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from ds_gateway.demo.report import Commanded
from ds_gateway.demo.setup import SCALE
from ds_gateway.dialogue import Dialogue
from ds_gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ds_gateway.dialogue import Address

_TURN_SECONDS: Final = 0.05
_MAX_EXPIRY_SECONDS: Final = 86400.0


class Tare:
    """Given, and dated, when the context begins; it goes into the stream as soon as the server can be reached."""

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        server_is_there: Callable[[], bool],
        expires_after_seconds: float,
        timeout_seconds: float,
    ) -> None:
        """``server_is_there`` is called in the thread.

        ``timeout_seconds`` is the longest wait for the last receipt, once the command is in the stream.
        """
        self.name = name
        self._server_is_there = server_is_there
        self._timeout_seconds = timeout_seconds
        command = {
            "id": name,
            "device": SCALE,
            "payload": None,
            "issued_at": datetime.fromtimestamp(time.time(), UTC).isoformat(),
            "expires_after": min(expires_after_seconds, _MAX_EXPIRY_SECONDS),
        }
        self._dialogue = Dialogue(address, command, say=self._note, warn=self._note)
        self._said: deque[str] = deque()
        self._last = "it was not sent"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"demo-{name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to wait for: the last receipt came, or it does not come."""
        return not self._thread.is_alive()

    def take_said(self) -> list[str]:
        """What was told of it since the last call, oldest first."""
        return [self._said.popleft() for _ in range(len(self._said))]

    def outcome(self) -> Commanded:
        """What became of it, when it `has_ended`."""
        receipts: list[dict[str, Any]] = self._dialogue.document()["receipts"]
        if not receipts:
            return Commanded(self.name, told=self._last)
        last = receipts[-1]
        return Commanded(self.name, str(last.get("status")), last.get("final") is True, self._last)

    def _note(self, text: str) -> None:
        self._last = text
        self._said.append(text)

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except GatewayError as error:
            self._note(str(error))

    async def _send(self) -> None:
        while not self._server_is_there():
            if self._stopping.is_set():
                return
            await asyncio.sleep(_TURN_SECONDS)
        sending = asyncio.create_task(self._dialogue.run(self._timeout_seconds, is_waiting=True))
        while not (await asyncio.wait({sending}, timeout=_TURN_SECONDS))[0]:
            if self._stopping.is_set():
                sending.cancel()
                return
        await sending
