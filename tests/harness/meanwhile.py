"""What happens around a command that runs in this process."""

from __future__ import annotations

import _thread
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do it in another thread while the command runs in this one; what fails there fails here."""
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        # A command that has no end of its own must not outlive what the test does.
        acting.add_done_callback(lambda done: _thread.interrupt_main() if done.exception() is not None else None)
        yield
        acting.result()
