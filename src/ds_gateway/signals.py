"""The signals of the process, for as long as a gateway runs."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STOP: Final = (signal.SIGTERM, signal.SIGINT)
"""Both mean: no more intake, drain, exit 0. So does SIGHUP of a terminal that is closed; a service takes up its
changed configuration then."""


def catch(loop: asyncio.AbstractEventLoop, end: Callable[[], None], hang_up: Callable[[], None]) -> None:
    """Let these be called, on the loop, when a signal comes."""
    for number in STOP:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, hang_up)


async def restore(loop: asyncio.AbstractEventLoop) -> None:
    """From here on a signal ends the process: everything is committed. What came before still counts."""
    for number in STOP:
        signal.signal(number, signal.SIG_DFL)
    for _ in range(3):  # turns of the loop: its pipe is read, the signal is told, `end` is called
        await asyncio.sleep(0)
    for number in (*STOP, signal.SIGHUP):
        loop.remove_signal_handler(number)
    # Whatever it asks for is under way; and whoever starts anew must not die of it in between.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
