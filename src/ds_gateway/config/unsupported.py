"""Keys and values that the documented configuration has and this version does not: told as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ds_gateway.config.commands import MqttCommandSettings
from ds_gateway.config.models import BatchSettings, Settings
from ds_gateway.config.mqtt import MqttSettings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ds_gateway.config.document import Node

_KEYS: Final[dict[type[BaseModel], frozenset[str]]] = {
    Settings: frozenset({"metrics"}),
    MqttSettings: frozenset({"commands"}),
    MqttCommandSettings: frozenset({"retain", "qos"}),
}

_VALUES: Final[dict[tuple[type[BaseModel], str], frozenset[str | bool]]] = {
    (BatchSettings, "compression"): frozenset({"auto", "gzip", "deflate", "br", "zstd"}),
}

_HINTS: Final[dict[tuple[type[BaseModel], str], str]] = {
    (BatchSettings, "compression"): "use none",
    (MqttSettings, "commands"): "each entry of devices has its own commands",
    (MqttCommandSettings, "qos"): "commands are published at QoS 1: remove it",
    (MqttCommandSettings, "retain"): "a broker would hand a kept command to every device that connects later: "
    "remove it",
}


def unsupported(model: type[BaseModel], key: str, node: Node) -> str | None:
    """The message for this entry, or None if it is nothing of the kind."""
    known = key in _KEYS.get(model, ()) or (
        isinstance(node.value, str | bool) and node.value in _VALUES.get((model, key), ())
    )
    if not known:
        return None
    what = ""
    if (model, key) in _VALUES and isinstance(node.value, str | bool):
        what = f"{str(node.value).lower() if node.value is True else node.value} is "
    hint = _HINTS.get((model, key))
    return f"{what}not supported in this version" + (f": {hint}" if hint else "")
