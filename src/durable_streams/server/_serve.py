"""Running the application: its own event loop in its own thread, and uvicorn on a socket.

The thread is what the command line, the tests' server and a gateway with a built-in server have in common.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import threading
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import uvicorn

from durable_streams.server._connections import ConnectionLimits, Connections, prepare

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

    from durable_streams.server._http import Receive, Scope, Send

logger = logging.getLogger("durable_streams.server")

Result = TypeVar("Result")

_NO_MORE_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_KEEP_ALIVE_SECONDS: Final = 75
_GRACE_SECONDS: Final = 5
_BACKLOG: Final = 256
"""Connections that wait to be accepted. Where none can be, asyncio tries that many times a second."""
_TOLD_EVERY_SECONDS: Final = 10.0


class Application(Protocol):
    """What a `ServerThread` runs: a `StreamApp`, or a layer around one. All of it belongs to the server's loop."""

    async def start(self) -> None:
        """Begin; called once, before the first request."""
        ...  # pragma: no cover

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI has it."""
        ...  # pragma: no cover

    def stop_waiting(self) -> None:
        """The server stops: end all that waits."""
        ...  # pragma: no cover

    async def close(self) -> None:
        """End; called once, after the last request."""
        ...  # pragma: no cover


class ServerThread:
    """Runs a `StreamApp` on an event loop of its own.

    Requests come over sockets (`listen`), or from this process (`run`, with `application`). ``connections``
    limits those over sockets. To each request's scope both add the extension ``durable_streams.abort``, a
    callable that breaks the connection at once; ``abort(flush=True)`` breaks it behind what was sent so far.
    ``name`` is the thread's.
    """

    def __init__(
        self, app: Application, *, connections: ConnectionLimits | None = None, name: str = "stream-server"
    ) -> None:
        self._app = app
        self._connections = Connections(connections or ConnectionLimits())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._servers: list[tuple[uvicorn.Server, Future[None]]] = []
        self._listeners: list[socket.socket] = []
        self._stopped = False
        self._told_at = -math.inf

    def start(self) -> None:
        """Start the thread and the application."""
        self._thread.start()
        self.run(self._app.start()).result()

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve on a socket and return its URL; port 0 takes any free one.

        Raises `OSError` when the address cannot be had, and `RuntimeError` unless the server runs.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the server does not run: call start() before listen(), and not after stop()")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Its connections inherit this. asyncio sets it for sockets that name their protocol only, and this one
        # does not: the second half of an answer would wait 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        prepare(listener)
        server = _Server(_config(self._connections, self.application))
        serving = self.run(server.serve(sockets=[listener]))
        serving.add_done_callback(lambda _: server.listening.set())
        server.listening.wait()
        if serving.done():
            serving.result()
        self._servers.append((server, serving))
        self._listeners.append(listener)
        bound_host, bound_port = listener.getsockname()[:2]
        shown_host = f"[{bound_host}]" if family == socket.AF_INET6 else bound_host
        return f"http://{shown_host}:{bound_port}"

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application as it is served."""
        await self._app(scope, receive, send)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a coroutine on the server's loop. Any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @property
    def alive(self) -> bool:
        """Whether the server still runs and every listener serves."""
        return self._thread.is_alive() and not any(task.done() for _, task in self._servers)

    def stop(self) -> None:
        """End live reads, finish the requests that run, close the store and end the thread.

        Raises what a listener failed with, once all that is done.
        """
        if self._stopped:
            return
        self._stopped = True
        self._loop.call_soon_threadsafe(self._app.stop_waiting)
        for server, _ in self._servers:
            server.should_exit = True
        wait([task for _, task in self._servers])
        self._loop.call_soon_threadsafe(self._connections.abort_all)
        self.run(self._app.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for listener in self._listeners:
            listener.close()  # without effect where uvicorn has ended by itself
        for _, task in self._servers:
            task.result()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _NO_MORE_FILES):
            loop.default_exception_handler(context)
        elif loop.time() - self._told_at > _TOLD_EVERY_SECONDS:
            self._told_at = loop.time()
            logger.error("server.no_more_connections: %s: raise the limit of open files", error.strerror)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._on_error)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._cancel_the_rest())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _cancel_the_rest(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn, telling when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()


def _config(connections: Connections, application: Any) -> uvicorn.Config:
    return uvicorn.Config(
        connections.around(application),
        http=connections.protocol(),
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
