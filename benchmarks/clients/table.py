"""Results as a table: each number beside the limit of its section, with the target and whether it is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Kind(Enum):
    """What a target is about."""

    RATIO = "times the base"
    DIFFERENCE = "more than the base"
    VALUE = "at most"


@dataclass(frozen=True)
class Target:
    """What is to be reached."""

    kind: Kind
    limit: float

    def __str__(self) -> str:
        match self.kind:
            case Kind.RATIO:
                return f"<= {self.limit:g} x"
            case Kind.DIFFERENCE:
                return f"<= +{self.limit:g}"
            case Kind.VALUE:
                return f"< {self.limit:g}"


@dataclass
class Row:
    """One way of doing it: a value for each round, in the section's unit."""

    name: str
    base: str | None = None
    """The row that it is compared with, measured in the same rounds."""
    target: Target | None = None
    values: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)


@dataclass
class Section:
    """One measurement."""

    title: str
    unit: str
    rows: Sequence[Row]
    per_second: str | None = None
    """What is counted where the unit is the microseconds of one: its rate is shown, too."""

    def ratio(self, row: Row) -> float | None:
        """How many times its base it is: the median over rounds, each with its own base."""
        pairs = self._pairs(row)
        return median(value / base for value, base in pairs) if pairs else None

    def difference(self, row: Row) -> float | None:
        """How much more than its base it is."""
        pairs = self._pairs(row)
        return median(value - base for value, base in pairs) if pairs else None

    def reached(self, row: Row) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if row.target is None:
            return None
        if row.failure is not None or not row.values:
            return False
        match row.target.kind:
            case Kind.RATIO:
                measured = self.ratio(row)
            case Kind.DIFFERENCE:
                measured = self.difference(row)
            case Kind.VALUE:
                measured = row.value
        return measured is not None and measured <= row.target.limit

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        rows = [
            {
                "name": row.name,
                "values": row.values,
                "median": row.value if row.values else None,
                "base": row.base,
                "ratio": self.ratio(row),
                "target": None if row.target is None else str(row.target),
                "reached": self.reached(row),
                "failure": row.failure,
            }
            for row in self.rows
        ]
        return {"title": self.title, "unit": self.unit, "rows": rows}

    def lines(self) -> Iterator[str]:
        """The section as lines of a Markdown table."""
        rate = "" if self.per_second is None else f" {self.per_second}/s |"
        yield f"| {self.title} | {self.unit} |{rate} of its base | target | reached |"
        yield f"|---|---:|{'---:|' if rate else ''}---:|---|---|"
        for row in self.rows:
            yield f"| {' | '.join(self._cells(row))} |"

    def _cells(self, row: Row) -> tuple[str, ...]:
        if row.failure is not None or not row.values:
            value, beside = row.failure or "-", ""
            if self.per_second is not None:
                value += " |"
        else:
            value, beside = _number(row.value), self._beside(row)
            if self.per_second is not None:
                value += f" | {_number(1e6 / row.value)}"
        reached = {None: "", True: "yes", False: "no"}[self.reached(row)]
        return row.name, value, beside, "" if row.target is None else str(row.target), reached

    def _beside(self, row: Row) -> str:
        ratio, difference = self.ratio(row), self.difference(row)
        if ratio is None or difference is None:
            return ""
        if row.target is not None and row.target.kind is Kind.DIFFERENCE:
            return f"{difference:+.2f}"
        return f"{ratio:.2f} x"

    def _pairs(self, row: Row) -> list[tuple[float, float]]:
        bases = [each.values for each in self.rows if each.name == row.base]
        return list(zip(row.values, bases[0], strict=False)) if bases else []


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
