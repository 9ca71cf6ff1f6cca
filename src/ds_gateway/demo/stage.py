"""Sets the stage: a stream server, a broker, the gateway, its devices, each with its configuration."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.config.commands import DownlinkSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.demo.parts import DemoError, Part, accepts, environment, free_port, python_module
from ds_gateway.demo.scale import Scale
from ds_gateway.demo.sensors import MqttSensor
from ds_gateway.demo.setup import (
    GATEWAY_ID,
    HALL,
    SCALE,
    SENSORS,
    Ports,
    broker_configuration,
    gateway_configuration,
    server_url,
    topic,
)
from ds_gateway.demo.watch import Watch
from ds_gateway.dialogue import Address

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

SENSOR_INTERVAL_SECONDS: Final = 0.025
SCALE_INTERVAL_SECONDS: Final = 0.1
START_SECONDS: Final = 60.0
"""How long a part may take to start, which takes a second on an idle machine."""

_PORT_ATTEMPTS: Final = 5
_TURN_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Listener:
    """A part that listens on a port."""

    part: Part
    port: int

    def is_decided(self) -> bool:
        """Whether it listens, or has ended instead: its part has a status then."""
        return self.part.status is not None or accepts(self.port)


@dataclass(frozen=True, slots=True)
class Stage:
    """All parts. The server and the broker listen; the gateway and the devices are not started yet."""

    server: Listener
    broker: Listener | None
    gateway: Part
    sensors: tuple[MqttSensor, ...]
    scale: Scale
    watch: Watch
    page: str
    """URL of the gateway's status page."""

    def sources_are_connected(self) -> bool:
        """Whether the running gateway said so of its port and its broker."""
        pid = self.gateway.pid
        return self.watch.source_is(SCALE, "open", pid) and (
            self.broker is None or self.watch.source_is(HALL, "connected", pid)
        )

    def address(self) -> Address:
        """Where the gateway takes commands."""
        server, downlink = ServerSettings(url=server_url(self.server.port)), DownlinkSettings()
        streams = downlink.command_stream(GATEWAY_ID), downlink.receipt_stream(GATEWAY_ID)
        return Address(server, GATEWAY_ID, *streams)

    def sent(self) -> dict[str, int]:
        """What each device has sent so far."""
        return {**{sensor.name: sensor.sent for sensor in self.sensors}, SCALE: self.scale.sent}


def set_stage(stack: ExitStack, folder: Path, mosquitto: Path | None) -> Stage:
    """Start the server, the broker if there is a program for it, and make the rest ready.

    Everything ends with the stack. Raises `DemoError`.
    """
    environ = environment(os.environ)

    def serve(port: int) -> Part:
        argv = (
            *python_module("durable_streams"),
            *("serve", "--data", str(folder / "streams"), "--host", "127.0.0.1", "--port", str(port)),
        )
        return Part("the stream server", argv, folder / "server.log", environ)

    def broke(port: int) -> Part:
        assert mosquitto is not None, "asked for with a program only"
        data = folder / "broker"
        data.mkdir(exist_ok=True)
        file = folder / "mosquitto.conf"
        file.write_text(broker_configuration(port, data, as_root=os.geteuid() == 0))
        return Part("the broker", (str(mosquitto), "-c", str(file)), folder / "broker.log", environ)

    server = _listening(stack, serve)
    broker = None if mosquitto is None else _listening(stack, broke)
    scale = stack.enter_context(Scale(folder / "scale", SCALE_INTERVAL_SECONDS))
    file, data_dir = folder / "gateway.yaml", folder / "gateway"
    ports = Ports(server.port, free_port(), None if broker is None else broker.port)
    file.write_text(gateway_configuration(ports, data_dir, scale.path))
    gateway = stack.enter_context(
        Part(
            "the gateway",
            (*python_module("ds_gateway"), "run", "--config", str(file)),
            folder / "gateway.log",
            environ,
        )
    )
    sensors = (
        ()
        if broker is None
        else tuple(MqttSensor(name, topic(name), broker.port, SENSOR_INTERVAL_SECONDS) for name in SENSORS)
    )
    page = f"http://127.0.0.1:{ports.status}/"
    return Stage(server, broker, gateway, sensors, scale, Watch(data_dir / "control.sock"), page)


def _listening(stack: ExitStack, make: Callable[[int], Part]) -> Listener:
    """Start a part on a free port; on another one if somebody took it meanwhile."""
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        listener = Listener(stack.enter_context(make(port)), port)
        part = listener.part
        part.start()
        deadline = time.monotonic() + START_SECONDS
        while not listener.is_decided():
            if time.monotonic() > deadline:
                raise DemoError(f"{part.name} does not listen on port {port}\n{part.last_words()}")
            time.sleep(_TURN_SECONDS)
        if part.status is None:
            return listener
    raise DemoError(f"{part.name} ends at once, with status {part.status}\n{part.last_words()}")
