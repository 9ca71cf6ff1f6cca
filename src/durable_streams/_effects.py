"""What a flow may ask of the world. A flow is a generator: it yields effects and receives their outcomes.

    Request    -> Answer             one exchange with the whole body
    Open       -> Reply | Failure    the head of an answer; after a 200 its body waits for `NextChunk`
    NextChunk  -> bytes | Failure    the next bytes of the open body, empty at its end
    CloseBody  -> None               let go of the open body; harmless without one
    Sleep      -> None
    Consult    -> bool               ask the caller's ``on_error``: True tries again

Flows know neither sync nor async. Each front has one driver that performs the effects (`_http_sync`,
`_http_async`). The helpers give every effect its type: ``answer = yield from send(request)``.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from durable_streams._wire import Failure, Reply, Request

if TYPE_CHECKING:
    from durable_streams._wire import Answer
    from durable_streams.errors import DurableStreamError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Open:
    """Send the request and return the head of the answer.

    Only a 200 leaves its body open. Every other answer comes with its body, cut off after some kilobytes.
    """

    request: Request


@dataclass(frozen=True, slots=True)
class NextChunk:
    """Return the next bytes of the open body, content-decoded; empty at its end."""


@dataclass(frozen=True, slots=True)
class CloseBody:
    """Let go of the open body, if there is one."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Consult:
    """Ask the caller whether to try again after an error that would end the read."""

    error: DurableStreamError


Effect: TypeAlias = Request | Open | NextChunk | CloseBody | Sleep | Consult
Flow: TypeAlias = Generator[Effect, Any, T]


def send(request: Request) -> Flow[Answer]:
    """Exchange one request for one complete answer, or a failure."""
    answer: Answer = yield request
    return answer


def open_body(request: Request) -> Flow[Answer]:
    """Send a request; return the head of its answer."""
    answer: Answer = yield Open(request)
    return answer


def next_chunk() -> Flow[bytes | Failure]:
    """Return the next bytes of the open body; empty at its end."""
    chunk: bytes | Failure = yield NextChunk()
    return chunk


def close_body() -> Flow[None]:
    """Let go of the open body."""
    yield CloseBody()


def sleep(seconds: float) -> Flow[None]:
    """Wait."""
    yield Sleep(seconds)


def consult(error: DurableStreamError) -> Flow[bool]:
    """Ask the caller whether to try again."""
    again: bool = yield Consult(error)
    return again


__all__ = [
    "CloseBody",
    "Consult",
    "Effect",
    "Failure",
    "Flow",
    "NextChunk",
    "Open",
    "Reply",
    "Sleep",
    "close_body",
    "consult",
    "next_chunk",
    "open_body",
    "send",
    "sleep",
]
