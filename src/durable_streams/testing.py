"""A stream server for tests: real HTTP on a free port, or no socket at all.

    import httpx

    from durable_streams import DurableStream
    from durable_streams.testing import InMemoryStreamServer

    with InMemoryStreamServer() as server:
        with DurableStream.create(server.url("/test"), content_type="text/plain") as handle:  # over a socket
            handle.append("hello")
        with httpx.Client(transport=server.transport()) as client:  # or in this process
            print(DurableStream("http://any.host/test", client=client).head())

It starts itself on first use. As a pytest fixture::

    stream_server = pytest.fixture(durable_streams.testing.stream_server)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from durable_streams.in_process import InProcessTransport
from durable_streams.server import Limits, MemoryStore, ServerThread, StreamApp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["InMemoryStreamServer", "InProcessTransport", "stream_server"]


class InMemoryStreamServer:
    """A stream server that forgets everything when it is closed. Any thread may use it.

    Any path is a stream. ``long_poll_timeout_seconds`` is short, so that tests of idle tails are fast.
    """

    def __init__(self, *, long_poll_timeout_seconds: float = 0.5) -> None:
        self._limits = Limits(long_poll_timeout_seconds=long_poll_timeout_seconds)
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
            self._thread = ServerThread(StreamApp(MemoryStore(), limits=self._limits))
            self._thread.start()
        return self._thread


def stream_server() -> Iterator[InMemoryStreamServer]:
    """The body of a pytest fixture: a server of its own for each test, closed afterwards."""
    with InMemoryStreamServer() as server:
        yield server
