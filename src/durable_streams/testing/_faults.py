"""What may happen to a request on its way to the server and back, as values, and what several add up to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_BODILESS: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Delay:
    """The request waits before the server sees it; with ``after`` it is the answer that waits.

    Raises `ValueError` unless ``seconds`` is a finite number and not negative.
    """

    seconds: float
    after: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"a delay lasts 0 seconds or more, not {self.seconds!r}")


@dataclass(frozen=True, slots=True)
class Hold:
    """The request waits for `FaultPlan.release`; with ``after`` the server did it, and its answer waits."""

    after: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class DropBefore:
    """The connection breaks before the server sees the request: `httpx.ReadError`."""


@dataclass(frozen=True, slots=True)
class DropAfter:
    """The server does what it is told, but the connection breaks instead of its answer: `httpx.ReadError`."""


@dataclass(frozen=True, slots=True)
class Status:
    """An answer in place of the server's, as of a proxy. With ``after`` the server did first what it was told.

    ``retry_after`` is the value of that header, in seconds or as an HTTP date. Raises `ValueError` for a status
    outside 200..599, and for a body with one that has none (204, 304).
    """

    status: int
    retry_after: float | str | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True)
    body: bytes = field(default=b"", kw_only=True)
    after: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"the status of an answer is a number from 200 to 599, not {self.status!r}")
        if self.body and self.status in _BODILESS:
            raise ValueError(f"an answer with status {self.status} has no body, not {self.body!r}")

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI has them."""
        named = {name.lower(): value for name, value in (self.headers or {}).items()}
        if self.retry_after is not None:
            named["retry-after"] = str(self.retry_after)
        if self.status not in _BODILESS:
            named.setdefault("content-length", str(len(self.body)))
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in named.items()]


@dataclass(frozen=True, slots=True)
class Truncate:
    """The answer's body ends behind so many bytes, with the connection: `httpx.RemoteProtocolError`.

    A body that is not longer passes whole. Raises `ValueError` when ``body_bytes`` is negative.
    """

    body_bytes: int

    def __post_init__(self) -> None:
        if self.body_bytes < 0:
            raise ValueError(f"a body is cut behind 0 bytes or more, not {self.body_bytes!r}")


Wait = Delay | Hold
Ending = DropBefore | DropAfter | Status | Truncate
Fault = Delay | Hold | DropBefore | DropAfter | Status | Truncate


@dataclass(frozen=True, slots=True)
class Course:
    """What happens to one request: waits, then the server, then waits, then the ending in place of its answer."""

    waits_before: tuple[Wait, ...] = ()
    waits_after: tuple[Wait, ...] = ()
    ending: Ending | None = None

    @property
    def reaches_the_server(self) -> bool:
        """Whether the server does the request."""
        return not (
            isinstance(self.ending, DropBefore) or (isinstance(self.ending, Status) and not self.ending.after)
        )


def course(faults: Fault | tuple[Fault, ...] | None) -> Course:
    """What one fault, several, or none add up to.

    Raises `ValueError` when they contradict each other, and `TypeError` for what is no fault.
    """
    together = () if faults is None else faults if isinstance(faults, tuple) else (faults,)
    waits: list[Wait] = []
    ending: Ending | None = None
    for fault in together:
        match fault:
            case Delay() | Hold():
                waits.append(fault)
            case DropBefore() | DropAfter() | Status() | Truncate():
                if ending is not None:
                    raise ValueError(f"one request cannot end in two ways: {ending!r} and {fault!r}")
                ending = fault
            case _:
                raise TypeError(f"a fault, a tuple of faults or None is needed, not {fault!r}")
    made = Course(
        tuple(each for each in waits if not each.after), tuple(each for each in waits if each.after), ending
    )
    if made.waits_after and not made.reaches_the_server:
        raise ValueError(f"{made.waits_after[0]!r} waits for the server's answer, but {ending!r} goes without it")
    return made
