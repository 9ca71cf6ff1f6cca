"""Which requests came, and which of the planned faults applies to each: decided here, done in `_layer`."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from durable_streams.testing._faults import Course, course

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from durable_streams.testing._faults import Fault

_UNHARMED: Final = Course()
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_KEPT_REQUESTS: Final = 1000
"""With their bodies: a server that runs for long must not keep all that it was ever sent."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it arrived, whether the server saw it or not."""

    method: str
    path: str
    """Percent-decoded, with its leading slash."""
    query: str
    headers: dict[str, str]
    """Names in lower case; the values of a repeated one are joined by commas."""
    body: bytes


class FaultPlan:
    """Faults that are used up one a request. Any thread may use it.

    As a context manager it is removed at the end of the block.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        *,
        method: str | None,
        path: str | None,
        where: Callable[[RecordedRequest], object] | None,
        times: int | None,
        lock: threading.RLock,
        set_from_any_thread: Callable[[asyncio.Event], None],
    ) -> None:
        self.method = method
        self.path = path
        self.where = where
        self.released = asyncio.Event()
        """Belongs to the server's loop."""
        self._courses = courses
        self._most = None if times is None else times * len(courses)
        self._lock = lock
        self._set = set_from_any_thread
        self._taken = 0
        self._requests: deque[RecordedRequest] = deque(maxlen=_KEPT_REQUESTS)
        self.removed = False

    @property
    def left(self) -> int | None:
        """How many requests it will still be applied to; None: to all, until it is removed."""
        if self.removed:
            return 0
        return None if self._most is None else self._most - self._taken

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The latest 1000 of those it was applied to, also of those that its None let pass."""
        with self._lock:
            return tuple(self._requests)

    def release(self) -> None:
        """Let go what `Hold` holds back; from now on it holds nothing."""
        self._set(self.released)

    def remove(self) -> None:
        """Apply it to no more requests, and let go what it holds back."""
        self.removed = True
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def take(self, request: RecordedRequest) -> Course | None:
        """What happens to a request, if anything is left for such a one. With the lock."""
        if self.left == 0 or self.method not in {None, request.method} or self.path not in {None, request.path}:
            return None
        if self.where is not None and not self.where(request):
            return None
        turn = self._taken % len(self._courses)
        self._taken += 1
        self._requests.append(request)
        return self._courses[turn]


class Plans:
    """All requests and all plans of a server. Any thread may use it."""

    def __init__(self, set_from_any_thread: Callable[[asyncio.Event], None]) -> None:
        self._set = set_from_any_thread
        self._lock = threading.RLock()  # ``where`` is called with it, and may ask for requests
        self._requests: deque[RecordedRequest] = deque(maxlen=_KEPT_REQUESTS)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._plans: list[FaultPlan] = []

    @property
    def requests(self) -> list[RecordedRequest]:
        """The latest that came, in order."""
        with self._lock:
            return list(self._requests)

    def count(self, method: str, path: str | None) -> int:
        """How many came in all, with this method and path (None: any)."""
        wanted, wanted_path = _method(method), None if path is None else _path(path)
        with self._lock:
            if wanted_path is not None:
                return self._counts[wanted, wanted_path]
            return sum(count for (each, _), count in self._counts.items() if each == wanted)

    def inject(
        self,
        faults: Sequence[Fault | tuple[Fault, ...] | None],
        *,
        method: str | None,
        path: str | None,
        where: Callable[[RecordedRequest], object] | None,
        times: int | None,
    ) -> FaultPlan:
        """A new plan behind those that there are."""
        if not faults:
            raise ValueError("a plan needs at least one fault, or None for a request that passes")
        if times is not None and times < 1:
            raise ValueError(f"a plan is used once or more, or for ever (None), not {times!r} times")
        plan = FaultPlan(
            [course(each) for each in faults],
            method=None if method is None else _method(method),
            path=None if path is None else _path(path),
            where=where,
            times=times,
            lock=self._lock,
            set_from_any_thread=self._set,
        )
        with self._lock:
            self._plans = [each for each in self._plans if not each.removed]
            self._plans.append(plan)
        return plan

    def note(self, request: RecordedRequest) -> tuple[Course, asyncio.Event]:
        """Keep a request; returns what happens to it, and what `Hold` waits for."""
        with self._lock:
            self._requests.append(request)
            self._counts[request.method, request.path] += 1
            for plan in self._plans:
                taken = plan.take(request)
                if taken is not None:
                    return taken, plan.released
        return _UNHARMED, asyncio.Event()

    def release_all(self) -> None:
        """Let go everything that is held back: the server stops. On the server's loop."""
        with self._lock:
            for plan in self._plans:
                plan.released.set()


def _method(name: str) -> str:
    """The method as requests have it. Raises `ValueError`: with a wrong one nothing would ever match."""
    if name.upper() not in _METHODS:
        raise ValueError(f"{name!r} is no method of HTTP: give one of {', '.join(sorted(_METHODS))}")
    return name.upper()


def _path(path: str) -> str:
    """The path as requests have it. Raises `ValueError` for one with a query, which would never match."""
    if "?" in path:
        raise ValueError(f"{path!r} has a query: give the path alone, and look at `request.query` with where=")
    return leading_slash(path)


def leading_slash(path: str) -> str:
    """The path with exactly one leading slash."""
    return f"/{path.lstrip('/')}"
