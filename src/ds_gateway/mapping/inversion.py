"""From the name of a device back to the captures of its topic: the exact inverse of a ``name`` template.

    name {hall}/{sensor}     "h1/s2" -> {"hall": "h1", "sensor": "s2"}, and nothing else

It is exact because a capture never holds a slash, and a slash stands between any two of them. A last ``{rest...}``
takes slashes, too, and must be the last capture.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from ds_gateway.mapping.errors import MappingError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_ONE_LEVEL: Final = r"[^/+#\0]+"
_REST: Final = r"[^+#\0]+"


class NameInverse:
    """The inverse of one template. Raises `MappingError` with the key ``name`` where there is no exact one.

    ``rest`` is the capture that takes several levels, or None. Every placeholder is known to be a capture;
    ``is_literal``: braces are only braces.
    """

    __slots__ = ("_levels", "_regex", "captures", "is_fixed", "template")

    def __init__(self, template: str, rest: str | None = None, *, is_literal: bool = False) -> None:
        parts = [template] if is_literal else PLACEHOLDER.split(template)
        literals, names = parts[::2], parts[1::2]
        for index, (name, following) in enumerate(pairwise(names)):
            if name == rest:
                raise MappingError(
                    f"name {template!r}: {{{name}}} takes several levels, so a command cannot be led back to its "
                    f"topic: put {{{name}}} last",
                    key="name",
                )
            if "/" not in literals[index + 1]:
                raise MappingError(
                    f"name {template!r}: a command could not tell where {{{name}}} ends and {{{following}}} "
                    f"begins: put a slash between them, as {{{name}}}/{{{following}}}",
                    key="name",
                )
        self.template = template
        self.captures = frozenset(names)
        self.is_fixed = not names
        """Whether it is one name, and not a family of them."""
        self._regex = re.compile(_pattern(literals, names, rest), re.DOTALL)
        self._levels = ([], False) if self.is_fixed else _levels(template, rest)

    def captures_of(self, device: str) -> dict[str, str] | None:
        """What each capture took when this name was made; None if it cannot be one of these names."""
        match = self._regex.fullmatch(device)
        return None if match is None else match.groupdict()

    def meets(self, other: NameInverse) -> bool:
        """Whether some name can be made by both, as far as their fixed text tells; True when in doubt."""
        if self.is_fixed:
            return other.captures_of(self.template) is not None
        if other.is_fixed:
            return self.captures_of(other.template) is not None
        (mine, mine_open), (theirs, theirs_open) = self._levels, other._levels
        # An open end takes at least one level more than the fixed ones before it.
        if mine_open and theirs_open:
            is_long_enough = True
        elif mine_open:
            is_long_enough = len(theirs) > len(mine)
        elif theirs_open:
            is_long_enough = len(mine) > len(theirs)
        else:
            is_long_enough = len(mine) == len(theirs)
        return is_long_enough and all(_level_meets(a, b) for a, b in zip(mine, theirs, strict=False))


def _pattern(literals: list[str], names: list[str], rest: str | None) -> str:
    text = re.escape(literals[0])
    seen: set[str] = set()
    for name, literal in zip(names, literals[1:], strict=True):
        if name in seen:
            text += f"(?P={name})"
        else:
            text += f"(?P<{name}>{_REST if name == rest else _ONE_LEVEL})"
        seen.add(name)
        text += re.escape(literal)
    return text


def _levels(template: str, rest: str | None) -> tuple[list[tuple[str, str] | str], bool]:
    """Each level of the names: its text, or what is before and behind its capture; and whether more may follow."""
    levels: list[tuple[str, str] | str] = []
    for level in template.split("/"):
        parts = PLACEHOLDER.split(level)
        if len(parts) == 1:
            levels.append(level)
        elif parts[1] == rest:
            return levels, True
        else:
            levels.append((parts[0], parts[2]))
    return levels, False


def _level_meets(one: tuple[str, str] | str, other: tuple[str, str] | str) -> bool:
    """Whether some level is matched by both."""
    match one, other:
        case str(), str():
            return one == other
        case str(), (before, behind):
            return _is_between(one, before, behind)
        case (before, behind), str(other):
            return _is_between(other, before, behind)
        case (a, b), (c, d):
            return (a.startswith(c) or c.startswith(a)) and (b.endswith(d) or d.endswith(b))
    raise AssertionError("a level is text, or what surrounds a capture")


def _is_between(text: str, before: str, behind: str) -> bool:
    return text.startswith(before) and text.endswith(behind) and len(text) > len(before) + len(behind)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put the captures in; every placeholder has one."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def topic_template(
    text: str, captures: Collection[str], rest: str | None, *, known: Collection[str], key: str
) -> str:
    """Check the topic of a command or an answer, and return it with plain placeholders. Raises `MappingError`.

    ``captures`` are those that a device's name gives back, ``known`` those of its topic.
    """
    if rest is not None:
        text = text.replace(f"{{{rest}...}}", f"{{{rest}}}")
    for name in PLACEHOLDER.findall(text):
        if name in captures:
            continue
        if name in known:
            raise MappingError(
                f"{text!r}: {{{name}}} is not in the name of the device, so no command could tell what it is: put "
                f"{{{name}}} into name",
                key=key,
            )
        there = ", ".join(f"{{{each}}}" for each in sorted(captures)) or "none, give topic a {name} for a level"
        raise MappingError(f"{text!r}: {{{name}}} is no capture of the topic; there are {there}", key=key)
    literal = PLACEHOLDER.sub("x", text)
    if "{" in literal or "}" in literal:
        raise MappingError(f"{text!r}: a brace is open; a placeholder is {{name}}", key=key)
    if "+" in literal or "#" in literal:
        raise MappingError(
            f"{text!r}: + and # are no levels of one topic: name that level in the entry's topic, as {{name}}, "
            "and write the same here",
            key=key,
        )
    if "\0" in literal or literal.startswith("$share/"):
        raise MappingError(f"{text!r} is no topic that can be published to", key=key)
    return text


def reply_filter(template: str, rest: str | None) -> str:
    """The topic filter that matches the answers of all devices of an entry."""
    levels: list[str] = []
    for level in template.split("/"):
        names = PLACEHOLDER.findall(level)
        if rest in names:
            return "/".join([*levels, "#"])
        levels.append("+" if names else level)
    return "/".join(levels)
