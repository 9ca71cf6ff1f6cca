"""What happens around a command that runs in this process."""

from __future__ import annotations

import _thread
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do it in another thread while the command runs in this one; what fails there fails here."""
    with ThreadPoolExecutor(1) as pool:
        is_over = threading.Event()

        def end(done: Future[object]) -> None:
            # A command that has no end of its own must not outlive what the test does.
            if done.exception() is not None and not is_over.is_set():
                _thread.interrupt_main()

        acting = pool.submit(act)
        acting.add_done_callback(end)
        yield
        is_over.set()
        acting.result()
