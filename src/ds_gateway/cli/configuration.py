"""How commands load the configuration: with the checks that need the mapping of topics."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import loader
from ds_gateway.config.checks import first_commands, validated
from ds_gateway.config.commands import DownlinkSettings
from ds_gateway.config.models import GatewaySettings, HealthSettings
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.mapping import (
    MappingError,
    check_beside_health,
    check_device,
    check_devices,
    check_downlink_streams,
    check_health_stream,
    check_serial,
    check_telemetry_stream,
    topic_filter,
)
from ds_gateway.mapping.commands import MqttCommandRule, SerialCommandRule, check_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ds_gateway.config.document import Path as Keys
    from ds_gateway.config.findings import Findings
    from ds_gateway.config.includes import Copy
    from ds_gateway.mapping.commands import CommandRule

_MAX_PAIRS_TOLD: Final = 20
"""Overlapping topics of one broker that are told at once: each costs a comparison of all pairs."""


def load_configuration(path: Path | None, copy: Copy | None = None) -> loader.Loaded:
    """The configuration of this process's environment, checked in every way. Raises `ConfigError`.

    ``copy``: the files as they were once, instead of those on the disk.
    """
    return loader.load(path, os.environ, more_checks=(check_mappings,), copy=copy)


def check_mappings(values: Mapping[str, Any], findings: Findings) -> None:
    """Add what is wrong with topics, names, streams and commands."""
    brokers: dict[str, dict[int, DeviceSettings]] = {}
    for name, source in _sources(values, "mqtt"):
        devices = source.get("devices")
        if isinstance(devices, list):
            brokers[name] = _devices(("mqtt", name, "devices"), devices, findings)
    ports: dict[str, SerialSettings] = {}
    for name, source in _sources(values, "serial"):
        settings = validated(SerialSettings, source)
        if settings is not None and _is_fine(("serial", name), partial(check_serial, name, settings), findings):
            ports[name] = settings
    if first_commands(values) is not None:
        _commands(brokers, ports, findings)
    if first_commands(values) is not None or "downlink" in values:
        _downlink(values, brokers, ports, findings)
    _health(values, brokers, ports, findings)


def _sources(values: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    sources = values.get(kind)
    if isinstance(sources, dict):
        for name, source in sources.items():
            if isinstance(source, dict):
                yield name, source


def _devices(path: Keys, devices: list[Any], findings: Findings) -> dict[int, DeviceSettings]:
    """Each device by itself, and then the sound ones with those before them; return those without a mistake."""
    sound: dict[int, DeviceSettings] = {}
    for index, values in enumerate(devices):
        device = validated(DeviceSettings, values)
        if device is not None and _is_fine((*path, index), partial(check_device, device), findings):
            sound[index] = device
    for _ in range(_MAX_PAIRS_TOLD):
        try:
            check_devices(list(sound.values()))
        except MappingError as error:
            index = list(sound)[error.index or 0]
            findings.add((*path, index, error.key), str(error))
            del sound[index]
        else:
            break
    return sound


def _commands(
    brokers: Mapping[str, Mapping[int, DeviceSettings]], ports: Mapping[str, SerialSettings], findings: Findings
) -> None:
    """Each device with commands by itself, and then the sound ones with those before them."""
    rules: list[tuple[Keys, CommandRule]] = []

    def add(path: Keys, make: Callable[[], CommandRule]) -> None:
        try:
            rules.append((path, make()))
        except MappingError as error:
            findings.add((*path, *error.key.split(".")), str(error))

    for name, devices in brokers.items():
        for index, device in devices.items():
            if device.commands is not None:
                add(("mqtt", name, "devices", index), partial(MqttCommandRule, name, index, device))
    for name, port in ports.items():
        for place_index, each in port.each_device(name):
            if each.commands is not None:
                path: Keys = ("serial", name) if place_index is None else ("serial", name, "devices", place_index)
                add(path, partial(SerialCommandRule, name, port.where, place_index, each))
    filters = {
        name: [topic_filter(device.topic) for device in devices.values()] for name, devices in brokers.items()
    }
    for _ in range(_MAX_PAIRS_TOLD):
        try:
            check_rules([rule for _, rule in rules], filters)
        except MappingError as error:
            path, _rule = rules.pop(error.index or 0)
            findings.add((*path, *error.key.split(".")), str(error))
        else:
            return


def _downlink(
    values: Mapping[str, Any],
    brokers: Mapping[str, Mapping[int, DeviceSettings]],
    ports: Mapping[str, SerialSettings],
    findings: Findings,
) -> None:
    """The streams of the downlink by themselves, and then those of the devices, which must be others."""
    gateway = validated(GatewaySettings, values.get("gateway"))
    downlink = validated(DownlinkSettings, values.get("downlink") or {})
    if gateway is None or downlink is None:
        return
    if not _is_fine(("downlink",), partial(check_downlink_streams, downlink, gateway.id), findings):
        return
    _each_stream(brokers, ports, lambda stream: check_telemetry_stream(stream, downlink, gateway.id), findings)


def _health(
    values: Mapping[str, Any],
    brokers: Mapping[str, Mapping[int, DeviceSettings]],
    ports: Mapping[str, SerialSettings],
    findings: Findings,
) -> None:
    """The health stream by itself, and then those of the devices, which must be others."""
    gateway = validated(GatewaySettings, values.get("gateway"))
    downlink = validated(DownlinkSettings, values.get("downlink") or {})
    health = validated(HealthSettings, values.get("health") or {})
    if gateway is None or downlink is None or health is None:
        return
    if not _is_fine(("health",), partial(check_health_stream, health, downlink, gateway.id), findings):
        return
    _each_stream(brokers, ports, lambda stream: check_beside_health(stream, health, gateway.id), findings)


def _each_stream(
    brokers: Mapping[str, Mapping[int, DeviceSettings]],
    ports: Mapping[str, SerialSettings],
    check: Callable[[str], object],
    findings: Findings,
) -> None:
    """Check the streams of all devices; each mistake is told where it stands."""
    for path, stream in _streams(brokers, ports):
        try:
            check(stream)
        except MappingError as error:
            findings.add((*path, error.key), str(error))


def _streams(
    brokers: Mapping[str, Mapping[int, DeviceSettings]], ports: Mapping[str, SerialSettings]
) -> list[tuple[Keys, str]]:
    """The streams of all devices, with where they are configured."""
    streams: list[tuple[Keys, str]] = [
        (("mqtt", name, "devices", index), device.stream)
        for name, devices in brokers.items()
        for index, device in devices.items()
    ]
    streams += [
        (
            ("serial", name)
            if index is None or not port.devices or port.devices[index].stream is None
            else ("serial", name, "devices", index),
            (each.stream or "").replace("{name}", each.name),
        )
        for name, port in ports.items()
        for index, each in port.each_device(name)
    ]
    return streams


def _is_fine(path: Keys, check: Callable[[], None], findings: Findings) -> bool:
    """Whether nothing is wrong at this path; what the check finds is told."""
    if not findings.is_sound(path):
        return False
    try:
        check()
    except MappingError as error:
        keys = [int(key) if key.isdigit() else key for key in error.key.split(".")]
        findings.add((*path, *keys), str(error))
        return False
    return True
