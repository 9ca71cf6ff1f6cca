"""The process of one of those who are measured: a task a line on standard input, its result a line on the output.

A task is ``{"task": NAME, ...}``, a result ``{"result": {...}}`` or ``{"error": TEXT}``; a live task prints lines
of its own before its result. Nothing but the standard library: every environment runs it.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Stopwatch:
    """Wall-clock and processor time of what happens inside it."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _begun: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> Self:
        gc.collect()
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begun[0]
        self.cpu_seconds = time.process_time() - self._begun[1]

    def result(self, **more: Any) -> dict[str, Any]:
        """What is sent back."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, **more}


def tell(**line: Any) -> None:
    """Send a line to whoever measures."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def serve(tasks: Mapping[str, Callable[..., Any]]) -> None:
    """Do tasks until standard input ends."""
    for line in sys.stdin:
        arguments = json.loads(line)
        name = arguments.pop("task")
        try:
            result = tasks[name](**arguments)
        # Supervision boundary: whatever a client raises is its result, and the next task is done all the same.
        except Exception as error:  # noqa: BLE001
            tell(error=f"{type(error).__name__}: {error}"[:120])
        else:
            tell(result=result)
