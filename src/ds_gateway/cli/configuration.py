"""How commands load the configuration: with the checks that need the mapping of topics."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import loader
from ds_gateway.config.checks import validated
from ds_gateway.config.models import DeviceSettings, SerialSettings
from ds_gateway.mapping import MappingError, check_device, check_devices, check_serial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ds_gateway.config.document import Path as Keys
    from ds_gateway.config.findings import Findings

_MAX_PAIRS_TOLD: Final = 20
"""Overlapping topics of one broker that are told at once: each costs a comparison of all pairs."""


def load_configuration(path: Path | None) -> loader.Loaded:
    """The configuration of this process's environment, checked in every way. Raises `ConfigError`."""
    return loader.load(path, os.environ, more_checks=(check_mappings,))


def check_mappings(values: Mapping[str, Any], findings: Findings) -> None:
    """Add what is wrong with topics, names and streams."""
    for name, source in _sources(values, "mqtt"):
        devices = source.get("devices")
        if isinstance(devices, list):
            _devices(("mqtt", name, "devices"), devices, findings)
    for name, source in _sources(values, "serial"):
        settings = validated(SerialSettings, source)
        if settings is not None:
            _is_fine(("serial", name), partial(check_serial, name, settings), findings)


def _sources(values: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    sources = values.get(kind)
    if isinstance(sources, dict):
        for name, source in sources.items():
            if isinstance(source, dict):
                yield name, source


def _devices(path: Keys, devices: list[Any], findings: Findings) -> None:
    """Each device by itself, and then the sound ones with those before them."""
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
            return


def _is_fine(path: Keys, check: Callable[[], None], findings: Findings) -> bool:
    """Whether nothing is wrong at this path; what the check finds is told."""
    if not findings.is_sound(path):
        return False
    try:
        check()
    except MappingError as error:
        findings.add((*path, error.key), str(error))
        return False
    return True
