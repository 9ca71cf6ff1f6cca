"""Tells at the end of a program which messages nobody will send any more, because a producer was not closed."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from durable_streams._window import Window

_log = logging.getLogger("durable_streams.producer")

_WINDOWS: Final[weakref.WeakSet[Window]] = weakref.WeakSet()
_PROCESS: Final = os.getpid()


def watch(window: Window) -> None:
    """Have it told if this one is not empty at the end."""
    _WINDOWS.add(window)


@atexit.register
def tell() -> None:
    """Log a warning for each window that is not empty. A forked process leaves that to its parent."""
    if os.getpid() != _PROCESS:
        return
    for window in list(_WINDOWS):
        if window.pending_count:
            _log.warning(
                "producer.unsent url=%s messages=%d the program ends without close() or flush()",
                window.settings.url,
                window.pending_count,
            )
