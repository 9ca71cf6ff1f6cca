"""MQTT topic filters with named captures (MQTT 5, section 4.7).

sensors/{hall}/{sensor}/telemetry     {name} is + with a name
sensors/{path...}                     a last {name...} is # with a name
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ds_gateway.mapping.errors import MappingError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")
_MAX_TOPIC_BYTES: Final = 65535
_RESERVED: Final = "gateway"

_ONE: Final = "+"
_REST: Final = "#"


class TopicPattern:
    """A topic filter that names some of its wildcards. Immutable; `MappingError` (a ValueError) if malformed."""

    __slots__ = ("_levels", "_names", "captures", "filter", "pattern", "rest")

    def __init__(self, pattern: str) -> None:
        _check_whole(pattern)
        levels: list[str] = []
        names: list[str | None] = []
        parts = pattern.split("/")
        for number, part in enumerate(parts, start=1):
            level, name = _parse_level(pattern, part, is_last=number == len(parts))
            if name is not None and name in names:
                raise _mistake(pattern, f"the capture {{{name}}} is there twice; give each its own name")
            levels.append(level)
            names.append(name)
        self.pattern = pattern
        self.filter = "/".join(levels)
        """What to subscribe to."""
        self.captures = tuple(name for name in names if name is not None)
        """Names of the captures, from left to right."""
        self.rest = names[-1] if levels[-1] == _REST else None
        """Name of the capture that takes the rest, if there is one."""
        self._levels = levels
        self._names = names

    def __repr__(self) -> str:
        return f"TopicPattern({self.pattern!r})"

    def match(self, topic: str) -> dict[str, str] | None:
        """What each capture takes of a concrete topic, from left to right; None where it does not match."""
        values = topic.split("/")
        if topic.startswith("$") and self._levels[0] in {_ONE, _REST}:
            return None  # [MQTT-4.7.2-1]
        captured: dict[str, str] = {}
        for index, (level, name) in enumerate(zip(self._levels, self._names, strict=True)):
            if level == _REST:
                # The parent level matches too (section 4.7.1.2): then there is nothing left to take.
                if name is not None:
                    captured[name] = "/".join(values[index:])
                return captured
            if index >= len(values) or (level not in {_ONE, values[index]}):
                return None
            if name is not None:
                captured[name] = values[index]
        return captured if len(values) == len(self._levels) else None

    def topic(self, captured: Mapping[str, str]) -> str | None:
        """The topic whose captures these are; None if they do not say what it is."""
        levels = [
            level if level not in {_ONE, _REST} else captured.get(name or "")
            for level, name in zip(self._levels, self._names, strict=True)
        ]
        known = [level for level in levels if level is not None]
        return "/".join(known) if len(known) == len(levels) else None


def topic_filter(pattern: str) -> str:
    """The MQTT filter to subscribe to for a pattern: ``a/{x}/{rest...}`` is ``a/+/#``."""
    return TopicPattern(pattern).filter


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that the filter ``narrow`` matches is matched by the filter ``wide`` too."""
    wide_levels, narrow_levels = wide.split("/"), narrow.split("/")
    if narrow_levels[0].startswith("$") and wide_levels[0] in {_ONE, _REST}:
        return False
    for index, level in enumerate(wide_levels):
        if level == _REST:
            return True
        if index >= len(narrow_levels) or narrow_levels[index] == _REST:
            return False
        if level not in {_ONE, narrow_levels[index]}:
            return False
    return len(wide_levels) == len(narrow_levels)


def overlap(one: str, other: str) -> bool:
    """Whether some topic is matched by both filters."""
    a, b = one.split("/"), other.split("/")
    if any(x[0].startswith("$") and y[0] in {_ONE, _REST} for x, y in ((a, b), (b, a))):
        return False
    for index in range(max(len(a), len(b))):
        left = a[index] if index < len(a) else None
        right = b[index] if index < len(b) else None
        if _REST in {left, right}:
            # All that these two have in common is the empty topic, which is none (MQTT 5, 4.7.3).
            return {one, other} != {_ONE, f"/{_REST}"}
        if left is None or right is None or (left != right and _ONE not in {left, right}):
            return False
    return True


def _check_whole(pattern: str) -> None:
    if not pattern:
        raise _mistake(pattern, "a topic filter has at least one character")
    if pattern == "$share" or pattern.startswith("$share/"):
        raise _mistake(
            pattern,
            "shared subscriptions lose messages with a persistent session: they stay parked for a member that "
            "is away; subscribe to the topic itself",
        )
    if "\0" in pattern:
        raise _mistake(pattern, "a topic has no NUL character")
    if len(pattern.encode(errors="surrogatepass")) > _MAX_TOPIC_BYTES:
        raise _mistake(pattern[:40] + "...", f"a topic has at most {_MAX_TOPIC_BYTES} bytes")


def _parse_level(pattern: str, part: str, *, is_last: bool) -> tuple[str, str | None]:
    """The level as in a filter, and the name of its capture."""
    if part == _ONE:
        return _ONE, None
    if part == _REST:
        if not is_last:
            raise _mistake(pattern, "# takes the rest of a topic, so it can only be the last level")
        return _REST, None
    match = _CAPTURE.fullmatch(part)
    if match is not None:
        name, rest = match.groups()
        if name == _RESERVED:
            raise _mistake(pattern, "{gateway} is the gateway's own id; give the capture another name")
        if rest and not is_last:
            raise _mistake(pattern, f"{{{name}...}} takes the rest of a topic, so it can only be the last level")
        return (_REST if rest else _ONE), name
    if part in {"{}", "{...}"}:
        raise _mistake(pattern, f"{part} has no name; write {{name}} or, for the rest, {{name...}}")
    for wildcard in (_ONE, _REST):
        if wildcard in part:
            raise _mistake(pattern, f"{wildcard} stands for a whole level, but {part!r} has more around it")
    if "{" in part or "}" in part:
        raise _mistake(
            pattern,
            f"{part!r} is no capture: {{name}} takes a whole level, and a name has letters, digits and _ only",
        )
    return part, None


def _mistake(pattern: str, why: str) -> MappingError:
    return MappingError(f"topic {pattern!r}: {why}", key="topic")
