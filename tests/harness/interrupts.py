"""Ctrl-C at a chosen step of a call, again and again, until it got through the whole of it."""

from __future__ import annotations

import linecache
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import durable_streams
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_STEPPED = (
    str(Path(durable_streams.__file__).parent),
    threading.__file__,
    str(Path(threading.__file__).parent / "concurrent"),
)


def interrupted(call: Callable[[], object], step: int) -> bool:
    """Call, and raise KeyboardInterrupt at the step; tell whether there is such a step.

    A step is a line of the library, or of what it builds on, or a return from there. Entering and leaving ``with``
    on a lock are none: the interpreter looks for a signal neither in between nor on the way out.
    """
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(_STEPPED):
            return None
        is_step = event == "return" or (
            event == "line"
            and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")
        )
        if is_step:
            seen += 1
            if seen == step:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return seen >= step


def within_seconds(call: Callable[[], object], *, what: str, timeout_seconds: float = 20.0) -> None:
    """Call in a thread, so that a call that hangs fails the test instead; raise what it raises."""
    outcomes: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            outcomes.append(error)
        else:
            outcomes.append(None)

    threading.Thread(target=run, name=what, daemon=True).start()
    wait_until(lambda: outcomes, timeout_seconds=timeout_seconds, what=what)
    if outcomes[0] is not None:
        raise outcomes[0]
