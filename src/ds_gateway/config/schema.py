"""What the models say about a path: its type, its keys, whether it holds a secret."""

from __future__ import annotations

import functools
import types
import typing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ds_gateway.config.credential import Credential
from ds_gateway.config.models import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

    from ds_gateway.config.document import Key, Path


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's fields by the name they have in a file."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def step(annotation: Any, key: Key) -> Any:
    """The type under ``key`` of a value of this type, without ``Annotated`` and ``None``; None if unknown."""
    model = as_model(annotation)
    if model is not None:
        info = fields(model).get(str(key))
        return None if info is None else plain(info.annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict and isinstance(key, str):
        return plain(arguments[1])
    if origin is list and isinstance(key, int):
        return plain(arguments[0])
    return None


def at(path: Path) -> Any:
    """The type at this path of the settings, or None."""
    annotation: Any = Settings
    for key in path:
        annotation = step(annotation, key)
    return annotation


def as_model(annotation: Any) -> type[BaseModel] | None:
    """The annotation, if it is a model."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def plain(annotation: Any) -> Any:
    """The annotation without ``Annotated`` and without ``| None``; other unions stay."""
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        elif len(members := _members(annotation)) == 1 and members[0] is not annotation:
            annotation = members[0]
        else:
            return annotation


def _members(annotation: Any) -> Sequence[Any]:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return [member for member in typing.get_args(annotation) if member is not type(None)]
    return ()


def is_secret(annotation: Any) -> bool:
    """Whether values of this type, or of its entries, must never be shown."""
    if typing.get_origin(annotation) is dict:
        return is_secret(plain(typing.get_args(annotation)[1]))
    return annotation is Credential


def is_text(annotation: Any) -> bool:
    """Whether a value of this type is taken as it stands: text, a secret, one of several words."""
    if typing.get_origin(annotation) is typing.Literal:
        return all(isinstance(word, str) for word in typing.get_args(annotation))
    return annotation in {str, Credential}


def is_list(annotation: Any) -> bool:
    """Whether a value of this type is a list."""
    return typing.get_origin(annotation) is list


def description(path: Path) -> str:
    """What the field at this path is for; empty if it is no field."""
    model = as_model(at(path[:-1])) if path else None
    info = fields(model).get(str(path[-1])) if model is not None else None
    return (info.description or "") if info is not None else ""


def places_of(key: str) -> list[str]:
    """Where a key belongs, in all sections: as journal.max_bytes, mqtt.NAME.client_id; in order."""
    return _all_places().get(key, [])


@functools.cache
def _all_places() -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for place in _places(Settings):
        places.setdefault(place.rpartition(".")[2], []).append(place.removeprefix("."))
    return {key: sorted(each) for key, each in places.items()}


def _places(annotation: Any) -> Iterator[str]:
    """The places of all keys below a value of this type."""
    model = as_model(annotation)
    if model is None:
        inner = {dict: ".NAME", list: "[]"}.get(typing.get_origin(annotation))
        if inner is not None:
            below = plain(typing.get_args(annotation)[-1])
            yield from (f"{inner}{place}" for place in _places(below))
        return
    for name, info in fields(model).items():
        yield f".{name}"
        yield from (f".{name}{place}" for place in _places(plain(info.annotation)))
