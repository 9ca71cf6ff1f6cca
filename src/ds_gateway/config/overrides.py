"""Variables that override the file: ``DS_GATEWAY__JOURNAL__MAX_BYTES=2GiB``.

``__`` stands between the keys; letters' case does not matter. A source is named by its name with ``_`` for
dots and hyphens, an entry of a list by its number from 0: ``DS_GATEWAY__MQTT__HALL_BROKER__DEVICES__0__TOPIC``.
A value is read as the file would be: a text as it stands, anything else as YAML. Sources and other free names
must be in the file already, or be given as a whole: ``DS_GATEWAY__SERIAL='{scale: {port: /dev/ttyUSB0}}'``.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import schema
from ds_gateway.config.document import Key, Node, Path, Place, parse, printable
from ds_gateway.config.findings import ENVIRONMENT
from ds_gateway.config.models import Settings
from ds_gateway.config.unsupported import unsupported
from ds_gateway.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX: Final = Settings.model_config.get("env_prefix", "")
_DELIMITER: Final = Settings.model_config.get("env_nested_delimiter") or ""


def apply(root: Node, environ: Mapping[str, str]) -> tuple[Node, list[Problem]]:
    """The tree with the overrides in it, and a problem for each variable that fits nowhere."""
    problems: list[Problem] = []
    names = [name for name in environ if name.startswith(PREFIX)]
    # The shorter first: a variable for a whole section must not undo one for a key in it.
    for name in sorted(names, key=lambda name: (name.count(_DELIMITER), name)):
        try:
            path = _path(root, name)
            root = _replaced(root, path, _node(name, environ[name], schema.at(path)))
        except ConfigError as error:
            problems.extend(error.problems)
    return root, problems


def _path(root: Node, variable: str) -> Path:
    """The path that a variable's name means."""
    path: Path = ()
    for part in variable[len(PREFIX) :].split(_DELIMITER):
        path = (*path, _key(root, path, part, variable))
    return path


def _key(root: Node, path: Path, part: str, variable: str) -> Key:
    annotation = schema.at(path)
    model = schema.as_model(annotation)
    if model is not None:
        known: Iterable[str] = schema.fields(model)
        message = unsupported(model, part.lower(), Node(None, _place(variable)))
        if message is not None:
            raise _mistake(variable, message)
    else:
        node = root.find(path) or Node(None, root.place)
        known = node.entries or [str(index) for index in range(len(node.items))]
    for key in known:
        if _normal(key) == _normal(part):
            return int(key) if schema.is_list(annotation) else key
    raise _mistake(variable, _unknown(path, part, known))


def _unknown(path: Path, part: str, known: Iterable[str]) -> str:
    names = {_normal(key): PREFIX + _DELIMITER.join(_normal(str(step)) for step in (*path, key)) for key in known}
    nearest = difflib.get_close_matches(_normal(part), names, n=1)
    if nearest:
        return f"unknown; did you mean {printable(names[nearest[0]])}?"
    if names:
        return f"unknown; there are {', '.join(printable(name) for name in sorted(names.values()))}"
    return "unknown: nothing here has this name, and a variable cannot add a single key to it"


def _normal(key: str) -> str:
    return re.sub(r"[.-]", "_", key).upper()


def _node(variable: str, text: str, annotation: Any) -> Node:
    place = _place(variable)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _mistake(variable, "the value is not UTF-8") from None
    if schema.is_text(annotation):
        return Node(text, place, text)
    return parse(text, place)


def _place(variable: str) -> Place:
    return Place(ENVIRONMENT, None, variable)


def _mistake(variable: str, message: str) -> ConfigError:
    return ConfigError([Problem(ENVIRONMENT, None, printable(variable), message)])


def _replaced(node: Node, path: Path, value: Node) -> Node:
    """A copy of the tree with another value at this path; mappings on the way are made where there are none."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    child = _replaced(node.child(key) or Node({}, node.place), rest, value)
    if isinstance(key, int):
        items = list(node.items)
        items[key] = child
        return Node(items, node.place)
    return Node({**node.entries, key: child}, node.place)
