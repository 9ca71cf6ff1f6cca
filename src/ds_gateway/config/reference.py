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

One YAML file: `--config FILE`, otherwise `/etc/ds-gateway/gateway.yaml`, and the files that it includes.
`ds-gateway check` tells every mistake with file, line, value and the nearest key. Ready-made files are in
`config/`. This page is generated.

- YAML 1.2: `on`, `yes`, `0123` and `1:30` are text. Unknown and duplicate keys are errors.
- Sizes are bytes, or `64MiB`, `2GB`; durations are seconds, or `50ms`, `60s`, `1h`.
- `${credential:NAME}` is the file NAME in `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential), `${file:PATH}` a
  file, `${env:NAME}` a variable. They are never logged; files are read again at each reconnect. `$${` is a
  plain `${`.
- Every key can be overridden by the environment: `DS_GATEWAY__JOURNAL__MAX_BYTES=1GiB`.
- Paths are relative to the file they stand in.

## Several files

```yaml
include: [devices/*.yaml, secrets/server.yaml]
```

At the top of a file: paths, or patterns with `*`, `?` and `[...]`, relative to that file; what a pattern finds
is sorted by name, without hidden files. Mappings of all files are merged: one file can add a source to `mqtt`,
another one a key to `server`. A key that two files have is an error that names both places; lists are not
joined. Included files may include others, four deep. A file that is not there or may not be read, and a pattern
that finds nothing, are errors: devices would silently be missing. The environment's overrides come last.
`config_digest` in the status is of all files together.

## In an editor

`ds-gateway schema --output gateway.schema.json` writes the configuration as JSON Schema (2020-12). With this
first line an editor with the YAML language server (VS Code, Neovim, Emacs, Helix) completes keys, shows what
they are, and marks mistakes while they are typed:

```yaml
# yaml-language-server: $schema=gateway.schema.json
```

The path is relative to the file. For included files, in which nothing is required: `ds-gateway schema
--included`. What `ds-gateway check` accepts the schema accepts, but for what the environment gives: a required
key that only a variable sets is marked as missing. These mistakes only `check` finds:

- no source at all; two sources on one port, two clients with one id, and other keys that exclude or need one
  another;
- topics, captures, stream names, patterns and hosts; what a broker's or server's URL has behind its scheme;
- bounds of sizes and durations that are written with a unit; whole numbers written as `4.0`;
- references, certificates and included files that are not there; the same key in two files.

## An invalid file

`ds-gateway run` ends with exit status 2 and every mistake. **As a service** (systemd's `NOTIFY_SOCKET` or
`INVOCATION_ID`) it runs the last valid configuration instead, so that a typing mistake turns no gateway off
that somebody would have to drive to. It says so: each mistake as `gateway.config.invalid` in the log, at level
error; in `systemctl status`; at the top of `ds-gateway status`, and there under `gateway.config_refused` with
`--json`. Correct the file, `ds-gateway check` it, and `systemctl reload` it. `run --strict` ends
with 2 as a service, too.

The last valid one is a copy of the file and all that it includes, made after each successful start:
`last-valid-config.json` in `data_dir`, readable by the gateway's user alone. References (`${...}`) are kept as
they are written and followed anew; a secret that is written into a file itself is in the copy, too. The
environment is that of the new start: what is wrong there, or in a credential, the copy does not help against.
An invalid file may not tell where its `data_dir` is. So the copy is also kept in `$STATE_DIRECTORY`, which
systemd sets whatever the file says; it is looked for in the `data_dir` of the file, if that can be read, in
that of `DS_GATEWAY__DATA_DIR`, and in the default. A copy counts for the path of its own file only. A
configuration that is invalid while the gateway runs is refused by `reload`, and nothing changes.
"""


def markdown() -> str:
    """The whole page."""
    lines = [_HEAD]
    first: dict[type[BaseModel], str] = {}
    for title, model in _tables(Settings, "", set()):
        lines += [f"## {title or 'Top level'}", "", _sentence(model.__doc__ or ""), ""]
        if first.setdefault(model, title) != title:
            lines += [f"Its keys are those of `{first[model]}`.", ""]
            continue
        lines += ["| key | value | default | what it is |", "|---|---|---|---|"]
        lines += [_row(field.alias or name, field) for name, field in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _tables(
    model: type[BaseModel], path: str, seen: set[type[BaseModel]]
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every place of a model; what is below one only where it is first."""
    yield path, model
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        for kind, inner in _models_in(field.annotation):
            yield from _tables(inner, f"{path}.{field.alias or name}{kind}".lstrip("."), seen)


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
        # A bound of its own, as Annotated[Seconds, Field(le=60)], makes a new type of it.
        kinds = ((Bytes, "size"), (Seconds, "duration"))
        known = (name for kind, name in kinds if get_args(kind)[1] in arguments)
        return next(known, _type(arguments[0]))
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
