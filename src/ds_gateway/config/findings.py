"""The mistakes found so far, each with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.config.document import Node, Path, Place, dotted, printable
from ds_gateway.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENT = "environment"


class Findings:
    """Collects problems about a tree; one mistake is told once, however many checks stumble over it."""

    def __init__(self, root: Node, redact: Callable[[str], str]) -> None:
        self._root = root
        self._redact = redact
        self._told: list[tuple[Path, Problem]] = []
        self._hushed: set[Path] = set()

    def add(self, path: Path, message: str, *, place: Place | None = None) -> None:
        """A mistake at this path; the place is looked up in the tree unless it is given."""
        where = self._root.nearest(path).place if place is None else place
        message = self._redact(message)
        if where.variable is None:
            found = Problem(where.file, where.line, dotted(path), printable(message))
        else:
            inside = f"{dotted(path)}: " if self._is_inside(path, where.variable) else ""
            found = Problem(where.file, None, where.variable, printable(f"{inside}{message}"))
        self._told.append((path, found))

    def _is_inside(self, path: Path, variable: str) -> bool:
        """Whether the variable gave something larger, of which this path is a part."""
        return any(self._root.nearest(path[:length]).place.variable == variable for length in range(len(path)))

    def hush(self, path: Path) -> None:
        """Say nothing about this path: a mistake told elsewhere explains what will be found there."""
        self._hushed.add(path)

    def is_told(self, path: Path) -> bool:
        """Whether a mistake at this path, or around it, is told already."""
        around = [told for told, _ in self._told if told] + list(self._hushed)
        return any(path[: len(other)] == other for other in around)

    def is_sound(self, path: Path) -> bool:
        """Whether no mistake is known at this path, around it or below it."""
        return not self.is_told(path) and not any(told[: len(path)] == path for told, _ in self._told)

    @property
    def problems(self) -> list[Problem]:
        """All, in file order, those of included files behind the first; those of the environment last."""
        found = [entry for _, entry in self._told]
        first = self._root.place.file

        def order(entry: Problem) -> tuple[bool, bool, str, int]:
            return entry.file == ENVIRONMENT, entry.file != first, entry.file, entry.line or 0

        return sorted(found, key=order)
