"""Routes, devices and commands for the downlink's tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ds_gateway.commands import MqttMessage
from ds_gateway.records import NANOSECONDS

if TYPE_CHECKING:
    from ds_gateway.commands import Delivery

START_NS = 1_772_366_400 * NANOSECONDS  # 2026-03-01T12:00:00Z


class NoRouteError(ValueError):
    """As the mapping's: it has no code of its own."""


class BadPayloadError(ValueError):
    """As the mapping's."""

    code = "bad_payload"


@dataclass(frozen=True)
class FakeRoute:
    device: str
    source: str = "hall"
    delivery: Delivery = "at_least_once"
    expires_after_seconds: float = 60.0
    max_rate: float | None = None

    def message(self, payload: Any) -> MqttMessage:
        if payload == "bad":
            raise BadPayloadError("the payload is bad")
        return MqttMessage(f"{self.device}/set", json.dumps(payload).encode())


@dataclass
class FakeRoutes:
    """Every device whose name begins with d has a route; the others have none."""

    known: dict[str, FakeRoute] = field(default_factory=dict)

    def route(self, device: str) -> FakeRoute:
        if device in self.known:
            return self.known[device]
        if not device.startswith("d"):
            raise NoRouteError(f"there is no device {device!r}")
        return FakeRoute(device)


def element(device: str = "d", payload: Any = 1, **more: Any) -> bytes:
    return json.dumps({"device": device, "payload": payload} | more).encode()
