"""Names of streams and devices: what is refused, and how a stream's name becomes part of a URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ds_gateway.mapping.errors import MappingError, RefusedNameError
from ds_gateway.mapping.templates import Template
from ds_gateway.records import ledger_stream

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ds_gateway.config.commands import DownlinkSettings
    from ds_gateway.config.models import HealthSettings

MAX_NAME_BYTES: Final = 1024
"""Longest name of a device or a stream, in bytes of UTF-8."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WILDCARD = re.compile(r"[+#]")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_OWN_STREAMS: Final = frozenset({"commands", "receipts", "gateway", "health"})
"""First parts of the gateway's own streams: telemetry there would be taken for commands or receipts."""


def stream_path(name: str) -> str:
    """A stream's name as a URL path relative to the server's URL; each part percent-encoded."""
    return "/".join(quote(part, safe="") for part in name.split("/"))


def check_device_name(name: str) -> None:
    """Refuse (`RefusedNameError`) what cannot be the name of a device."""
    _check_text("device name", name)


def check_stream_name(name: str) -> None:
    """Refuse (`RefusedNameError`) what would lead out of its place, or is no name at all."""
    _check_text("stream name", name)
    for part in name.split("/"):
        if part in {"", ".", ".."}:
            raise RefusedNameError(f"stream name {shown(name)}: the part {part!r} is refused")
    if _WILDCARD.search(name):
        raise RefusedNameError(f"stream name {shown(name)}: + and # are refused")


class StreamTemplate:
    """The ``stream`` of a device: a template whose every rendering is checked."""

    def __init__(self, text: str, captures: Collection[str], *, key: str = "stream") -> None:
        self._template = Template(text, captures, key=key)
        # One letter stands for whatever is captured: what is refused even so is refused always.
        try:
            check_stream_name(self._template.render(dict.fromkeys(captures, "x")))
        except RefusedNameError as error:
            raise MappingError(str(error), key=key) from error
        self._first_is_captured = "{" in text.partition("/")[0]

    def render(self, values: Mapping[str, str], *, is_own: bool = False) -> str:
        """The stream's name; `RefusedNameError` if the captures make a dangerous one.

        ``is_own``: it is one of the gateway's own streams.
        """
        name = self._template.render(values)
        check_stream_name(name)
        if not is_own and self._first_is_captured and name.partition("/")[0] in _OWN_STREAMS:
            raise RefusedNameError(f"stream name {shown(name)}: a capture leads to the gateway's own streams")
        return name


def check_downlink_streams(downlink: DownlinkSettings, gateway: str) -> None:
    """Check the streams of commands and receipts. `MappingError` with the key ``stream`` or ``receipts``."""
    for key, text in (("stream", downlink.stream), ("receipts", downlink.receipts)):
        _check_own(key, text, gateway)
    if downlink.stream == downlink.receipts:
        raise MappingError(
            f"receipts {downlink.receipts!r}: is the stream of the commands, too, and each receipt would be taken "
            "for a command: give one of them another name",
            key="receipts",
        )


def check_health_stream(health: HealthSettings, downlink: DownlinkSettings, gateway: str) -> None:
    """Check the health stream, where there is one. `MappingError` with the key ``stream``."""
    if not health.enabled:
        return
    _check_own("stream", health.stream, gateway)
    name = health.stream_name(gateway)
    if name in {downlink.command_stream(gateway), downlink.receipt_stream(gateway)}:
        raise MappingError(
            f"stream {health.stream!r}: is a stream of the downlink, too: give it another name", key="stream"
        )


def _check_own(key: str, text: str, gateway: str) -> None:
    if "{gateway}" not in text:
        raise MappingError(
            f"{key} {text!r}: has no {{gateway}}, and several gateways would share it: put {{gateway}} into it",
            key=key,
        )
    try:
        name = StreamTemplate(text, ("gateway",), key=key).render({"gateway": gateway}, is_own=True)
    except RefusedNameError as error:
        raise MappingError(str(error), key=key) from error
    if name == ledger_stream(gateway):
        raise MappingError(
            f"{key} {text!r}: this is the stream of the gateway's losses: give it another name", key=key
        )


def check_telemetry_stream(text: str, downlink: DownlinkSettings, gateway: str) -> None:
    """Refuse (`MappingError`, key ``stream``) a device's stream that can be one of the downlink's."""
    _check_is_none_of(
        {
            "downlink.stream": downlink.command_stream(gateway),
            "downlink.receipts": downlink.receipt_stream(gateway),
        },
        text,
        gateway,
    )


def check_beside_health(text: str, health: HealthSettings, gateway: str) -> None:
    """Refuse (`MappingError`, key ``stream``) a device's stream that can be the health stream."""
    if health.enabled:
        _check_is_none_of({"health.stream": health.stream_name(gateway)}, text, gateway)


def _check_is_none_of(own: Mapping[str, str], text: str, gateway: str) -> None:
    parts = _PLACEHOLDER.split(text.replace("{gateway}", gateway))
    possible = re.compile(".+".join(map(re.escape, parts[::2])), re.DOTALL)
    for setting, name in own.items():
        if not possible.fullmatch(name):
            continue
        if "{" in text.partition("/")[0] and name.partition("/")[0] in _OWN_STREAMS:
            continue  # refused when it is rendered
        raise MappingError(
            f"stream {text!r}: can be {name!r}, the stream of {setting}: give this device another stream",
            key="stream",
        )


def _check_text(what: str, name: str) -> None:
    if not name:
        raise RefusedNameError(f"the {what} is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise RefusedNameError(f"{what} {shown(name)}: not valid Unicode") from error
    if size > MAX_NAME_BYTES:
        raise RefusedNameError(f"{what} {shown(name)}: {size} bytes; at most {MAX_NAME_BYTES} are allowed")
    if _CONTROL.search(name):
        raise RefusedNameError(f"{what} {shown(name)}: control characters are refused")


def shown(name: str) -> str:
    """A name from outside as it may stand in a message."""
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")
