"""How far something long is: a line on a terminal, which is gone at the end; nothing where nobody looks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType


class Progress:
    """One line on standard error. A context manager; outside of a terminal it shows nothing.

    ``unit``: what is counted; empty: nothing is, only the time that it takes is shown.
    """

    def __init__(self, what: str, *, unit: str = "", console: Console | None = None) -> None:
        self._unit = unit
        self._bars: Bars | None = None
        if console is None and not sys.stderr.isatty():
            return
        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        if unit:
            columns += [BarColumn(), TextColumn("{task.fields[counted]}"), TimeRemainingColumn()]
        else:
            columns.append(TimeElapsedColumn())
        self._bars = Bars(*columns, console=console or Console(stderr=True), transient=True)
        self._task = self._bars.add_task(_safe(what), total=None, counted="")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """It is so far. ``total`` None: nobody knows how much it will be."""
        if self._bars is None:
            return
        counted = f"{done:,} {self._unit}" if total is None else f"{done:,} of {total:,} {self._unit}"
        self._bars.update(self._task, completed=done, total=total, counted=counted)
        if what is not None:
            self._bars.update(self._task, description=_safe(what))


def _safe(text: str) -> str:
    """Names come from outside: nothing in them is markup or a command to the terminal."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return Text(plain).markup
