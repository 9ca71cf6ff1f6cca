"""What the downlink needs of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ds_gateway.commands import MqttMessage, SerialMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.commands import Delivery, Order, Progress


@dataclass(frozen=True, slots=True)
class GatewayMessage:
    """What a command to the gateway itself asks for: a verb of the control socket."""

    verb: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return " ".join([self.verb, *(f"{name}={value!r}" for name, value in self.arguments.items())])


Message = MqttMessage | SerialMessage | GatewayMessage


class Route(Protocol):
    """Where the commands of one device go."""

    @property
    def device(self) -> str:
        """The device's name."""
        ...  # pragma: no cover

    @property
    def source(self) -> str:
        """The broker or the port behind which it is."""
        ...  # pragma: no cover

    @property
    def delivery(self) -> Delivery:
        """Unless a command says otherwise."""
        ...  # pragma: no cover

    @property
    def expires_after_seconds(self) -> float:
        """Unless a command says otherwise."""
        ...  # pragma: no cover

    @property
    def max_rate(self) -> float | None:
        """Commands a second; None: any."""
        ...  # pragma: no cover

    def message(self, payload: Any) -> Message:
        """What is sent for a payload. Raises a ValueError, whose ``code`` says for programs what is wrong."""
        ...  # pragma: no cover


class Routes(Protocol):
    """All devices that take commands."""

    def route(self, device: str) -> Route:
        """Raises a ValueError that says why there is none."""
        ...  # pragma: no cover


class Target(Protocol):
    """A source that sends."""

    def send(self, order: Order, on_progress: Callable[[Progress], None]) -> None:
        """Queue an order. Any thread; never blocks. ``on_progress`` is called in the source's thread."""
        ...  # pragma: no cover
