"""pydantic's errors in words for an operator: what is expected, what is there, never a secret."""

from __future__ import annotations

import difflib
import re
import typing
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import schema

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from ds_gateway.config.document import Node, Path

_EXPECTED: Final = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "list_type": "must be a list, each entry behind a hyphen",
    "too_short": "must have at least {min_length} entry",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}
_NUMBERS: Final = ("must be a number", "must be a whole number")
_MAX_SHOWN: Final = 60
_KEY: Final = "[key]"


def path_of(error: ErrorDetails) -> Path:
    """Where the error is, without pydantic's mark for keys."""
    return tuple(key for key in error["loc"] if key != _KEY)


def message_of(error: ErrorDetails, root: Node) -> str:
    """The text of an error; ``root`` has the values as they were written."""
    path = path_of(error)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        description = schema.description(path)
        return f"is required: {description}" if description else "is required"
    if kind == "literal_error":
        return _choice(path, root)
    if kind == "value_error":
        message = str(context["error"])
    elif kind in _EXPECTED:
        message = _EXPECTED[kind].format_map({name: _number(value) for name, value in context.items()})
    else:
        message = f"must be something else ({kind})"
    if not message.startswith("must "):
        return message
    if _KEY in error["loc"]:
        return f"{message}, not {path[-1]!r}"
    if kind == "string_type" and _is_number(path, root):
        message += "; put it in quotes"
    if message.startswith(_NUMBERS):
        message += _as_a_number(root.nearest(path).value)
    there = _there(path, root)
    if there is None or kind in {"too_short", "string_too_short"}:
        return message
    expected, semicolon, advice = message.partition(";")
    return f"{expected}, not {there}{semicolon}{advice}"


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_a_number(value: object) -> str:
    """How a text would be a number: empty if it is none."""
    if not isinstance(value, str) or re.fullmatch(r"[-+]?[0-9]{1,20}([.,][0-9]{1,20})?", value.strip()) is None:
        return ""
    point = f", with a point: {value.strip().replace(',', '.')}" if "," in value else ""
    return f"; write it without quotes{point}"


def _choice(path: Path, root: Node) -> str:
    words = [str(word) for word in typing.get_args(schema.at(path))]
    there = _there(path, root)
    node = root.nearest(path)
    nearest = difflib.get_close_matches(str(node.value).lower(), words, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    what = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    return f"must be {what}, not {there}{hint}"


def _is_number(path: Path, root: Node) -> bool:
    return isinstance(root.nearest(path).value, bool | int | float)


def _there(path: Path, root: Node) -> str | None:
    """The value as it was written; None if it is a secret or not in the file."""
    node = root.find(path) or root.nearest(path)
    if root.find(path) is None and isinstance(node.value, dict | list):
        return None  # a word that is short for a mapping, on the other hand, is what is there
    if any(schema.is_secret(schema.at(path[:length])) for length in range(1, len(path) + 1)):
        return None
    match node.value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str(text):
            shown = _without_secrets(text)
            return repr(shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}...")
        case _:
            return node.written[:_MAX_SHOWN]


def _without_secrets(text: str) -> str:
    """A URL without its user, password and query: they may be secrets in the wrong place."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", re.sub(r"(?<=\?).*", "***", text, flags=re.DOTALL))
