"""Which fields pass, under which name, and what is made of their values: ``fields`` and ``drop`` of a device."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import Arithmetic, exact, parse_plain_number
from ds_gateway.decoding.values import Numeric, render_object, render_value, shown, some
from ds_gateway.decoding.ways import MISSING, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ds_gateway.config.decoding import FieldSettings

    ReadNumber = Callable[[object], Decimal | None]

_MAX_PLAIN_EXPONENT: Final = 20


class Field:
    """One field of the records."""

    __slots__ = ("arithmetic", "constant", "else_", "key", "map", "name", "way")

    def __init__(self, name: str, settings: FieldSettings) -> None:
        self.name = name
        self.way = Way(name if settings.from_ is None else settings.from_)
        self.arithmetic = Arithmetic.of(settings)
        self.map = None if settings.map is None else _rendered_map(settings.map)
        self.else_ = None if settings.else_ is None else _rendered(settings.else_)
        self.constant = None if settings.constant is None else _rendered(settings.constant)
        self.key = orjson.dumps(name) + b":"

    def mapped(self, value: object) -> bytes:
        """What the value becomes, as JSON."""
        assert self.map is not None, "the caller looked"
        for key in _map_keys(value):
            found = self.map.get(key)
            if found is not None:
                return found
        return render_value(value) if self.else_ is None or value is None else self.else_


class Selection:
    """Picks the listed fields out of decoded values and renders them as a JSON object.

    ``read_number`` says which number a value is, None for those that are none. null passes unscaled: a device
    says "no reading" with it, and the other fields of that payload are good.
    """

    def __init__(self, fields: Mapping[str, FieldSettings], read_number: ReadNumber) -> None:
        self.fields = [Field(name, settings) for name, settings in fields.items()]
        self._ways = [(field.way.source, field.way.find) for field in self.fields]
        self._read_number = read_number
        self._plan = [
            (field.key, field.arithmetic, None if field.map is None and field.constant is None else field)
            for field in self.fields
        ]
        self._is_constant = bool(fields) and all(field.constant is not None for field in self.fields)

    def pick(self, values: Mapping[str, Any]) -> list[object]:
        """The value of each field, or `MISSING`."""
        picked = []
        for source, find in self._ways:
            # A plain name is the usual case, and a call less.
            value = values.get(source, MISSING)
            picked.append(find(values) if value is MISSING else value)
        return picked

    def render(self, values: Mapping[str, Any]) -> bytes:
        """Return the object's bytes; `UndecodableError` if nothing listed is there or cannot be scaled."""
        return self.render_picked(self.pick(values), values)

    def render_picked(self, picked: Sequence[object], values: Mapping[str, Any]) -> bytes:
        """As `render`, of what `pick` gave."""
        members = []
        has_any = self._is_constant
        for (key, arithmetic, special), value in zip(self._plan, picked, strict=True):
            if special is not None:
                if special.constant is not None:
                    members.append(key + special.constant)
                elif value is not MISSING:
                    members.append(key + special.mapped(value))
                    has_any = True
                continue
            if value is MISSING:
                continue
            has_any = True
            if arithmetic is None or value is None:
                members.append(key + (str(value).encode() if type(value) is Decimal else render_value(value)))
                continue
            number = value if type(value) is Decimal else self._read_number(value)
            members.append(key + str(self._computed(key, arithmetic, number, value)).encode())
        if not has_any:
            sources = [field.way.source for field in self.fields if field.constant is None]
            raise UndecodableError(
                f"none of the listed fields ({some(sources)}) is in the payload, which has {some(values)}"
            )
        return b"{%b}" % b",".join(members)

    @staticmethod
    def _computed(key: bytes, arithmetic: Arithmetic, number: Decimal | None, value: object) -> Decimal:
        if number is None:
            name = orjson.loads(key[:-1])
            raise UndecodableError(f"field {name}: {shown(value)} is not a number, so it cannot be scaled")
        try:
            return arithmetic.apply(number)
        except UndecodableError as error:
            raise UndecodableError(f"field {orjson.loads(key[:-1])}: {error}") from error


class Dropping:
    """Leaves out the named fields, and renders the others as a JSON object; nothing if none is left."""

    def __init__(self, drop: Sequence[str]) -> None:
        self._ways = [Way(source) for source in drop]

    def render(self, values: Mapping[str, Any]) -> bytes:
        """Return the object's bytes; nothing if there is no other field."""
        if not values:
            return b"{}"
        kept = dict(values)
        for way in self._ways:
            way.remove(kept)
        return render_object(kept) if kept else b""


def _rendered_map(values: Mapping[str, Any]) -> dict[str, bytes]:
    rendered = {key: _rendered(value) for key, value in values.items()}
    for key in values:
        # Whether the file says 1, 1.0 or "1" and the device 1 or 1.0 makes no difference.
        number = parse_plain_number(key)
        if number is not None:
            rendered.setdefault(_number_key(number), rendered[key])
    return rendered


def _rendered(value: Any) -> bytes:
    """A value of the configuration; a number keeps the digits that it was written with, as far as YAML does."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return render_value(exact(value) if is_number else value)


def _map_keys(value: object) -> tuple[str, ...]:
    """How a value may be written in the configuration."""
    match value:
        case bool():
            return ("true" if value else "false",)
        case None:
            return ("null",)
        case str():
            return (value,)
        case Numeric():
            return value.text, _number_key(value.number)
        case Decimal():
            return (_number_key(value),)
        case int():
            return (str(value),)
        case float():
            return (_number_key(Decimal(repr(value))),)
        case _:
            return ()


def _number_key(number: Decimal) -> str:
    plain = number.normalize()
    return f"{plain:f}" if abs(plain.adjusted()) <= _MAX_PLAIN_EXPONENT else str(plain)
