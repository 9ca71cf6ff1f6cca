"""Where a value is in a payload: a name, a way into objects with dots, or a JSON pointer (RFC 6901)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING: Final = object()
"""What `Way.find` gives where there is nothing."""

_MAX_INDEX_DIGITS: Final = 9


class Way:
    """A name on the top level; if there is none of that name, each part leads one level deeper.

    Dots lead through objects only, pointers through lists, too.
    """

    __slots__ = ("_is_pointer", "_levels", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self._is_pointer = source.startswith("/")
        if self._is_pointer:
            levels = [part.replace("~1", "/").replace("~0", "~") for part in source[1:].split("/")]
        else:
            levels = source.split(".")
        self._levels = levels if self._is_pointer or len(levels) > 1 else []

    @property
    def first(self) -> str:
        """Name of the member on the top level that it leads through."""
        return self._levels[0] if self._levels else self.source

    @property
    def last(self) -> str:
        """Name of the member that it leads to."""
        return self._levels[-1] if self._levels else self.source

    def find(self, values: Mapping[str, Any]) -> object:
        """The value, or `MISSING`."""
        value = values.get(self.source, MISSING)
        if value is not MISSING or not self._levels:
            return value
        return self._descend(values, self._levels)

    def remove(self, values: dict[str, Any]) -> None:
        """Take the value out, if it is there. Members of objects only: a list keeps its places."""
        if self.source in values:
            del values[self.source]
        elif self._levels:
            parent = self._descend(values, self._levels[:-1])
            if isinstance(parent, dict):
                parent.pop(self._levels[-1], None)

    def _descend(self, value: object, levels: list[str]) -> object:
        for level in levels:
            if isinstance(value, dict):
                value = value.get(level, MISSING)
            elif isinstance(value, list) and self._is_pointer and _is_index(level) and int(level) < len(value):
                value = value[int(level)]
            else:
                return MISSING
        return value


def _is_index(text: str) -> bool:
    return (
        text.isascii()
        and text.isdigit()
        and len(text) <= _MAX_INDEX_DIGITS
        and (text == "0" or not text.startswith("0"))
    )
