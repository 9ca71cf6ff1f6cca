"""From an element of the command stream to a `Command`, or why it is none. Pure.

    {"device": "hall/door", "payload": {"open": true}, "id": "7f3a", "issued_at": "2026-03-01T12:00:00Z"}

A key that nobody knows is refused: a mistyped ``expires_at`` must not let a command fire late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from ds_gateway.commands import Command
from ds_gateway.config.quantities import Seconds
from ds_gateway.records import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.commands import Delivery

MAX_ELEMENT_BYTES: Final = 64 * 1024
MAX_ID_CHARACTERS: Final = 128
OWN_ID_PREFIX: Final = "#"
"""What the ids begin with that the gateway makes of numbers; a sender's may not."""
OWN_DEVICE: Final = "@gateway"
_KEYS: Final = ("device", "payload", "id", "issued_at", "expires_at", "expires_after", "delivery")
_MAX_DEVICE_BYTES: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS: Final = 2**33
_DURATION: Final = TypeAdapter[float](Seconds)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An element that is no command."""

    number: int
    code: str
    reason: str
    device: str = OWN_DEVICE
    """As far as it could be read."""
    id: str = ""
    """As far as it could be read; else one that the gateway made of the number."""


def own_id(number: int) -> str:
    """The id of a command whose sender gave none."""
    return f"{OWN_ID_PREFIX}{number}"


def parse(element: bytes, number: int) -> Command | Refusal:
    """Read one element; ``number`` is its place in the stream."""
    if len(element) > MAX_ELEMENT_BYTES:
        reason = f"the command has {len(element)} bytes; at most {MAX_ELEMENT_BYTES} are taken"
        return Refusal(number, "too_large", reason, id=own_id(number))
    try:
        value = orjson.loads(element)
    except orjson.JSONDecodeError as error:
        return Refusal(number, "malformed", f"the command is not readable JSON: {error}", id=own_id(number))
    if not isinstance(value, dict):
        reason = 'a command is a JSON object, as {"device": "hall/door", "payload": 1, "issued_at": "..."}'
        return Refusal(number, "malformed", reason, id=own_id(number))
    try:
        return _command(value, number)
    except ValueError as error:
        return Refusal(number, "malformed", str(error), _readable_device(value), _readable_id(value, number))


def _command(value: Mapping[str, Any], number: int) -> Command:
    for key in value:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key[:80]!r}; a command has {', '.join(_KEYS)}")
    for key in ("device", "payload"):
        if key not in value:
            raise ValueError(f"{key} is missing")
    after = value.get("expires_after")
    return Command(
        number=number,
        id=own_id(number) if value.get("id") is None else _id(value["id"]),
        device=_device(value["device"]),
        payload=value["payload"],
        delivery=_delivery(value.get("delivery")),
        issued_ns=_instant("issued_at", value.get("issued_at")),
        expires_ns=_instant("expires_at", value.get("expires_at")),
        expires_after_seconds=None if after is None else _duration(after),
    )


def _id(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise ValueError(f"id must be a text of 1 to {MAX_ID_CHARACTERS} printable characters")
    if value.startswith(OWN_ID_PREFIX):
        raise ValueError(f"id must not begin with {OWN_ID_PREFIX}: the gateway makes such ids itself")
    return value


def _device(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("device must be the name of a device")
    if len(value.encode()) > _MAX_DEVICE_BYTES:
        raise ValueError(f"device has more than {_MAX_DEVICE_BYTES} bytes")
    return value


def _delivery(value: object) -> Delivery | None:
    match value:
        case None | "at_least_once" | "at_most_once":
            return value
        case _:
            raise ValueError("delivery must be at_least_once or at_most_once")


def _instant(key: str, value: object) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 text or of seconds."""
    match value:
        case None:
            return None
        case bool():
            pass
        case int() | float() if math.isfinite(value) and 0 <= value < _MAX_SECONDS:
            return int(Decimal(str(value)) * NANOSECONDS)
        case str() if len(value) <= 40:
            try:
                instant = datetime.fromisoformat(value)
                if instant.tzinfo is not None and instant >= _EPOCH:
                    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000
            except (ValueError, OverflowError):
                pass
        case _:
            pass
    raise ValueError(
        f"{key} must be a time with its zone, as 2026-03-01T12:00:00Z, or seconds since 1970, "
        f"not {str(value)[:40]!r}"
    )


def _duration(value: object) -> float:
    try:
        seconds = _DURATION.validate_python(value, strict=not isinstance(value, int) or isinstance(value, bool))
    except ValidationError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"expires_after must be a duration, as 60s or 1.5, not {str(value)[:40]!r}")
    return float(seconds)


def _readable_device(value: Mapping[str, Any]) -> str:
    try:
        return _device(value.get("device"))
    except ValueError:
        return OWN_DEVICE


def _readable_id(value: Mapping[str, Any], number: int) -> str:
    try:
        return _id(value.get("id"))
    except ValueError:
        return own_id(number)
