"""Mistakes in a mapping that can be found before anything runs.

Each function raises `MappingError`, a ValueError that also says which setting is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ds_gateway.mapping.pipelines import SerialPipeline
from ds_gateway.mapping.routes import DeviceRule, compile_rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.config.mqtt import DeviceSettings
    from ds_gateway.config.serial_port import SerialSettings

_ANY_GATEWAY: Final = "gateway"


def check_device(device: DeviceSettings) -> None:
    """Check the topic filter, the name and the stream of one MQTT device."""
    DeviceRule(device, _ANY_GATEWAY)


def check_devices(devices: Sequence[DeviceSettings]) -> None:
    """Check all devices of one broker, each by itself and with those before it; the error has its index."""
    compile_rules(devices, _ANY_GATEWAY)


def check_serial(source_name: str, settings: SerialSettings) -> None:
    """Check the names and the streams of a serial source."""
    SerialPipeline(source_name, _ANY_GATEWAY, settings)
