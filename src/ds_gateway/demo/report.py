"""What came out of a run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds_gateway.demo.audit import DeviceAudit


@dataclass(frozen=True, slots=True)
class Done:
    """What was done to the parts."""

    kills: int = 0
    """``kill -9`` of the gateway."""
    server_outage_seconds: float = 0.0
    broker_restarts: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A run and its audit."""

    seconds: int
    broker: bool
    """Whether there was a broker, and so MQTT sensors."""
    devices: tuple[DeviceAudit, ...]
    done: Done
    problems: tuple[str, ...] = ()
    """What else was wrong: a device that sent nothing, a gateway that did not end well."""

    @property
    def sent(self) -> int:
        """Readings that all devices sent."""
        return sum(device.sent for device in self.devices)

    @property
    def ok(self) -> bool:
        """Whether something was sent, everything arrived exactly once and in order, and nothing else was wrong."""
        return self.sent > 0 and not self.problems and all(device.is_exact for device in self.devices)

    def document(self) -> dict[str, Any]:
        """As JSON values. The shape is public: keys may be added, none is renamed or removed."""
        return {
            "ok": self.ok,
            "seconds": self.seconds,
            **_counts(self.devices),
            "kills": self.done.kills,
            "server_outage_seconds": round(self.done.server_outage_seconds, 3),
            "broker_restarts": self.done.broker_restarts,
            "broker": self.broker,
            "devices": {device.device: _counts((device,)) for device in self.devices},
            "problems": list(self.problems),
        }


def _counts(devices: tuple[DeviceAudit, ...]) -> dict[str, int]:
    return {
        "sent": sum(device.sent for device in devices),
        "in_stream": sum(device.in_stream for device in devices),
        "lost": sum(len(device.lost) for device in devices),
        "duplicated": sum(len(device.duplicated) for device in devices),
        "out_of_order": sum(len(device.out_of_order) for device in devices),
    }
