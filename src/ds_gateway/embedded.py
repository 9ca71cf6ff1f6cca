"""The stream server in the gateway's own process: its streams are in the data folder, its thread is its own.

    uplinks --in this process--> ServerThread <--server.listen-- everybody else
                                      |
                                 DATA/streams

| state     | means                                                                                    |
|-----------|------------------------------------------------------------------------------------------|
| opening   | the store is being opened for the first time                                             |
| closed    | the store cannot be opened; tried again for ever, and records wait in the journal        |
| unheard   | uplinks are served, and nobody else: the address cannot be had; tried again for ever     |
| listening | everybody is served                                                                      |
| dead      | its thread ended or hangs, which is a defect: `alive_at` stands still                    |

A dead one is not restarted in place. What a thread that ended by itself has left behind is unknown; what the end
of the whole process leaves is known, and is what the tests with `kill -9` show: nothing lost, nothing repeated. So
it is told as a part that stalls, the watchdog is no longer fed, and the service manager starts everything anew.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

from ds_gateway.config.addresses import host_and_port
from ds_gateway.config.server import STREAMS_FOLDER
from ds_gateway.logs import event, logger
from durable_streams.in_process import InProcessTransport
from durable_streams.server import (
    Limits,
    ServerThread,
    SqliteStore,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StreamApp,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from ds_gateway.config.models import JournalSettings
    from ds_gateway.config.server import ServerSettings

_R = TypeVar("_R")

_log = logger("embedded")

RETRY_SECONDS: Final = 3.0
TURN_SECONDS: Final = 1.0
MIN_QUOTA_BYTES: Final = 1024 * 1024
"""What `SqliteStore` takes at least."""
DEAD_SECONDS: Final = 10.0
"""So long without a turn of its event loop, and the status calls it dead."""
UNEXPECTED: Final = (OSError, RuntimeError, TypeError, ValueError)
"""What opening raises beside `StoreError`: no files or threads left, or rows that nobody has foreseen."""
WHY_DEAD: Final = "its thread has ended or hangs: restart the gateway, nothing is lost by that"


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """What the server is run with."""

    directory: Path
    listen: tuple[str, int] | None
    """Host and port; None: only this process is served."""
    base_url: str
    token: str | None
    max_bytes: int | None
    """None: what the store has, and half of what is free."""
    min_free_bytes: int
    retain_bytes: int | None = None
    retain_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedSnapshot:
    """The server at one instant, for people to look at."""

    state: str
    url: str
    """Where the streams are for others, once it listens."""
    reason: str
    """What is wrong and what to do; empty when nothing is."""
    directory: str
    bytes: int
    max_bytes: int | None
    """None before the store is open."""
    free_bytes: int


def options(data_dir: str, server: ServerSettings, journal: JournalSettings, *, listen: bool) -> EmbeddedOptions:
    """What the configuration says. The token is read now: a changed one counts from the next start."""
    host, port = host_and_port(server.listen)
    return EmbeddedOptions(
        directory=Path(data_dir) / STREAMS_FOLDER,
        listen=(host.strip("[]"), port or 0) if listen else None,
        base_url=server.base_url,
        token=None if server.token is None else server.token.get_secret_value(),
        max_bytes=server.max_bytes,
        min_free_bytes=journal.min_free_bytes,
        retain_bytes=server.retain_bytes,
        retain_seconds=server.retain_age,
    )


def default_max_bytes(used_bytes: int, free_bytes: int) -> int:
    """The quota without a configured one: half of what is free is left to the journal and to everybody else.

    On a disk that is full already it is the smallest there can be: what is free on the disk then limits the store.
    """
    return max(MIN_QUOTA_BYTES, used_bytes + free_bytes // 2)


def why_closed(error: Exception, directory: Path) -> str:
    """Why the store is not open, and the way out."""
    wait = "records wait in the journal meanwhile"
    match error:
        case StoreLockedError():
            return f"another process serves {directory}: stop it (durable-streams serve?); {wait}"
        case StoreFormatError():
            return f"{error}; restore {directory} from a copy, or run the program that wrote it; {wait}"
        case OSError() | RuntimeError():
            limits = "raise LimitNOFILE, TasksMax or the memory of the service"
            return f"{directory} cannot be served: {error}; if something is used up, {limits}; {wait}"
        case TypeError() | ValueError():
            return f"{directory} cannot be served: {error} (see the log); restore it from a copy; {wait}"
        case _:
            return f"{error}; give {directory} to the user that the gateway runs as, and room; {wait}"


def why_unheard(error: OSError, host: str, port: int) -> str:
    """Why nobody but this process is served, and the way out."""
    return (
        f"cannot listen on {host} port {port}: {error.strerror or error}; streams are written, but nobody can "
        "read them there: free the port, or set server.listen"
    )


def why_unstored(status: int, directory: Path) -> str:
    """Why the server could not store what it was sent, and the way out; empty for other answers."""
    if status == httpx.codes.INSUFFICIENT_STORAGE:
        return WHY_FULL
    if not httpx.codes.is_server_error(status):
        return ""
    return (
        f"the store fails (HTTP {status}, see the log): stop the gateway, check the disk, restore {directory} "
        "from a copy; records wait in the journal meanwhile"
    )


WHY_FULL: Final = (
    "the store is full: raise server.max_bytes, set server.retain_bytes or server.retain_age, delete streams that "
    "no device feeds any more, or free space on the disk; records wait in the journal meanwhile"
)


class EmbeddedServer:
    """Opens the store, listens, and tries both again until they succeed. Used on the gateway's event loop."""

    def __init__(self, options: EmbeddedOptions) -> None:
        self.alive_at = time.monotonic()
        """When its event loop last turned, as far as there is one (monotonic seconds)."""
        self._options = options
        self._server: ServerThread | None = None
        self._max_bytes: int | None = None
        self._reason = ""
        self._url = ""
        self._unstored = ""
        """Why the newest record could not be stored; empty when it could."""
        self._tried = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._beat: Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to open and to listen; returns at once."""
        self._task = asyncio.create_task(self._run(), name="embedded server")

    async def stop(self) -> None:
        """Finish the requests that run, close the store and give its lock back."""
        self._stop_asked.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        server, self._server = self._server, None
        if server is not None and server.alive:
            await asyncio.to_thread(server.stop)

    async def serving(self) -> ServerThread:
        """The server, once it was tried to open it. Raises `httpx.ConnectError` when that did not succeed."""
        await self._tried.wait()
        if self._server is None:
            raise httpx.ConnectError(self._reason or "the embedded server is stopped")
        return self._server

    def transport(self) -> EmbeddedTransport:
        """The way of this process's requests."""
        return EmbeddedTransport(self, self._options.token)

    def answered(self, request: httpx.Request, response: httpx.Response) -> None:
        """Take note of an answer to a request of this process."""
        if request.method not in {"PUT", "POST"}:
            return
        why = why_unstored(response.status_code, self._options.directory)
        if why and why != self._unstored:
            event(_log, "error", "embedded.unstored", status=response.status_code, reason=why)
        if why or response.is_success:  # a refusal of one request says nothing about the store
            self._unstored = why

    def snapshot(self) -> EmbeddedSnapshot:
        """How it is now."""
        directory = self._options.directory
        state = self._state()
        reasons = [WHY_DEAD if state == "dead" else self._reason, self._unstored]
        return EmbeddedSnapshot(
            state=state,
            url=self._url,
            reason="; ".join(filter(None, reasons)),
            directory=str(directory),
            bytes=used_bytes(directory),
            max_bytes=self._max_bytes,
            free_bytes=free_bytes(directory),
        )

    def _state(self) -> str:
        if self._server is None:
            return "closed" if self._reason else "opening"
        if time.monotonic() - self.alive_at > DEAD_SECONDS or not self._server.alive:
            return "dead"
        return "listening" if self._url else "unheard"

    # -- the task

    async def _run(self) -> None:
        while not self._stop_asked.is_set():
            if self._server is None:
                await self._open()
            if self._server is not None and self._options.listen is not None and not self._url:
                await self._listen(self._server, *self._options.listen)
            self._follow()
            is_complete = self._server is not None and (self._url or self._options.listen is None)
            try:
                async with asyncio.timeout(TURN_SECONDS if is_complete else RETRY_SECONDS):
                    await self._stop_asked.wait()
            except TimeoutError:
                continue

    async def _open(self) -> None:
        directory = self._options.directory
        try:
            max_bytes, self._server = await self._in_thread(open_server, self._options)
        except (StoreError, *UNEXPECTED) as error:
            # Where the reason is none that the store has foreseen, the way to it helps.
            trace = error if isinstance(error, UNEXPECTED) else None
            self._tell("error", "embedded.closed", why_closed(error, directory), trace)
        else:
            self._max_bytes, self._reason = max_bytes, ""
            event(_log, "info", "embedded.open", directory=str(directory), max_bytes=max_bytes)
        self._tried.set()

    async def _listen(self, server: ServerThread, host: str, port: int) -> None:
        if not server.alive:
            return
        try:
            await self._in_thread(server.listen, host, port)
        except OSError as error:
            self._tell("error", "embedded.unheard", why_unheard(error, host, port))
        else:
            self._url, self._reason = self._options.base_url, ""
            event(_log, "info", "embedded.listening", url=self._url)

    async def _in_thread(self, function: Callable[..., _R], *arguments: object) -> _R:
        """Run what may take minutes (a large store that is converted), which is no reason to call it dead."""
        working = asyncio.create_task(asyncio.to_thread(function, *arguments))
        while not working.done():
            self._follow()
            await asyncio.wait({working}, timeout=TURN_SECONDS)
        return working.result()

    def _tell(self, level: str, name: str, reason: str, trace: Exception | None = None) -> None:
        if reason != self._reason:
            event(_log, level, name, reason=reason, exc=trace)
        self._reason = reason

    def _follow(self) -> None:
        """Take note of whether the server's event loop turns."""
        server = self._server
        if server is None:
            self.alive_at = time.monotonic()
            return
        if not server.alive or not (self._beat is None or self._beat.done()):
            return
        self.alive_at = time.monotonic()
        turn = _turn()
        try:
            self._beat = server.run(turn)
        except RuntimeError:  # it ended since
            turn.close()


class EmbeddedTransport(httpx.AsyncBaseTransport):
    """Carries requests to the embedded server, whether it listens or not, and past its token."""

    def __init__(self, embedded: EmbeddedServer, token: str | None) -> None:
        self._embedded = embedded
        self._token = token

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        server = await self._embedded.serving()
        if self._token is not None:
            # The one that the server was opened with, even if the file has another by now.
            request.headers["authorization"] = f"Bearer {self._token}"
        response = await InProcessTransport(server).handle_async_request(request)
        self._embedded.answered(request, response)
        return response


def open_server(options: EmbeddedOptions) -> tuple[int, ServerThread]:
    """Open the store and start the server's thread; return its quota, too.

    Raises `StoreError`, or one of `UNEXPECTED`. What was opened by then is closed: a lock that is kept would
    make the next try say that another process serves the folder.
    """
    directory = options.directory
    max_bytes = options.max_bytes or default_max_bytes(used_bytes(directory), free_bytes(directory))
    limits = Limits(retain_bytes=options.retain_bytes, retain_seconds=options.retain_seconds)
    with ExitStack() as opened:
        store = SqliteStore(directory, max_bytes=max_bytes, min_free_bytes=options.min_free_bytes)
        opened.callback(_close, store)
        server = ServerThread(
            StreamApp(store, token=options.token, local_only=options.token is None, limits=limits)
        )
        opened.callback(_stop, server)
        server.start()
        opened.pop_all()
    return max_bytes, server


def _stop(server: ServerThread) -> None:
    if server.alive:  # a thread that could not be started cannot be stopped
        server.stop()


def _close(store: SqliteStore) -> None:
    asyncio.run(store.close())  # without effect where the server has done it


def used_bytes(directory: Path) -> int:
    """What the files of the store take."""
    total = 0
    try:
        for path in directory.iterdir():
            total += path.stat().st_size
    except OSError:
        return total  # not made yet, or a file that SQLite has just removed
    return total


def free_bytes(directory: Path) -> int:
    """Room for this user on the file system where the folder is or will be; 0 when nobody can say."""
    for folder in (directory, *directory.parents):
        try:
            status = os.statvfs(folder)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize
    return 0


async def _turn() -> None:
    """Nothing: that it ran is what counts."""
