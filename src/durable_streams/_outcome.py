"""What a thread will say, and how to wait for it so that an interrupt (Ctrl-C) harms nobody.

The interrupt is an exception between any two steps of the main thread. `concurrent.futures.Future`,
`threading.Condition`, `Event`, `Thread.start` and `Thread.join` hold a lock for a while, in Python code: where one
is interrupted the lock stays locked, and the thread on the other side hangs. So what callers of a producer do is
built from what is one step: ``with`` on a lock, waiting for a lock, starting a bare thread.
"""

from __future__ import annotations

import _thread
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Outcome(Generic[T]):
    """As `concurrent.futures.Future`, of which it has what is used here. Only the first thing said counts."""

    __slots__ = ("_callbacks", "_lock", "_said")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: tuple[Any, BaseException | None] | None = None
        self._callbacks: list[Callable[[], object]] = []

    def done(self) -> bool:
        """Whether it has been said."""
        return self._said is not None

    def cancelled(self) -> bool:
        """Whether it was taken back before it was said."""
        return isinstance(self.exception(), CancelledError)

    def exception(self) -> BaseException | None:
        """The error that it is, if it is one. Does not wait."""
        return None if self._said is None else self._said[1]

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it is said; tell whether it is."""
        if self._said is None:
            waiter = threading.Lock()
            waiter.acquire()
            self.add_done_callback(waiter.release)
            try:
                waiter.acquire(timeout=-1 if timeout_seconds is None else max(timeout_seconds, 0))
            finally:
                self.remove_done_callback(waiter.release)
        return self._said is not None

    def result(self, timeout_seconds: float | None = None) -> T:
        """Wait for it, and return it or raise it. Raises TimeoutError when it takes too long."""
        self.wait(timeout_seconds)
        if self._said is None:
            raise TimeoutError
        value, error = self._said
        if error is not None:
            raise error
        result: T = value
        return result

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Have a function called once it is said, by whoever says it; at once if it was. It must not raise."""
        with self._lock:
            if self._said is None:
                self._callbacks.append(callback)
                return
        callback()

    def remove_done_callback(self, callback: Callable[[], object]) -> None:
        """Forget a callback: whoever gave up waiting leaves nothing behind."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def set_result(self, value: T) -> None:
        """Say it."""
        self._say((value, None))

    def set_exception(self, error: BaseException) -> None:
        """Say what went wrong instead."""
        self._say((None, error))

    def cancel(self) -> None:
        """Take it back: it is a `CancelledError`."""
        self.set_exception(CancelledError())

    def _say(self, what: tuple[Any, BaseException | None]) -> None:
        with self._lock:
            if self._said is not None:
                return
            self._said = what
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


def undisturbed(function: Callable[[], T], *, name: str) -> T:
    """Call a function in a thread of its own, which no interrupt reaches, and wait for it.

    It goes on when the waiting is interrupted. Where there can be no thread (none are left, or the process is
    about to end) it is called here.
    """
    outcome: Outcome[T] = Outcome()

    def run() -> None:
        try:
            outcome.set_result(function())
        # Supervision boundary: whatever it raises is raised where it is waited for.
        except BaseException as error:  # noqa: BLE001
            outcome.set_exception(error)

    def begin() -> None:
        # Not by the caller: `start` waits for the thread, and must not be interrupted in that.
        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except RuntimeError:
            run()

    try:
        _thread.start_new_thread(begin, ())
    except RuntimeError:
        run()
    return outcome.result()
