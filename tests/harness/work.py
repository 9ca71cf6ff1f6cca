"""Counts the work that is done on bytes, instead of the time that it takes: what is quadratic shows at once.

An operation on a counted value costs as many units as it looks at or copies bytes; growing a `bytearray` in place
costs what is added. What comes out of an operation is counted again.
"""

from __future__ import annotations

import builtins
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_IN_PLACE = ("__iadd__", "extend", "append", "clear")


def _whole(length: int, _arguments: Any, _result: Any) -> int:
    return length


def _range(length: int, arguments: Any, _result: Any) -> int:
    return len(range(*slice(*arguments[1:3]).indices(length))) if arguments[1:] else length


def _from_the_end(length: int, arguments: Any, result: Any) -> int:
    start, end, _ = slice(*([*arguments[1:3], None, None][:2])).indices(length)
    return end - (result if result >= 0 else start)


def _sought(_length: int, arguments: Any, _result: Any) -> int:
    return len(arguments[0])


def _item(length: int, arguments: Any, _result: Any) -> int:
    return len(range(*arguments[0].indices(length))) if isinstance(arguments[0], slice) else 1


def _moved(length: int, arguments: Any, _result: Any) -> int:
    return length - int(arguments[0].indices(length)[1])


_COSTS: dict[str, Callable[[int, Any, Any], int]] = {
    **dict.fromkeys(
        ("__add__", "__radd__", "__contains__", "join", "lstrip", "partition", "removeprefix"), _whole
    ),
    **dict.fromkeys(
        ("replace", "rpartition", "rstrip", "split", "splitlines", "strip", "translate", "decode"), _whole
    ),
    **dict.fromkeys(("count", "find", "index"), _range),
    "rfind": _from_the_end,
    **dict.fromkeys(("startswith", "endswith"), _sought),
    "__getitem__": _item,
    "__delitem__": _moved,
}


class Work:
    """Makes counted values, functions and patterns; ``done`` is what was done with them."""

    def __init__(self) -> None:
        self.done = 0
        self.bytes: Any = self._counted(builtins.bytes)
        self.bytearray: Any = self._counted(builtins.bytearray)

    def copied(self, value: Any) -> Any:
        """What ``bytes(value)`` does."""
        self.done += len(value)
        return self.bytes(value)

    def functions(self, module: Any, *names: str) -> Any:
        """A module whose functions of these names cost as much as their argument has bytes."""

        def counted(function: Any) -> Any:
            def count(value: Any) -> Any:
                self.done += len(value)
                return function(builtins.bytes(value))

            return count

        members = {**vars(module), **{name: counted(getattr(module, name)) for name in names}}
        return types.SimpleNamespace(**members)

    def pattern(self, pattern: Any) -> Any:
        """A regular expression whose matches cost what they pass over."""

        def match(text: Any, start: int = 0) -> Any:
            found = pattern.match(text, start)
            self.done += found.end() - start + 1 if found else 1
            return found

        return types.SimpleNamespace(match=match, fullmatch=pattern.fullmatch)

    def _counted(self, kind: Any) -> Any:
        members = {name: self._operation(getattr(kind, name)) for name in _COSTS if hasattr(kind, name)}
        if kind is builtins.bytearray:
            members |= {name: self._in_place(getattr(kind, name)) for name in _IN_PLACE}
        return type(f"counted_{kind.__name__}", (kind,), members)

    def _operation(self, original: Any) -> Any:
        cost = _COSTS[original.__name__]

        def counted(value: Any, *arguments: Any) -> Any:
            length = len(value)
            result = original(value, *arguments)
            self.done += cost(length, arguments, result)
            return self._wrapped(result)

        return counted

    def _in_place(self, original: Any) -> Any:
        def counted(value: Any, *arguments: Any) -> Any:
            self.done += sum(len(each) if hasattr(each, "__len__") else 1 for each in arguments)
            original(value, *arguments)
            return value

        return counted

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, list):
            return [self._wrapped(each) for each in result]
        if type(result) is builtins.bytes:
            return self.bytes(result)
        if type(result) is builtins.bytearray:
            return self.bytearray(result)
        return result
