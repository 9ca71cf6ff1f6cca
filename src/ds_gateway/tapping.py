"""The control socket's verb ``tap``: a running gateway lets others hear what its ports read and write.

    {"verb": "tap", "action": "open", "source": "scale"}  -> {"tap": 1, "trouble": "", "away": false}
    {"verb": "tap", "action": "take", "tap": 1}           -> {"chunks": [...], "trouble": "", "away": false}
    {"verb": "tap", "action": "close", "tap": 1}          -> {}

A chunk is ``{"after": 1.5, "raw": ""}``; ``away``: the port itself is not there, so that nothing can be heard.
One that nobody asks for `EXPIRE_SECONDS` is closed: its asker may have been killed.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ds_gateway.captures import Chunk
from ds_gateway.errors import ControlError
from ds_gateway.logs import event, logger
from ds_gateway.serial_port.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_TAPS: Final = 4
EXPIRE_SECONDS: Final = 10.0

_log = logger("tapping")


class Tapped(Protocol):
    """A source with a port."""

    def tap(self, tap: Tap) -> None:
        """Begin to let it hear."""
        ...  # pragma: no cover

    def untap(self, tap: Tap) -> None:
        """Let it hear nothing more."""
        ...  # pragma: no cover

    def snapshot(self) -> Any:
        """With a ``state`` and a ``reason``."""
        ...  # pragma: no cover


@dataclass(slots=True)
class _Open:
    name: str
    source: Tapped
    tap: Tap
    expiry: asyncio.TimerHandle


class Taps:
    """All taps of one gateway. Used on its event loop; ``ports`` gives its serial sources by name."""

    def __init__(self, ports: Callable[[], Mapping[str, Tapped]], expire_seconds: float = EXPIRE_SECONDS) -> None:
        self._ports = ports
        self._expire_seconds = expire_seconds
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}

    def answer(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one request. Raises `ControlError`."""
        match arguments:
            case {"action": "open", "source": str(name)}:
                return self._begin(name)
            case {"action": "take", "tap": int(number)}:
                opened = self._find(number)
                opened.expiry.cancel()
                opened.expiry = self._expire(number)
                chunks = [told(chunk) for chunk in opened.tap.take()]
                return {"chunks": chunks, **_condition(opened.source)}
            case {"action": "close", "tap": int(number)}:
                self._close(number)
                return {}
            case _:
                raise ControlError("tap takes an action: open with source, take or close with tap")

    def _begin(self, name: str) -> Mapping[str, Any]:
        source = self._ports().get(name)
        if source is None:
            raise ControlError(f"the running gateway has no serial port {name!r}: reload it, if it is new")
        if len(self._open) >= MAX_TAPS:
            raise ControlError(f"{MAX_TAPS} captures run already: end one of them")
        number = next(self._numbers)
        tap = Tap(time.monotonic())
        self._open[number] = _Open(name, source, tap, self._expire(number))
        source.tap(tap)
        event(_log, "info", "serial.tap.opened", source=name)
        return {"tap": number, **_condition(source)}

    def _find(self, number: int) -> _Open:
        opened = self._open.get(number)
        if opened is None:
            raise ControlError(
                f"the gateway knows no tap {number}: it was started anew, or nobody asked for "
                f"{self._expire_seconds:g} s; capture again"
            )
        return opened

    def _expire(self, number: int) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._expire_seconds, self._close, number)

    def _close(self, number: int) -> None:
        opened = self._open.pop(number, None)
        if opened is not None:
            opened.expiry.cancel()
            opened.source.untap(opened.tap)
            event(_log, "info", "serial.tap.closed", source=opened.name)


def _condition(source: Tapped) -> dict[str, Any]:
    snapshot = source.snapshot()
    return {"trouble": snapshot.reason, "away": snapshot.state == "waiting"}


def told(chunk: Chunk) -> dict[str, Any]:
    """A chunk of a port as JSON."""
    if chunk.lost_bytes:
        return {"after": chunk.after_seconds, "lost": chunk.lost_bytes}
    return {
        "after": chunk.after_seconds,
        "sent" if chunk.is_sent else "raw": base64.b64encode(chunk.raw).decode(),
    }


def heard(chunks: Sequence[Mapping[str, Any]]) -> list[Chunk]:
    """The other way round."""
    return [
        Chunk(
            each["after"],
            base64.b64decode(each.get("raw") or each.get("sent") or ""),
            is_sent="sent" in each,
            lost_bytes=each.get("lost", 0),
        )
        for each in chunks
    ]
