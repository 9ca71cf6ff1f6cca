"""Counts what one loss record stands for. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from ds_gateway.records import Loss, control_info

if TYPE_CHECKING:
    from ds_gateway.records import LossCause

MAX_DEVICES: Final = 20
"""Devices that a loss record names with their counts. Its own count is exact, however many there are."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(slots=True)
class Tally:
    """What is lost from a position on: how many, whose, and from when to when."""

    cause: str
    first_position: int
    last_position: int
    count: int = 0
    """Records. Positions between the first and the last may be in the stream, if they were sent before."""
    first_ns: int | None = None
    last_ns: int | None = None
    devices: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    """Those of ``count`` that were lost for another cause before."""
    detail: str = ""
    certain: bool = True
    """Whether none of them can be in the stream."""

    def add(self, device: str, position: int, time_ns: int | None) -> None:
        """Count a record of a device."""
        self.count += 1
        self.last_position = position
        if device:
            self._add_device(device, 1)
        if time_ns is not None:
            self._add_time(time_ns)

    def add_loss(self, info: dict[str, Any]) -> None:
        """Take over what a loss record stood for."""
        total = info.get("count", info["last_position"] - info["first_position"] + 1)
        self.count += total
        self.last_position = info["last_position"]
        self.certain = self.certain and info.get("certain", True)
        others = dict(info.get("others", {}))
        others[info["cause"]] = total - sum(others.values())
        for cause, count in others.items():
            if cause != self.cause and count:
                self.others[cause] = self.others.get(cause, 0) + count
        for device, count in info.get("devices", {}).items():
            self._add_device(device, count)
        self._add_time(nanoseconds(info["first_time"]))
        self._add_time(nanoseconds(info["last_time"]))

    def _add_device(self, device: str, count: int) -> None:
        self.devices[device] = self.devices.get(device, 0) + count
        if len(self.devices) >= 2 * MAX_DEVICES:
            self.devices = _most(self.devices)

    def _add_time(self, time_ns: int) -> None:
        self.first_ns = time_ns if self.first_ns is None else min(self.first_ns, time_ns)
        self.last_ns = time_ns if self.last_ns is None else max(self.last_ns, time_ns)

    def loss(self, now_ns: int) -> Loss:
        """As the ledger has it. ``now_ns`` stands in for times that nobody knows."""
        return Loss(
            cause=cast("LossCause", self.cause),
            certain=self.certain,
            count=self.count,
            first_ns=now_ns if self.first_ns is None else self.first_ns,
            last_ns=now_ns if self.last_ns is None else self.last_ns,
            detail=self.detail,
            devices=_most(self.devices),
            others=self.others,
        )


def _most(devices: dict[str, int]) -> dict[str, int]:
    most = sorted(devices.items(), key=lambda each: (-each[1], each[0]))
    return dict(most[:MAX_DEVICES])


def nanoseconds(text: str) -> int:
    """The instant that `ds_gateway.records.rfc3339` wrote, since 1970. Raises ValueError."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND * 1000


def add_element(tally: Tally, element: bytes, position: int) -> tuple[str, bool]:
    """Count one record of a segment; return its kind and whether it is a loss record that is taken over."""
    try:
        message = orjson.loads(element)
    except ValueError:  # a number that only the reader of the payload could take
        tally.add("", position, None)
        return "", False
    kind = str(message.get("kind", ""))
    info = control_info(message, "loss")
    if info.get("first_position") == position:
        tally.add_loss(info)
        return kind, True
    try:
        time_ns: int | None = nanoseconds(message.get("received") or message["time"])
    except (KeyError, TypeError, ValueError):
        time_ns = None
    device = message.get("device")
    tally.add(device if isinstance(device, str) else "", position, time_ns)
    return kind, False
