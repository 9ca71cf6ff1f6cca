"""Names of streams and devices: what is refused, and how a stream's name becomes part of a URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ds_gateway.mapping.errors import MappingError, RefusedNameError
from ds_gateway.mapping.templates import Template

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_NAME_BYTES: Final = 1024
"""Longest name of a device or a stream, in bytes of UTF-8."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WILDCARD = re.compile(r"[+#]")
_OWN_STREAMS: Final = frozenset({"commands", "receipts", "gateway"})
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
            raise RefusedNameError(f"stream name {_shown(name)}: the part {part!r} is refused")
    if _WILDCARD.search(name):
        raise RefusedNameError(f"stream name {_shown(name)}: + and # are refused")


class StreamTemplate:
    """The ``stream`` of a device: a template whose every rendering is checked."""

    def __init__(self, text: str, captures: Collection[str]) -> None:
        self._template = Template(text, captures, key="stream")
        # One letter stands for whatever is captured: what is refused even so is refused always.
        try:
            check_stream_name(self._template.render(dict.fromkeys(captures, "x")))
        except RefusedNameError as error:
            raise MappingError(str(error), key="stream") from error
        self._first_is_captured = "{" in text.partition("/")[0]

    def render(self, values: Mapping[str, str]) -> str:
        """The stream's name; `RefusedNameError` if the captures make a dangerous one."""
        name = self._template.render(values)
        check_stream_name(name)
        if self._first_is_captured and name.partition("/")[0] in _OWN_STREAMS:
            raise RefusedNameError(f"stream name {_shown(name)}: a capture leads to the gateway's own streams")
        return name


def _check_text(what: str, name: str) -> None:
    if not name:
        raise RefusedNameError(f"the {what} is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise RefusedNameError(f"{what} {_shown(name)}: not valid Unicode") from error
    if size > MAX_NAME_BYTES:
        raise RefusedNameError(f"{what} {_shown(name)}: {size} bytes; at most {MAX_NAME_BYTES} are allowed")
    if _CONTROL.search(name):
        raise RefusedNameError(f"{what} {_shown(name)}: control characters are refused")


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")
