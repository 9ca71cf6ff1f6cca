"""Both fronts of the client behind one face, flows without a front, and the way to a server."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

import durable_streams
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._exchange import RetryPolicy
from durable_streams._wire import Answer, Reply, Request
from durable_streams.testing import Hold

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from durable_streams.testing import Fault, FaultPlan, InMemoryStreamServer, RecordedRequest

T = TypeVar("T")

URL = "http://streams.test/s"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


# -- Flows without a front -------------------------------------------------------------------------


class FixedRandom:
    """A random source that always draws the lower end."""

    def uniform(self, a: float, b: float) -> float:
        """Return a."""
        del b
        return a


@dataclass
class Clock:
    """A clock that is turned by hand."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def policy(clock: Clock | None = None, *, max_retries: int = 3) -> RetryPolicy:
    """A retry policy without chance and without time."""
    return RetryPolicy(
        random=FixedRandom(), utc_now=lambda: NOW, monotonic=clock or Clock(), max_retries=max_retries
    )


@dataclass
class Script:
    """Answers to a flow's effects, in order. ``chunks`` belong to the answers with an open body."""

    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    consulted: list[Exception] = field(default_factory=list)
    try_again: bool = False
    bodies: list[list[Any]] = field(default_factory=list)

    def run(self, flow: Flow[T]) -> T:
        """Perform the flow's effects from the script until it returns."""
        outcome: Any = None
        try:
            while True:
                outcome = self._perform(flow.send(outcome))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            flow.close()

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Request() | Open():
                request = effect if isinstance(effect, Request) else effect.request
                self.requests.append(request)
                return self.answers.pop(0)
            case NextChunk():
                return self.bodies[0].pop(0) if self.bodies and self.bodies[0] else b""
            case CloseBody():
                return self.bodies.pop(0) if self.bodies else None
            case Sleep(seconds):
                return self.sleeps.append(seconds)
            case Consult(error):
                self.consulted.append(error)
                return self.try_again


def page(next_offset: str, **headers: str) -> Reply:
    """The head of a page."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(200, {"stream-next-offset": next_offset, **named})


# -- The way to a server ---------------------------------------------------------------------------


class Wire:
    """The way to one stream of a server that others use as well: what goes wrong on it, and what was sent.

    As a context manager it leaves no fault behind, and nobody waiting.
    """

    def __init__(self, server: InMemoryStreamServer, url: str) -> None:
        self.transport = server.transport()
        self._server = server
        self._path = httpx.URL(url).path
        self._plans = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._plans.close()

    def inject(
        self,
        *faults: Fault | tuple[Fault, ...] | None,
        method: str | None = "POST",
        where: Callable[[RecordedRequest], object] | None = None,
        times: int | None = 1,
    ) -> FaultPlan:
        """See `InMemoryStreamServer.inject`."""
        return self._plans.enter_context(
            self._server.inject(*faults, method=method, path=self._path, where=where, times=times)
        )

    def hold(self) -> FaultPlan:
        """Every POST until it is released."""
        return self.inject(Hold(), times=None)

    def break_connections(self) -> None:
        """See `InMemoryStreamServer.break_connections`."""
        self._server.break_connections(self._path)

    @property
    def requests(self) -> list[RecordedRequest]:
        """What came so far, from whomever."""
        return [request for request in self._server.requests if request.path == self._path]

    @property
    def methods(self) -> list[str]:
        """Of the requests."""
        return [request.method for request in self.requests]

    @property
    def bodies(self) -> list[bytes]:
        """Of the POSTs."""
        return [request.body for request in self.requests if request.method == "POST"]

    def count(self, method: str) -> int:
        """How many requests with this method came."""
        return self._server.count(method, self._path)


class Refusing(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Refuses the connections of some requests and passes the others on: ``turns`` are used up, one a request.

    A server cannot do that: it sees a request only behind a connection that was accepted.
    """

    def __init__(self, inner: Any, method: str, turns: Iterable[bool] = (True,)) -> None:
        self._inner = inner
        self._method = method
        self.turns = list(turns)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        self._refuse(request)
        response: httpx.Response = self._inner.handle_request(request)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        self._refuse(request)
        response: httpx.Response = await self._inner.handle_async_request(request)
        return response

    def _refuse(self, request: httpx.Request) -> None:
        if request.method == self._method and self.turns and self.turns.pop(0):
            raise httpx.ConnectError("refused", request=request)


def params_of(request: RecordedRequest) -> httpx.QueryParams:
    """The parameters in the query of a request."""
    return httpx.QueryParams(request.query)


def hook_of(front: Front, function: Callable[[Any], object]) -> Any:
    """An event hook as the front's client wants it."""
    if not isinstance(front, AsyncFront):
        return function

    async def hook(value: Any) -> None:
        returned = function(value)
        if inspect.isawaitable(returned):
            await returned

    return hook


# -- Two fronts behind one face --------------------------------------------------------------------


class SyncFront:
    """The front without async."""

    name = "sync"
    handle: Any = durable_streams.DurableStream
    producer: Any = durable_streams.SyncIdempotentProducer

    def client(self, transport: Any, **options: Any) -> httpx.Client:
        """A client of the caller's own."""
        return httpx.Client(transport=transport, **options)

    def run(self, value: Any) -> Any:
        """Wait for a result of the front."""
        return value

    @contextmanager
    def stream(self, url: str, **options: Any) -> Iterator[Any]:
        """An open read."""
        with durable_streams.stream(url, **options) as response:
            yield response

    def take(self, items: Any, count: int) -> list[Any]:
        """The next items of an iterator, at most so many."""
        iterator = iter(items)
        taken: list[Any] = []
        while len(taken) < count:
            try:
                taken.append(next(iterator))
            except StopIteration:
                break
        return taken

    def produce(
        self, producer: Any, messages: Iterable[Any], *, meanwhile: Callable[[], object] = list
    ) -> list[Any]:
        """Append, wait for all acknowledgements; return results, or errors in their place.

        ``meanwhile`` is called when all is appended.
        """
        acknowledgements = [producer.append(message) for message in messages]
        meanwhile()
        outcomes: list[Any] = []
        for acknowledgement in acknowledgements:
            try:
                outcomes.append(acknowledgement.result(timeout_seconds=20))
            except durable_streams.DurableStreamError as error:
                outcomes.append(error)
        return outcomes

    def close(self, client: Any) -> None:
        """Close a client of the caller's own."""
        client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class AsyncFront:
    """The front with async, driven from tests without."""

    name = "async"
    handle: Any = durable_streams.AsyncDurableStream
    producer: Any = durable_streams.IdempotentProducer

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def client(self, transport: Any, **options: Any) -> httpx.AsyncClient:
        """A client of the caller's own."""
        return httpx.AsyncClient(transport=transport, **options)

    def run(self, value: Awaitable[T]) -> T:
        """Wait for a result of the front."""

        async def wait() -> T:
            return await value

        return self._runner.run(wait())

    @contextmanager
    def stream(self, url: str, **options: Any) -> Iterator[Any]:
        """An open read."""
        response = self.run(durable_streams.astream(url, **options))
        try:
            yield response
        finally:
            self.run(response.close())

    def take(self, items: Any, count: int) -> list[Any]:
        """The next items of an iterator, at most so many."""

        async def take() -> list[Any]:
            iterator = aiter(items)
            taken: list[Any] = []
            while len(taken) < count:
                try:
                    taken.append(await anext(iterator))
                except StopAsyncIteration:
                    break
            return taken

        return self._runner.run(take())

    def produce(
        self, producer: Any, messages: Iterable[Any], *, meanwhile: Callable[[], object] = list
    ) -> list[Any]:
        """Append, wait for all acknowledgements; return results, or errors in their place.

        ``meanwhile`` is called when all is appended.
        """

        async def produce() -> list[Any]:
            acknowledgements = [await producer.append(message) for message in messages]
            meanwhile()
            async with asyncio.timeout(20):
                return await asyncio.gather(*map(_outcome, acknowledgements))

        return self._runner.run(produce())

    def close(self, client: Any) -> None:
        """Close a client of the caller's own."""
        self.run(client.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()


async def _outcome(acknowledgement: Any) -> Any:
    try:
        return await acknowledgement
    except durable_streams.DurableStreamError as error:
        return error


Front = SyncFront | AsyncFront
