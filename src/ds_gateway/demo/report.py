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
class Commanded:
    """A command to the scale, as its receipts tell."""

    name: str
    status: str = ""
    """Of its last receipt; empty without one."""
    is_final: bool = False
    told: str = ""
    """The last that was said of it, for people."""

    @property
    def is_done(self) -> bool:
        """Whether the scale answered that it did it."""
        return self.is_final and self.status == "acknowledged"


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
    commands: tuple[Commanded, ...] = ()
    executed: int = 0
    """How often the scale did what a command says, as it counts."""

    @property
    def sent(self) -> int:
        """Readings that all devices sent."""
        return sum(device.sent for device in self.devices)

    @property
    def ok(self) -> bool:
        """Whether something was sent, everything arrived exactly once and in order, and nothing else was wrong."""
        return self.sent > 0 and not self.all_problems and all(device.is_exact for device in self.devices)

    @property
    def commands_done(self) -> int:
        """Commands that the scale acknowledged."""
        return sum(command.is_done for command in self.commands)

    @property
    def all_problems(self) -> tuple[str, ...]:
        """The problems, and commands that were not done exactly once."""
        undone = [
            f"{command.name} {'was not done' if command.is_final else 'has no final receipt'}: {command.told}"
            for command in self.commands
            if not command.is_done
        ]
        if self.executed > len(self.commands):
            undone.append(f"the scale was tared {self.executed} times by {len(self.commands)} commands")
        elif self.executed < self.commands_done:
            undone.append(
                f"{self.commands_done} commands are acknowledged, and the scale knows of {self.executed}"
            )
        return (*self.problems, *undone)

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
            "commands": len(self.commands),
            "commands_done": self.commands_done,
            "problems": list(self.all_problems),
        }


def _counts(devices: tuple[DeviceAudit, ...]) -> dict[str, int]:
    return {
        "sent": sum(device.sent for device in devices),
        "in_stream": sum(device.in_stream for device in devices),
        "lost": sum(len(device.lost) for device in devices),
        "duplicated": sum(len(device.duplicated) for device in devices),
        "out_of_order": sum(len(device.out_of_order) for device in devices),
    }
