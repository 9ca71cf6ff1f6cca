"""The control socket: how ``ds-gateway status`` and its like speak to a running gateway.

A Unix socket, mode 0660. One JSON object a line each way: ``{"verb": "status"}`` is answered by
``{"ok": true, "result": {...}}`` or ``{"ok": false, "error": "..."}``. Who may open the socket may use every verb.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import inspect
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from ds_gateway.errors import ControlError, GatewayError
from ds_gateway.logs import event, logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from types import TracebackType

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""A record of an import is a part of a request."""
SMALL_REQUEST_BYTES: Final = 64 * 1024
MAX_LARGE_REQUESTS: Final = 4
"""Of those that are larger than that, at a time: what all that may ask can make the gateway hold is bounded."""
MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
MAX_CONNECTIONS: Final = 32
IDLE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 3.0
"""How often it is looked whether the socket is still there."""
_SOCKET_MODE: Final = 0o660
_LISTEN_BACKLOG: Final = 16
_MAX_SOCKET_PATH: Final = 107
_READ_BYTES: Final = 64 * 1024
_NO_GATEWAY: Final = "what answers on {path} is no gateway, or it ended while it answered: ask again"

_log = logger("control")

if TYPE_CHECKING:
    Verb = Callable[[Mapping[str, Any]], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
    """Answers a request: its arguments in, the result out. A `GatewayError` is told to the asker."""


class NobodyThereError(ControlError):
    """No gateway listens on this socket."""


class _RefusedError(Exception):
    """A request is not taken, and the conversation ends; the text is the answer."""


class ControlServer:
    """Answers requests on a Unix socket. One for each gateway; an async context manager.

    A socket that somebody removed is made again. Raises `ControlError` on entry if it cannot be made, or another
    gateway listens on it.
    """

    def __init__(
        self,
        path: Path,
        verbs: Mapping[str, Verb],
        *,
        idle_seconds: float = IDLE_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._path = path
        self._verbs = dict(verbs)
        self._idle_seconds = idle_seconds
        self._look_seconds = look_seconds
        self._watch: asyncio.Task[None] | None = None
        self._large_requests = 0
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; a socket left over by a killed gateway is replaced."""
        await self._open()
        self._watch = asyncio.create_task(self._keep(), name="control socket")

    async def _open(self) -> None:
        listener = _listen(self._path)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._converse, sock=listener, limit=SMALL_REQUEST_BYTES)

    async def _keep(self) -> None:
        """Make the socket again when it is gone: without it nobody could ask until the next start."""
        told = ""
        while True:
            await asyncio.sleep(self._look_seconds)
            if os.path.lexists(self._path):  # noqa: ASYNC240 - a look at a folder in memory
                continue
            before = self._server
            try:
                await self._open()
            except (ControlError, OSError) as error:
                if str(error) != told:
                    event(_log, "warning", "control.socket.gone", path=self._path, reason=str(error))
                told = str(error)
                continue
            if before is not None:
                before.close()  # its conversations go on
            event(_log, "warning", "control.socket.made_again", path=self._path)
            told = ""

    async def stop(self) -> None:
        """Close every conversation and remove the socket. May be called twice."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if self._server is None:
            return
        server, self._server = self._server, None
        self._is_stopped = True
        # A connection just accepted has no transport before the next turn, and asyncio would forget it open if
        # the server were closed in between. `_converse` closes it.
        for listener in server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        await asyncio.sleep(0)
        server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            # Another gateway may have replaced it; its socket is not ours to remove.
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection's callback is a task"
        self._conversations.add(task)
        try:
            if self._is_stopped:
                return
            if len(self._conversations) > MAX_CONNECTIONS:
                await self._send(writer, _refusal("too many connections to the control socket; try again"))
            else:
                await self._answer_all(reader, writer)
        except (ConnectionError, TimeoutError):
            pass  # the asker went away, or fell silent
        except asyncio.CancelledError:
            pass  # `stop`: ending is what was asked for, and asyncio.streams would log a cancelled callback
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    line = await self._line(reader)
            except _RefusedError as refused:
                await self._send(writer, _refusal(str(refused)))
                return
            if not line:
                return
            await self._send(writer, await self._answer(line))

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line, or what there is of it at the end. Raises `_RefusedError`."""
        try:
            return await reader.readuntil()
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError:
            pass  # all of it is in the reader still
        if self._large_requests == MAX_LARGE_REQUESTS:
            raise _RefusedError(
                f"{MAX_LARGE_REQUESTS} requests of more than {SMALL_REQUEST_BYTES} bytes are being read; try again"
            )
        self._large_requests += 1
        try:
            return await self._large_line(reader)
        finally:
            self._large_requests -= 1

    async def _large_line(self, reader: asyncio.StreamReader) -> bytes:
        line = bytearray()
        while len(line) <= MAX_REQUEST_BYTES:
            try:
                line += await reader.readuntil()
                break
            except asyncio.IncompleteReadError as end:
                line += end.partial
                break
            except asyncio.LimitOverrunError as more:
                line += await reader.readexactly(more.consumed)
        if len(line) > MAX_REQUEST_BYTES:
            raise _RefusedError(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        return bytes(line)

    async def _send(self, writer: asyncio.StreamWriter, reply: Mapping[str, Any]) -> None:
        writer.write(orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE))
        async with asyncio.timeout(self._idle_seconds):
            await writer.drain()

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return _refusal(f"a request is one line of JSON: {error}")
        verb = request.get("verb") if isinstance(request, dict) else None
        if not isinstance(verb, str):
            return _refusal('a request is an object with a verb, as {"verb": "status"}')
        handler = self._verbs.get(verb)
        if handler is None:
            return _refusal(f"unknown verb {verb[:40]!r}; there are {', '.join(sorted(self._verbs))}")
        try:
            result = handler({key: value for key, value in request.items() if key != "verb"})
            if inspect.isawaitable(result):
                result = await result
            orjson.dumps(result)
        except GatewayError as error:
            return _refusal(str(error))
        except Exception as error:  # noqa: BLE001 - supervision: a verb's defect must not end the gateway
            event(_log, "error", "control.verb.failed", verb=verb, error=str(error), exc=error)
            return _refusal(f"{verb} failed inside the gateway; its log says why")
        return {"ok": True, "result": result}


def call(path: Path, verb: str, timeout_seconds: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Ask the gateway that listens on ``path``, and return the result. Blocks, for at most the timeout.

    Raises `NobodyThereError` if none listens, `ControlError` for everything else; both say what to do.
    """
    deadline = time.monotonic() + timeout_seconds
    request = orjson.dumps({"verb": verb, **arguments}, option=orjson.OPT_APPEND_NEWLINE)
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(timeout_seconds)
            with _reachable(path) as address:
                connection.connect(address)
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(request)  # who refuses at once may have answered and gone already
            try:
                line = _read_line(connection, deadline)
            except ConnectionResetError:
                line = b""  # it ended, and what was asked lay unread in its socket
        except TimeoutError:
            raise ControlError(
                f"the gateway behind {path} did not answer within {timeout_seconds:g} s; its log says what it does"
            ) from None
        except OSError as error:
            raise _explained(path, error) from None
    if not line:
        raise _unanswered(path)
    return _result(line, path)


def _unanswered(path: Path) -> ControlError:
    """Why a connection ended without an answer: perhaps the gateway was killed meanwhile."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            with _reachable(path) as address:
                connection.connect(address)
        except OSError as error:
            return _explained(path, error)
    return ControlError(_NO_GATEWAY.format(path=path))


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        connection.settimeout(remaining)
        part = connection.recv(_READ_BYTES)
        if not part or len(received) + len(part) > MAX_REPLY_BYTES:
            break
        received += part
    return bytes(received)


def _result(line: bytes, path: Path) -> dict[str, Any]:
    try:
        reply = orjson.loads(line)
    except orjson.JSONDecodeError:
        reply = None
    match reply:
        case {"ok": True, "result": dict(result)}:
            return result
        case {"ok": False, "error": str(error)}:
            raise ControlError(error)
        case _:
            raise ControlError(_NO_GATEWAY.format(path=path))


def _refusal(error: str) -> Mapping[str, Any]:
    return {"ok": False, "error": error}


def _listen(path: Path) -> socket.socket:
    """A listening socket at ``path``; never, not for a moment, more open than it will be."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Linux makes the file with the mode of the unbound socket; group access comes with the name in place.
        os.fchmod(listener.fileno(), 0o600)
        with _reachable(path) as address:
            _remove_stale(path, address)
            listener.bind(address)
            Path(address).chmod(_SOCKET_MODE)
        listener.listen(_LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ControlError(f"the control socket {path} cannot be made: {error.strerror or error}") from error
    except ControlError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path, address: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not path.is_socket():
                raise ControlError(f"{path} is in the way of the control socket and is none: remove it") from None
            path.unlink()
        else:
            raise ControlError(
                f"another gateway listens on {path}: stop it first, or give this one its own data_dir"
            )


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name of the path that fits into a socket's address, which ends at 107 bytes."""
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _explained(path: Path, error: OSError) -> ControlError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NobodyThereError(f"no gateway is running on {path.parent} (no control socket at {path})")
        case errno.ECONNREFUSED:
            return NobodyThereError(
                f"no gateway is running on {path.parent} (the socket {path} was left by one that was killed)"
            )
        case errno.EACCES | errno.EPERM:
            return ControlError(f"permission denied on {path}: {_who_may(path)}")
        case _:
            return ControlError(f"the gateway behind {path} cannot be asked: {error.strerror or error}")


def _who_may(path: Path) -> str:
    """Who can open the socket, as far as this user may see."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            number = each.stat().st_gid
            try:
                group = grp.getgrgid(number).gr_name
            except KeyError:
                group = str(number)
            if number == 0:
                break
            return f"join the group {group} (usermod -aG {group} USER, then log in again), or use sudo"
    return "use sudo"
