"""Mistakes that no single value shows: no source at all, two sources on one port.

A check works on plain values, so that sound parts are checked even while others are not valid. Those that need
a higher layer (captures and topics) are given to `loader.load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from ds_gateway.config.addresses import host_and_port, is_loopback
from ds_gateway.config.commands import RESPONSE_TOPIC
from ds_gateway.config.dedupe_key import DedupeKey
from ds_gateway.config.models import JournalSettings
from ds_gateway.config.mqtt import MqttSettings
from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.config.server import EMBEDDED, ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ds_gateway.config.document import Path
    from ds_gateway.config.findings import Findings

    Check = Callable[[Mapping[str, Any], Findings], None]

_M = TypeVar("_M", bound=BaseModel)

_EMBEDDED_ONLY: Final = ("listen", "max_bytes", "retain_bytes", "retain_age")
_NOT_EMBEDDED: Final = {
    "headers": "nothing is between the gateway and a server in its own process; a bearer token is server.token",
    "proxy": "nothing is between the gateway and a server in its own process",
    "tls": "it speaks http:// only; put a reverse proxy with the certificates before server.listen",
}
_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


def check(values: Mapping[str, Any], findings: Findings) -> None:
    """Add what is wrong with these values of `Settings`, as they are before validation."""
    _any_source(values, findings)
    _server(values.get("server"), findings)
    _journal(values.get("journal"), findings)
    _names(values, findings)
    brokers = dict(_valid(values, "mqtt", MqttSettings))
    _client_ids(brokers, findings)
    _dedupe_keys(brokers, findings)
    _ports(dict(_valid(values, "serial", SerialSettings)), findings)
    _commands(values, findings)


def first_commands(values: Mapping[str, Any]) -> Path | None:
    """Where the first setting is that makes this gateway take commands, in values before validation."""
    for path, _, device in _devices(values):
        if device.get("commands") is not None:
            return (*path, "commands")
    downlink = values.get("downlink")
    if isinstance(downlink, dict) and downlink.get("gateway_commands"):
        return ("downlink", "gateway_commands")
    return None


def validated(model: type[_M], values: Any) -> _M | None:
    """The values as this model; None if they are wrong, which the validation of the whole tells."""
    try:
        return model.model_validate(values)
    except ValidationError:
        return None


def _any_source(values: Mapping[str, Any], findings: Findings) -> None:
    if not values.get("mqtt") and not values.get("serial") and findings.is_sound(("mqtt",)):
        findings.add((), "no source: add a broker under mqtt or a port under serial")


def _server(values: Any, findings: Findings) -> None:
    """Keys of the server in this process and keys of a server elsewhere exclude one another."""
    if not isinstance(values, dict) or not isinstance(values.get("url"), str):
        return
    if values["url"] != EMBEDDED:
        for key in values.keys() & set(_EMBEDDED_ONLY):
            findings.add(
                ("server", key),
                f"is for server.url: {EMBEDDED}, and the server is elsewhere: remove it, or set server.url to "
                f"{EMBEDDED}",
            )
        return
    for key in values.keys() & _NOT_EMBEDDED.keys():
        findings.add(("server", key), f"has no use with server.url: {EMBEDDED}: {_NOT_EMBEDDED[key]}: remove it")
    settings = validated(ServerSettings, values)
    if settings is None:
        return
    if not settings.create:
        findings.add(
            ("server", "create"),
            "nobody else creates the streams of a server in this process, and false would keep every record in "
            f"the journal: remove it, or set server.url to another server than {EMBEDDED}",
        )
    if settings.retain_bytes and settings.max_bytes and settings.retain_bytes >= settings.max_bytes:
        findings.add(
            ("server", "retain_bytes"),
            f"is {values['retain_bytes']} of each stream, and the store is full with server.max_bytes: "
            f"{values['max_bytes']}, before anything is dropped: set it well below that, at most to that divided "
            "by the number of streams",
        )
    if settings.token is None and not is_loopback(host_and_port(settings.listen)[0]):
        findings.add(
            ("server", "listen"),
            f"others than this machine could read and write the streams on {settings.listen!r}: set server.token, "
            "which every reader needs then, or listen on 127.0.0.1",
        )


def _journal(values: Any, findings: Findings) -> None:
    """What is kept for repair is part of the journal. Only what somebody wrote: a small journal keeps less."""
    settings = None if not isinstance(values, dict) else validated(JournalSettings, values)
    if settings is None or settings.max_bytes is None or "retain_bytes" not in values:
        return
    if settings.retain_bytes > settings.max_bytes:
        findings.add(
            ("journal", "retain_bytes"),
            f"is {values['retain_bytes']}, and the whole journal has journal.max_bytes: {values['max_bytes']}: "
            "set it well below that, or raise journal.max_bytes",
        )


def _dedupe_keys(brokers: Mapping[str, MqttSettings], findings: Findings) -> None:
    for name, settings in brokers.items():
        key = settings.dedupe_key
        if key is None or DedupeKey.parse(key).is_property:
            continue
        kinds = sorted({device.decode.kind for device in settings.devices})
        if "json" not in kinds:
            findings.add(
                ("mqtt", name, "dedupe_key"),
                f"is {key!r}, a JSON pointer, which finds nothing in payloads that are not JSON, and all devices "
                f"of this broker have decode: {' or '.join(kinds)}: take user_property:NAME or correlation_data, "
                "set decode: json if the payloads are JSON, or remove it",
            )


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
        first = seen.setdefault(settings.where, name)
        if first != name:
            key = "usb" if settings.port is None else "port"
            findings.add(("serial", name, key), f"serial.{first} reads this port already: {settings.where!r}")


def _commands(values: Mapping[str, Any], findings: Findings) -> None:
    for path, source, device in _devices(values):
        commands = device.get("commands")
        if commands is None:
            if device.get("max_rate") is not None:
                findings.add(
                    (*path, "max_rate"),
                    "is the most commands a second, and there are no commands here: remove it",
                )
            continue
        if not isinstance(commands, dict):
            continue
        reply = commands.get("reply")
        if isinstance(reply, dict) and reply.get("retries") and commands.get("delivery") == "at_most_once":
            findings.add(
                (*path, "commands", "reply", "retries"),
                f"is {reply['retries']}, and with delivery: at_most_once nothing is sent twice: remove it, or "
                "take delivery: at_least_once",
            )
        is_by_response_topic = reply == RESPONSE_TOPIC or (isinstance(reply, dict) and reply.get("topic") is None)
        if path[0] == "mqtt" and is_by_response_topic and str(source.get("version")) == "3.1.1":
            findings.add(
                (*path, "commands", "reply"),
                "MQTT 3.1.1 has no response topic: give the topic that the device answers on, as reply: {topic: "
                f'stat/NAME/RESULT}}, or set mqtt.{path[1]}.version: "5"',
            )


def _devices(values: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Every device with its path and its source; a port without ``devices`` is both."""
    for kind in ("mqtt", "serial"):
        sources = values.get(kind)
        for name, source in (sources if isinstance(sources, dict) else {}).items():
            if not isinstance(source, dict):
                continue
            devices = source.get("devices")
            if kind == "serial" and devices is None:
                yield (kind, name), source, source
            for index, device in enumerate(devices if isinstance(devices, list) else ()):
                if isinstance(device, dict):
                    yield (kind, name, "devices", index), source, device


def _valid(values: Mapping[str, Any], kind: str, model: type[_M]) -> Iterator[tuple[str, _M]]:
    sources = values.get(kind)
    for name, source in (sources if isinstance(sources, dict) else {}).items():
        settings = validated(model, source)
        if settings is not None:
            yield name, settings
