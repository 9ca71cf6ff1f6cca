"""Names with placeholders: ``{hall}/{sensor}``."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from ds_gateway.mapping.errors import MappingError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Template:
    """Text with placeholders. ``key`` is the setting it comes from, for the text of a mistake."""

    __slots__ = ("_format", "placeholders", "text")

    def __init__(self, text: str, known: Collection[str], *, key: str) -> None:
        names = _PLACEHOLDER.findall(text)
        for name in names:
            if name not in known:
                raise MappingError(_unknown(text, name, known, key), key=key)
        literals = _PLACEHOLDER.split(text)[::2]
        if any("{" in literal or "}" in literal for literal in literals):
            raise MappingError(f"{key} {text!r}: a brace is open; a placeholder is {{name}}", key=key)
        self.text = text
        self.placeholders = frozenset(names)
        # The names are known identifiers and no other brace is left, so this is safe for str.format_map.
        self._format = text.format_map

    def render(self, values: Mapping[str, str]) -> str:
        """Put the values in; each placeholder has one."""
        return self._format(values)


def _unknown(text: str, name: str, known: Collection[str], key: str) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        hint = f"did you mean {{{nearest[0]}}}?"
    elif known:
        hint = "there are " + ", ".join(f"{{{other}}}" for other in sorted(known))
    else:
        hint = "there are no captures here"
    return f"{key} {text!r}: {{{name}}} is unknown; {hint}"
