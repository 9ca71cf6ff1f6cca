"""Sets of positions as ranges: as small as they have gaps, however many positions they hold. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_SPANS: Final = 100_000
"""Ranges of one set, which bounds its memory to a few megabytes."""

Span = tuple[int, int]
"""First and last position."""


class TooScatteredError(Exception):
    """The set would have more than `MAX_SPANS` ranges."""


class Spans:
    """A set of positions. Adding behind everything that is there, the common case, is cheap."""

    __slots__ = ("_bounded", "_firsts", "_lasts")

    def __init__(self, spans: Iterable[Span] = (), *, bounded: bool = True) -> None:
        """``bounded``: it may have `MAX_SPANS` ranges at most."""
        self._bounded = bounded
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in spans:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Add the positions from ``first`` to ``last`` (None: the one). Raises `TooScatteredError`."""
        last = first if last is None else last
        firsts, lasts = self._firsts, self._lasts
        if lasts and first == lasts[-1] + 1:
            lasts[-1] = last
            return
        # Ranges from `start` to before `end` touch or overlap the new one and become one with it.
        start, end = bisect_left(lasts, first - 1), bisect_right(firsts, last + 1)
        if start < end:
            first, last = min(first, firsts[start]), max(last, lasts[end - 1])
        elif self._bounded and len(firsts) >= MAX_SPANS:
            raise TooScatteredError
        firsts[start:end], lasts[start:end] = [first], [last]

    def __contains__(self, position: int) -> bool:
        index = bisect_left(self._lasts, position)
        return index < len(self._firsts) and self._firsts[index] <= position

    def __iter__(self) -> Iterator[Span]:
        return zip(self._firsts, self._lasts, strict=True)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Spans({list(self)})"

    @property
    def count(self) -> int:
        """Number of positions."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    @property
    def first(self) -> int:
        """The lowest position; 0 when there is none."""
        return self._firsts[0] if self._firsts else 0

    @property
    def last(self) -> int:
        """The highest position; 0 when there is none."""
        return self._lasts[-1] if self._lasts else 0

    def __and__(self, other: Spans) -> Spans:
        """Positions that are in both."""
        common = Spans()
        mine, theirs = list(self), list(other)
        i = j = 0
        while i < len(mine) and j < len(theirs):
            first, last = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
            if first <= last:
                common.add(first, last)
            if mine[i][1] < theirs[j][1]:
                i += 1
            else:
                j += 1
        return common

    def __or__(self, other: Spans) -> Spans:
        """Positions that are in either."""
        return Spans([*self, *other])

    def __sub__(self, other: Spans) -> Spans:
        """Positions that are in this one only."""
        return self & other.complement(self.last)

    def missing(self, first: int, last: int) -> list[Span]:
        """The ranges from one position to another, both included, that are not in it."""
        gaps: list[Span] = []
        start = first
        for index in range(bisect_left(self._lasts, first), len(self._firsts)):
            if self._firsts[index] > last:
                break
            if self._firsts[index] > start:
                gaps.append((start, self._firsts[index] - 1))
            start = self._lasts[index] + 1
        if start <= last:
            gaps.append((start, last))
        return gaps

    def complement(self, last: int) -> Spans:
        """Positions from 1 to ``last`` that are not in it."""
        return Spans(self.missing(1, last))


def written(spans: Iterable[Span], most: int = 5) -> str:
    """Ranges for people: ``3, 7-9``, and how many more there are."""
    shown: list[str] = []
    more = 0
    for first, last in spans:
        if len(shown) < most:
            shown.append(str(first) if first == last else f"{first}-{last}")
        else:
            more += 1
    return ", ".join(shown) + (f" and {more} more ranges" if more else "")
