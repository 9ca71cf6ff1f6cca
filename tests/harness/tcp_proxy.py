"""A TCP proxy between HTTP clients and one server, with the faults of real networks.

Bytes pass as they came. Of HTTP it knows where a message ends and what its head says, so that a fault can be meant
for a certain request. Each request has a connection of its own to the server; the client keeps its connection.

| fault     | what happens                                                                              |
|-----------|-------------------------------------------------------------------------------------------|
| Cut       | the connection ends after so many bytes of the request or of the answer (RST or FIN)      |
| Delayed   | the answer comes late                                                                     |
| Deaf      | the request is swallowed, or its answer is; nothing ever comes back                       |
| Repeated  | the server gets the request twice: its copy at once, after the answer, or much later      |
| Truncated | the body of the answer is cut, and its length made to fit                                 |
| Answered  | the proxy gives an answer of its own, without asking the server or after it               |
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from harness.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from random import Random
    from types import TracebackType

T = TypeVar("T")

_MAX_HEAD_BYTES = 256 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing the socket sends RST."""
_PROBE_SEQ = 2**53 - 1


@dataclass(frozen=True)
class Cut:
    """The connections to both sides end. Of the request or the answer, ``after_bytes`` bytes get through.

    A cut answer belongs to a request that has arrived whole.
    """

    of: Literal["request", "answer"]
    after_bytes: int = 0
    reset: bool = True


@dataclass(frozen=True)
class Delayed:
    """The answer arrives after so long."""

    seconds: float


@dataclass(frozen=True)
class Deaf:
    """Nothing ever comes back. ``delivered``: the server got the request, and its answer is swallowed.

    After ``seconds`` the connection is reset, as by a router that forgot it; None: the client has to give up.
    """

    delivered: bool
    seconds: float | None = None


@dataclass(frozen=True)
class Repeated:
    """The server gets the request twice, over two connections.

    ``before``: the client gets the answer to the second; ``after``: the copy arrives when the server has answered,
    and before the client knows; ``late``: when `TcpProxy.deliver_late` is called.
    """

    copy: Literal["before", "after", "late"]


@dataclass(frozen=True)
class Truncated:
    """So many bytes of the answer's body arrive, and are said to be all."""

    keep_bytes: int


@dataclass(frozen=True)
class Answered:
    """An answer that is not the server's. ``delivered``: the server had got the request before."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delivered: bool = False


Fault = Cut | Delayed | Deaf | Repeated | Truncated | Answered


@dataclass(frozen=True)
class Head:
    """The head of a request; the names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The method; of a POST what it carries: ``claim``, ``probe`` or ``batch``."""
        seq = int(self.headers.get("producer-seq", "1"))
        return {0: "claim", _PROBE_SEQ: "probe"}.get(seq, "batch") if self.method == "POST" else self.method


@dataclass
class Plan:
    """What happens to the next requests that it is meant for."""

    fault: Fault | Callable[[], Fault | None]
    where: Callable[[Head], object]
    left: int | None
    used: int = 0


class TcpProxy:
    """One proxy in a thread of its own, on a port of its own. Leaving the context breaks all connections."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        assert upstream.hostname is not None
        assert upstream.port is not None
        self._upstream = (upstream.hostname, upstream.port)
        self._path = upstream.path
        self._port = free_port()
        self._lock = threading.Lock()
        self._plans: list[Plan] = []
        self._late: list[tuple[bytes, str]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy")
        self._listener: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """What goes into ``server.url`` of a configuration."""
        return f"http://127.0.0.1:{self._port}{self._path}"

    def inject(
        self,
        fault: Fault | Callable[[], Fault | None],
        *,
        where: Callable[[Head], object] = lambda _: True,
        times: int | None = 1,
    ) -> Plan:
        """Make the next requests that ``where`` is true of fail. ``times`` None: until `heal`."""
        plan = Plan(fault, where, times)
        with self._lock:
            self._plans.append(plan)
        return plan

    def mix(self, faults: Sequence[Fault], random: Random, *, share: float) -> Plan:
        """Let this share of all requests fail, each with one of these faults."""
        return self.inject(
            lambda: random.choice(faults) if random.random() < share else None,
            times=None,
        )

    def heal(self) -> None:
        """Forget all plans; connections on which nothing ever comes back are reset."""
        with self._lock:
            self._plans.clear()
        self.reset_connections()

    def reset_connections(self) -> None:
        """Reset all connections, as a router does that starts anew."""
        self._call(self._reset_all())

    def deliver_late(self) -> list[int]:
        """Deliver the copies that are still on their way, in their order; return what they were answered."""
        return self._call(self._deliver_late())

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # -- on the proxy's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, limit=_MAX_HEAD_BYTES, backlog=200
        )

    async def _close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        await self._listener.wait_closed()
        for task in self._tasks:
            task.cancel()
        await self._reset_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine function: the stream server would keep a task of its own for it.
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            # Either side may hang up at any time, or be hung up on: that ends a connection and no test.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._pass_on(reader, writer):
                    pass
        finally:
            writer.close()
            self._writers.discard(writer)

    def _fault_for(self, head: Head) -> Fault | None:
        with self._lock:
            for plan in self._plans:
                if plan.left != 0 and plan.where(head):
                    fault = plan.fault() if callable(plan.fault) else plan.fault
                    if fault is not None:
                        plan.left = plan.left and plan.left - 1
                        plan.used += 1
                    return fault
        return None

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; return whether the connection can be used for another."""
        raw_head = await reader.readuntil(b"\r\n\r\n")
        head = _parse(raw_head)
        length = int(head.headers.get("content-length", "0"))
        fault = self._fault_for(head)
        if isinstance(fault, Cut) and fault.of == "request":
            body_bytes = min(length, max(0, fault.after_bytes - len(raw_head)))
            begun = (raw_head + await reader.readexactly(body_bytes))[: fault.after_bytes]
            await self._deliver_part(begun, reset=fault.reset)
            return _hang_up(writer, reset=fault.reset)
        request = raw_head + await reader.readexactly(length)
        if isinstance(fault, Answered):
            if fault.delivered:
                await self._ask(request, head.method)
            writer.write(_render(fault, head.method))
            await writer.drain()
            return True
        if isinstance(fault, Deaf):
            if fault.delivered:
                await self._ask(request, head.method)
            # Whatever else comes is swallowed, too; the client's hanging up ends it.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), fault.seconds)
            return _hang_up(writer, reset=True)
        if isinstance(fault, Repeated) and fault.copy == "before":
            await self._ask(request, head.method)
        answer = await self._ask(request, head.method)
        match fault:
            case Cut(after_bytes=count, reset=reset):
                writer.write(answer[:count])
                await writer.drain()
                return _hang_up(writer, reset=reset)
            case Delayed(seconds):
                await asyncio.sleep(seconds)
            case Truncated(keep_bytes):
                answer = _truncate(answer, keep_bytes)
            case Repeated("after"):
                await self._ask(request, head.method)
            case Repeated("late"):
                self._late.append((request, head.method))
        writer.write(answer)
        await writer.drain()
        return True

    async def _ask(self, request: bytes, method: str) -> bytes:
        """The server's whole answer. OSError, IncompleteReadError: it did not come, or only a part of it."""
        reader, writer = await asyncio.open_connection(*self._upstream, limit=_MAX_HEAD_BYTES)
        self._writers.add(writer)
        try:
            writer.write(request)
            await writer.drain()
            return await _read_answer(reader, method)
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _deliver_part(self, begun: bytes, *, reset: bool) -> None:
        _, writer = await asyncio.open_connection(*self._upstream)
        writer.write(begun)
        await writer.drain()
        _hang_up(writer, reset=reset)
        writer.close()

    async def _deliver_late(self) -> list[int]:
        late, self._late = self._late, []
        return [int((await self._ask(*each)).split(b" ", 2)[1]) for each in late]


def _parse(raw: bytes) -> Head:
    first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return Head(method, target, {name.lower(): value.strip() for name, value in pairs})


async def _read_answer(reader: asyncio.StreamReader, method: str) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if method == "HEAD" or status in {204, 304}:
        return head
    length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
    if length is not None:
        return head + await reader.readexactly(int(length[1]))
    if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
        return head + await _read_chunks(reader)
    return head + await reader.read()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


def _truncate(answer: bytes, keep_bytes: int) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    kept = body[:keep_bytes]
    head = re.sub(rb"(?i)\r\ncontent-length: *%d" % len(body), b"\r\ncontent-length: %d" % len(kept), head)
    return head + b"\r\n\r\n" + kept


def _render(answer: Answered, method: str) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Whatever", f"content-length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if method == "HEAD" else head + answer.body


def _hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> bool:
    """End a connection with RST or, after what is written, FIN. False: it takes no other request."""
    if reset:
        _reset(writer)
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
