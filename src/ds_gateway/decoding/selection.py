"""Which fields pass, under which name, and scaled how: the ``fields`` of a device."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ds_gateway.config.decoding import FieldSettings

_MISSING: Final = object()
_SHOWN_NAMES: Final = 10
_SHOWN_CHARACTERS: Final = 40


class _Field:
    __slots__ = ("key", "levels", "linear", "name", "source")

    def __init__(self, name: str, settings: FieldSettings) -> None:
        self.name = name
        self.source = name if settings.from_ is None else settings.from_
        levels = self.source.split(".")
        self.levels = levels if len(levels) > 1 else None
        self.linear = Linear.of(settings)
        self.key = orjson.dumps(name) + b":"


class Selection:
    """Picks the listed fields out of decoded values and renders them as a JSON object.

    ``from`` names a value on the top level; if there is none of that name and it has dots, each part leads one
    object deeper. ``read_number`` says which number a value is, None for those that are none. null passes
    unscaled: a device says "no reading" with it, and the other fields of that payload are good.
    """

    def __init__(
        self, fields: Mapping[str, FieldSettings], read_number: Callable[[object], Decimal | None]
    ) -> None:
        self._fields = [_Field(name, settings) for name, settings in fields.items()]
        self._read_number = read_number

    def render(self, values: Mapping[str, Any]) -> bytes:
        """Return the object's bytes; `UndecodableError` if nothing listed is there or cannot be scaled."""
        members = []
        for field in self._fields:
            value = values.get(field.source, _MISSING)
            if value is _MISSING and field.levels is not None:
                value = _descend(values, field.levels)
            if value is _MISSING:
                continue
            if field.linear is not None and value is not None:
                value = self._scale(field, field.linear, value)
            members.append(field.key + render_value(value))
        if not members:
            raise UndecodableError(
                f"none of the listed fields ({_some(field.source for field in self._fields)}) is in the payload, "
                f"which has {_some(values)}"
            )
        return b"{%b}" % b",".join(members)

    def _scale(self, field: _Field, linear: Linear, value: object) -> Decimal:
        number = self._read_number(value)
        if number is None:
            raise UndecodableError(f"field {field.name}: {_shown(value)} is not a number, so it cannot be scaled")
        try:
            return linear.apply(number)
        except UndecodableError as error:
            raise UndecodableError(f"field {field.name}: {error}") from error


def render_value(value: object) -> bytes:
    """Render as JSON; a `Decimal` keeps its digits."""
    if isinstance(value, Decimal):
        return str(value).encode()
    return orjson.dumps(value, default=_decimal_fragment)


def _decimal_fragment(value: Any) -> orjson.Fragment:
    return orjson.Fragment(str(value))


def _descend(values: Mapping[str, Any], levels: list[str]) -> object:
    value: object = values
    for level in levels:
        if not isinstance(value, dict) or level not in value:
            return _MISSING
        value = value[level]
    return value


def _some(names: Iterable[str]) -> str:
    shown: list[str] = []
    for name in names:
        if len(shown) == _SHOWN_NAMES:
            shown.append("...")
            break
        shown.append(_shortened(name))
    return ", ".join(shown) or "no fields"


def _shown(value: object) -> str:
    return _shortened(render_value(value).decode())


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
