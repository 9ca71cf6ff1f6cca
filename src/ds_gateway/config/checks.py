"""Mistakes that no single value shows: no source at all, two sources on one port.

A check works on plain values, so that sound parts are checked even while others are not valid. Those that need
a higher layer (captures and topics) are given to `loader.load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from ds_gateway.config.models import MqttSettings, SerialSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ds_gateway.config.findings import Findings

    Check = Callable[[Mapping[str, Any], Findings], None]

_M = TypeVar("_M", bound=BaseModel)

_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


def check(values: Mapping[str, Any], findings: Findings) -> None:
    """Add what is wrong with these values of `Settings`, as they are before validation."""
    _any_source(values, findings)
    _names(values, findings)
    _client_ids(dict(_valid(values, "mqtt", MqttSettings)), findings)
    _ports(dict(_valid(values, "serial", SerialSettings)), findings)


def validated(model: type[_M], values: Any) -> _M | None:
    """The values as this model; None if they are wrong, which the validation of the whole tells."""
    try:
        return model.model_validate(values)
    except ValidationError:
        return None


def _any_source(values: Mapping[str, Any], findings: Findings) -> None:
    if not values.get("mqtt") and not values.get("serial") and findings.is_sound(("mqtt",)):
        findings.add((), "no source: add a broker under mqtt or a port under serial")


def _names(values: Mapping[str, Any], findings: Findings) -> None:
    """The journal knows a source by its name alone."""
    brokers, ports = values.get("mqtt"), values.get("serial")
    if isinstance(brokers, dict) and isinstance(ports, dict):
        for name in sorted(brokers.keys() & ports.keys()):
            findings.add(("serial", name), f"mqtt.{name} has this name already: give each source its own")


def _client_ids(brokers: Mapping[str, MqttSettings], findings: Findings) -> None:
    """Two clients with one id push each other off the broker, about once a second, for ever."""
    seen: dict[tuple[str | None, int, str | None], str] = {}
    for name, settings in brokers.items():
        url = urlsplit(settings.url)
        port = url.port or _DEFAULT_PORTS[url.scheme]
        first = seen.setdefault((url.hostname, port, settings.client_id), name)
        if first != name:
            findings.add(
                ("mqtt", name, "client_id"),
                f"mqtt.{first} is on the same broker with the same client id, and they would push each other off: "
                "give one of them another client_id, or put the devices of both under one",
            )


def _ports(ports: Mapping[str, SerialSettings], findings: Findings) -> None:
    seen: dict[str, str] = {}
    for name, settings in ports.items():
        first = seen.setdefault(settings.port, name)
        if first != name:
            findings.add(("serial", name, "port"), f"serial.{first} reads this port already: {settings.port!r}")


def _valid(values: Mapping[str, Any], kind: str, model: type[_M]) -> Iterator[tuple[str, _M]]:
    sources = values.get(kind)
    for name, source in (sources if isinstance(sources, dict) else {}).items():
        settings = validated(model, source)
        if settings is not None:
            yield name, settings
