"""The server for tests; see the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from durable_streams.in_process import InProcessTransport
from durable_streams.server import Limits, MemoryStore, ServerThread, StreamApp
from durable_streams.testing._layer import FaultLayer
from durable_streams.testing._plans import FaultPlan, Plans, RecordedRequest, leading_slash

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from durable_streams.testing._faults import Fault

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All streams of a server at one instant, with their producers; see `InMemoryStreamServer.restore`."""

    contents: dict[str, Any] = field(repr=False)
    """Opaque; not to be changed."""


class InMemoryStreamServer:
    """A stream server that forgets everything when it is closed. Any thread may use it.

    Any path is a stream. ``long_poll_timeout_seconds`` is short, so that tests of idle tails are fast.
    """

    def __init__(self, *, long_poll_timeout_seconds: float = 0.5) -> None:
        limits = Limits(long_poll_timeout_seconds=long_poll_timeout_seconds)
        self._store = MemoryStore()
        self._plans = Plans(self._set)
        self._layer = FaultLayer(StreamApp(self._store, limits=limits), self._plans)
        self._thread: ServerThread | None = None
        self._base_url: str | None = None
        self._closed = False

    def url(self, path: str = "") -> str:
        """The URL of a stream; starts the server. ``path`` may begin with a slash or not."""
        if self._base_url is None:
            self._base_url = self._running().listen()
        return self._base_url if not path else f"{self._base_url}/{path.lstrip('/')}"

    def transport(self) -> InProcessTransport:
        """A transport for `httpx.Client` and `httpx.AsyncClient` that reaches this server without a socket.

        The host of the URLs does not matter. Timeouts other than the read timeout have no effect.
        """
        return InProcessTransport(self._running())

    @property
    def requests(self) -> list[RecordedRequest]:
        """The latest 1000 requests, whole and in order, whether the server saw them or not."""
        return self._plans.requests

    def count(self, method: str, path: str | None = None) -> int:
        """How many requests with this method came so far, in all or for one path.

        Raises `ValueError` for a method that is none, and for a path with a query.
        """
        return self._plans.count(method, path)

    def inject(
        self,
        *faults: Fault | tuple[Fault, ...] | None,
        method: str | None = None,
        path: str | None = None,
        where: Callable[[RecordedRequest], object] | None = None,
        times: int | None = 1,
    ) -> FaultPlan:
        """Plan what happens to the next requests of this method and path (None: any) that ``where`` is true of.

        Each request uses up one of ``faults``, in their order: one fault, a tuple of several that happen
        together, or None, which lets it pass. ``times`` is how often all of that happens; None is until the plan
        is removed. Among several plans a request uses the oldest that has something left for it. The path is
        percent-decoded and without the query. Raises `ValueError` when faults of a tuple contradict each other,
        when there is nothing to plan, for a method that is none, and for a path with a query.
        """
        return self._plans.inject(faults, method=method, path=path, where=where, times=times)

    def break_connections(self, path: str | None = None) -> None:
        """Break the connections on whose requests the server works, all or those for one path.

        Live readers wait there, and connect again.
        """
        wanted = None if path is None else leading_slash(path)
        self._on_the_loop(lambda: self._layer.break_connections(wanted))

    def forget_producer(self, path: str, producer_id: str | None = None) -> None:
        """Forget a producer of a stream (None: all of them), as a server may that crashed. The data stays.

        Raises `LookupError` when there is no such stream, or no such producer.
        """
        self._on_the_loop(lambda: self._store.forget_producers(leading_slash(path), producer_id))

    def snapshot(self) -> Snapshot:
        """A backup of all streams and producers."""
        return Snapshot(self._on_the_loop(self._store.snapshot))

    def restore(self, snapshot: Snapshot) -> None:
        """Put a backup in place of all streams and producers, as often as you like.

        As at a server that is started again on its backup, the connections break on whose requests it works:
        live readers connect again. Raises `TypeError` for anything but a `Snapshot`.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore takes what snapshot() returned, not {snapshot!r}")

        def restore() -> None:
            self._store.restore(snapshot.contents)
            self._layer.break_connections()

        self._on_the_loop(restore)

    def close(self) -> None:
        """Stop the server; its streams are gone."""
        self._closed = True
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def __enter__(self) -> Self:
        self._running()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _running(self) -> ServerThread:
        if self._closed:
            raise RuntimeError("the server is closed")
        if self._thread is None:
            self._thread = ServerThread(self._layer)
            self._thread.start()
        return self._thread

    def _on_the_loop(self, call: Callable[[], Result]) -> Result:
        async def run() -> Result:
            return call()

        return self._running().run(run()).result()

    def _set(self, event: asyncio.Event) -> None:
        """Set an event of the server's loop."""
        if self._thread is None:
            event.set()  # nobody waits for it
            return

        async def set_it() -> None:
            event.set()

        setting = set_it()
        try:
            self._thread.run(setting)
        except RuntimeError:
            setting.close()  # the server is closed: nobody waits any more


def stream_server() -> Iterator[InMemoryStreamServer]:
    """The body of a pytest fixture: a server of its own for each test, closed afterwards."""
    with InMemoryStreamServer() as server:
        yield server
