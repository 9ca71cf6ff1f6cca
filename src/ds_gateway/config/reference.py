"""The settings as a page of the documentation: generated from the models, so that it cannot be wrong.

python -m ds_gateway.config.reference > docs/configuration.md
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from ds_gateway.config.models import Settings
from ds_gateway.config.quantities import Bytes, Seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

_HEAD = """\
# Configuration

One YAML file: `--config FILE`, otherwise `/etc/ds-gateway/gateway.yaml`. `ds-gateway check` tells every mistake
with file, line, value and the nearest key. Ready-made files are in `config/`. This page is generated.

- YAML 1.2: `on`, `yes`, `0123` and `1:30` are text. Unknown and duplicate keys are errors.
- Sizes are bytes, or `64MiB`, `2GB`; durations are seconds, or `50ms`, `60s`, `1h`.
- `${credential:NAME}` is the file NAME in `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential), `${file:PATH}` a
  file, `${env:NAME}` a variable. They are never logged; files are read again at each
  reconnect. `$${` is a plain `${`.
- Every key can be overridden by the environment: `DS_GATEWAY__JOURNAL__MAX_BYTES=1GiB`.
- Paths are relative to the file they stand in.
"""


def markdown() -> str:
    """The whole page."""
    lines = [_HEAD]
    for title, model in _tables(Settings, ""):
        lines += [f"## {title or 'Top level'}", "", _sentence(model.__doc__ or ""), ""]
        lines += ["| key | value | default | what it is |", "|---|---|---|---|"]
        lines += [_row(field.alias or name, field) for name, field in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _tables(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        for kind, inner in _models_in(field.annotation):
            yield from _tables(inner, f"{path}.{field.alias or name}{kind}".lstrip("."))


def _models_in(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models that a field holds, with how its key is written."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models_in(arguments[0])
    elif origin in {Union, types.UnionType}:
        for argument in arguments:
            yield from _models_in(argument)
    elif origin is dict:
        yield from ((f".NAME{kind}", model) for kind, model in _models_in(arguments[1]))
    elif origin is list:
        yield from ((f"[]{kind}", model) for kind, model in _models_in(arguments[0]))


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _value(field), _default(field), _sentence(field.description or ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(field: FieldInfo) -> str:
    annotation = field.annotation
    if any(metadata in get_args(Bytes) for metadata in field.metadata):
        return "size"
    if any(metadata in get_args(Seconds) for metadata in field.metadata):
        return "duration"
    return _type(annotation)


def _type(annotation: Any) -> str:
    if annotation == Bytes:
        return "size"
    if annotation == Seconds:
        return "duration"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(dict.fromkeys(_type(each) for each in arguments if each is not type(None)))
    if origin is dict:
        return "mapping"
    if origin is list:
        return "list"
    names = {bool: "`true`, `false`", str: "text", int: "integer", float: "number", SecretStr: "secret"}
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return "mapping"
        return next((name for kind, name in names.items() if issubclass(annotation, kind)), annotation.__name__)
    return "any"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        # What depends on the machine is filled in by the loader, and described with the key.
        return "" if "default:" in (field.description or "") else "required"
    if field.default is PydanticUndefined or field.default is None or isinstance(field.default, BaseModel):
        return ""
    default = field.default
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default!r}`" if isinstance(default, str) and not default.isprintable() else f"`{default}`"


def _sentence(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.strip().split("\n\n")[0].split())


if __name__ == "__main__":
    sys.stdout.write(markdown())
