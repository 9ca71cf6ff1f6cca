"""Hearing a source now, for ``ds-gateway capture`` and ``check --live``.

A port is held by one process: where a gateway runs it is asked for a tap, else the port is opened here, by the
same `SerialSource` (which asks what is to be asked), with nothing behind it. A broker has room for another client.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from ds_gateway import control
from ds_gateway.errors import ControlError, DeviceError
from ds_gateway.serial_port import SerialSource
from ds_gateway.serial_port.tap import Tap
from ds_gateway.tapping import heard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from ds_gateway.captures import Chunk
    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.records import Frame, Item

_LOOK_SECONDS: Final = 0.05
_OPEN_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 10.0


class Listener(Protocol):
    """Gives chunks in their order, with seconds since its beginning."""

    @property
    def trouble(self) -> str:
        """What is wrong now, for people; empty if nothing is."""
        ...  # pragma: no cover

    @property
    def is_away(self) -> bool:
        """The source itself is not there now: nothing of it can be heard."""
        ...  # pragma: no cover

    def take(self, timeout_seconds: float) -> Sequence[Chunk]:
        """What came; waits for so long at most if nothing did. Raises `GatewayError` when it is over."""
        ...  # pragma: no cover


class _Nowhere:
    """Takes everything and keeps nothing."""

    def offer(self, items: Sequence[Item]) -> bool:  # noqa: ARG002
        return True


def _no_record(_frame: Frame) -> None:
    """Nothing is made of frames here."""


class PortListener:
    """A port that no gateway holds. A context manager; `DeviceError` where it cannot be opened."""

    def __init__(self, name: str, settings: SerialSettings) -> None:
        self.trouble = ""
        """What is wrong now: it is unplugged, or devices do not answer."""
        self.is_away = False
        self._tap = Tap(time.monotonic())
        self._source = SerialSource(
            name, settings, pipeline=_no_record, intake=_Nowhere(), random=random.SystemRandom()
        )
        self._source.tap(self._tap)

    def __enter__(self) -> Self:
        self._source.start()
        deadline = time.monotonic() + _OPEN_SECONDS
        while (snapshot := self._source.snapshot()).state == "waiting":
            if snapshot.reason != "not started" or time.monotonic() > deadline:
                self._source.stop(_STOP_SECONDS)
                raise DeviceError(snapshot.reason)
            time.sleep(_LOOK_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.stop(_STOP_SECONDS)

    def take(self, timeout_seconds: float) -> Sequence[Chunk]:
        """See `Listener`."""
        chunks = _waited(self._tap.take, timeout_seconds)
        snapshot = self._source.snapshot()
        self.trouble, self.is_away = snapshot.reason, snapshot.state == "waiting"
        return chunks


class GatewayListener:
    """A port that a running gateway holds. A context manager; `ControlError` where it refuses, or ended."""

    def __init__(self, socket: Path, name: str) -> None:
        self.trouble = ""
        self.is_away = False
        self._socket = socket
        self._name = name
        self._number = 0

    def __enter__(self) -> Self:
        answer = self._ask(action="open", source=self._name)
        self._number = answer["tap"]
        self._look(answer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ControlError):
            self._ask(action="close", tap=self._number)

    def take(self, timeout_seconds: float) -> Sequence[Chunk]:
        """See `Listener`."""
        return _waited(self._take, timeout_seconds)

    def _take(self) -> Sequence[Chunk]:
        answer = self._ask(action="take", tap=self._number)
        self._look(answer)
        return heard(answer["chunks"])

    def _look(self, answer: Mapping[str, Any]) -> None:
        # A gateway that runs since before an update does not say whether it is away.
        self.trouble, self.is_away = answer["trouble"], answer.get("away", False)

    def _ask(self, **arguments: Any) -> dict[str, Any]:
        return control.call(self._socket, "tap", **arguments)


def running_gateway(sockets: Sequence[Path]) -> Path | None:
    """Where a gateway answers; None where none runs. Raises `ControlError` if it cannot be asked."""
    for path in sockets:
        try:
            control.call(path, "status")
        except control.NobodyThereError:
            continue
        return path
    return None


def _waited(take: Callable[[], Sequence[Chunk]], timeout_seconds: float) -> Sequence[Chunk]:
    deadline = time.monotonic() + timeout_seconds
    while not (chunks := take()) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(_LOOK_SECONDS, left))
    return chunks
