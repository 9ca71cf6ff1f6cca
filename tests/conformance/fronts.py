"""The two fronts behind one face, and a look at what they send.

Both have the same names, so each command of the adapter is written once, as a coroutine. The sync front is run
without an event loop: none of its coroutines ever waits.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx

import durable_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Traffic:
    """What really went over the wire for the command at hand."""

    def __init__(self) -> None:
        self.request: httpx.Request | None = None
        self.status = 0

    def sent(self, request: httpx.Request) -> None:
        self.request = request

    def answered(self, response: httpx.Response) -> None:
        self.status = response.status_code

    def headers(self, names: list[str]) -> dict[str, str]:
        """The named headers of the last request, where it had them."""
        sent = self.request.headers if self.request is not None else httpx.Headers()
        return {name: sent[name] for name in names if name in sent}

    def params(self, names: list[str]) -> dict[str, str]:
        """The named query parameters of the last request, where it had them."""
        sent = self.request.url.params if self.request is not None else httpx.QueryParams()
        return {name: sent[name] for name in names if name in sent}


class Front(Protocol):
    """Where the two fronts differ."""

    handle: Any
    stream: Any
    producer: Any
    client: Any

    async def line(self) -> str:
        """The next line of standard input; empty at its end."""
        ...

    async def confirmed(self, acknowledgement: Any) -> durable_streams.IdempotentAppendResult:
        """The server's confirmation of a message."""
        ...

    def patience(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        """Interrupts what takes longer, where the front can."""
        ...

    def dynamic(self, value: Callable[[], str]) -> Any:
        """A header's or parameter's value that is computed for each request."""
        ...


class SyncFront:
    """The front without async."""

    handle: Any = durable_streams.DurableStream
    stream: Any = staticmethod(durable_streams.stream)
    producer: Any = durable_streams.SyncIdempotentProducer

    def __init__(self, traffic: Traffic) -> None:
        self.client = httpx.Client(event_hooks={"request": [traffic.sent], "response": [traffic.answered]})

    async def line(self) -> str:
        return sys.stdin.readline()

    async def confirmed(self, acknowledgement: Any) -> durable_streams.IdempotentAppendResult:
        result: durable_streams.IdempotentAppendResult = acknowledgement.result()
        return result

    def patience(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        del seconds  # nothing interrupts a thread; the read looks at the clock whenever the server says something
        return contextlib.nullcontext()

    def dynamic(self, value: Callable[[], str]) -> Any:
        return value


class AsyncFront:
    """The front with async, on asyncio."""

    handle: Any = durable_streams.AsyncDurableStream
    stream: Any = staticmethod(durable_streams.astream)
    producer: Any = durable_streams.IdempotentProducer

    def __init__(self, traffic: Traffic) -> None:
        async def sent(request: httpx.Request) -> None:
            traffic.sent(request)

        async def answered(response: httpx.Response) -> None:
            traffic.answered(response)

        self.client = httpx.AsyncClient(event_hooks={"request": [sent], "response": [answered]})

    async def line(self) -> str:
        return await anyio.to_thread.run_sync(sys.stdin.readline)

    async def confirmed(self, acknowledgement: Any) -> durable_streams.IdempotentAppendResult:
        result: durable_streams.IdempotentAppendResult = await acknowledgement
        return result

    def patience(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        return anyio.move_on_after(seconds)

    def dynamic(self, value: Callable[[], str]) -> Any:
        async def answer() -> str:
            return value()

        return answer


async def settle(value: Any) -> Any:
    """The result of a call of either front."""
    return await value if inspect.isawaitable(value) else value


async def following(iterator: Any) -> Any:
    """The next item of either front's iterator; None at its end."""
    return await anext(iterator, None) if isinstance(iterator, AsyncIterator) else next(iterator, None)


def run_without_a_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("the sync front waited for an event loop")
