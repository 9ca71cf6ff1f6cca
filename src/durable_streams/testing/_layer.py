"""The layer around the application that does to each request what is planned for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from durable_streams.server._connections import ABORT
from durable_streams.testing._faults import Delay, DropAfter, DropBefore, Status, Truncate
from durable_streams.testing._plans import RecordedRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from durable_streams.server._connections import Abort
    from durable_streams.server._http import Message, Receive, Scope, Send
    from durable_streams.server._serve import Application
    from durable_streams.testing._faults import Course, Wait
    from durable_streams.testing._plans import Plans


class FaultLayer:
    """An application around another one. Belongs to the server's loop."""

    def __init__(self, inner: Application, plans: Plans) -> None:
        self._inner = inner
        self._plans = plans
        self._stopping = asyncio.Event()
        self._in_the_server: dict[Abort, str] = {}
        """Their paths."""

    async def start(self) -> None:
        """See `Application`."""
        await self._inner.start()

    def stop_waiting(self) -> None:
        """See `Application`."""
        self._stopping.set()
        self._plans.release_all()
        self._inner.stop_waiting()

    async def close(self) -> None:
        """See `Application`."""
        await self._inner.close()

    def break_connections(self, path: str | None = None) -> None:
        """Break off the requests that the server works on, all or those for one path."""
        for abort, of in tuple(self._in_the_server.items()):
            if path in {None, of}:
                abort()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Application`."""
        body = await _whole_body(receive)
        if body is None:
            return  # the client went away before its request was complete
        course, released = self._plans.note(_recorded(scope, body))
        abort: Abort = scope["extensions"][ABORT]
        if not await self._wait(course.waits_before, released):
            abort()
            return
        if isinstance(course.ending, DropBefore | Status) and not course.reaches_the_server:
            await _end(course.ending, send, abort)
            return

        answer = _Answer(course, send, abort, partial(self._wait, course.waits_after, released))
        self._in_the_server[abort] = scope["path"]
        try:
            await self._inner(scope, _Replay(body, receive), answer)
        finally:
            del self._in_the_server[abort]

    async def _wait(self, waits: Iterable[Wait], released: asyncio.Event) -> bool:
        """Whether the request goes on afterwards: not when the server stops meanwhile."""
        for wait in waits:
            if isinstance(wait, Delay):
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait.seconds):
                        await self._stopping.wait()
            else:
                await released.wait()
            if self._stopping.is_set():
                return False
        return True


class _Replay:
    """ASGI's ``receive`` for a body that was read already."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """ASGI's ``send`` for the answer of the server, which may be kept back, replaced, cut or lost.

    It is decided at the first message: what an event stream answers would not be complete for a long time.
    """

    def __init__(
        self, course: Course, send: Send, abort: Abort, waits_are_over: Callable[[], Awaitable[bool]]
    ) -> None:
        self._course = course
        self._send = send
        self._abort = abort
        self._waits_are_over = waits_are_over
        self._left_bytes = course.ending.body_bytes if isinstance(course.ending, Truncate) else None
        self._over = False

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] == "http.response.start" and not await self._begin():
            self._over = True  # what follows has no reader
        elif message["type"] == "http.response.body" and self._left_bytes is not None:
            await self._send_what_is_left(message, self._left_bytes)
        else:
            await self._send(message)

    async def _begin(self) -> bool:
        """Whether the server's answer is sent."""
        if not await self._waits_are_over():
            self._abort()
            return False
        if isinstance(self._course.ending, DropAfter | Status):
            await _end(self._course.ending, self._send, self._abort)
            return False
        return True

    async def _send_what_is_left(self, message: Message, left_bytes: int) -> None:
        body: bytes = message.get("body", b"")
        if len(body) <= left_bytes:
            self._left_bytes = left_bytes - len(body)
            await self._send(message)
            return
        self._over = True
        await self._send({"type": "http.response.body", "body": body[:left_bytes], "more_body": True})
        self._abort(flush=True)


async def _end(ending: DropBefore | DropAfter | Status, send: Send, abort: Abort) -> None:
    """End a request without the server's answer."""
    if not isinstance(ending, Status):
        abort()
        return
    await send({"type": "http.response.start", "status": ending.status, "headers": ending.all_headers()})
    await send({"type": "http.response.body", "body": ending.body})


async def _whole_body(receive: Receive) -> bytes | None:
    """The body, or None when the client went away before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _recorded(scope: Scope, body: bytes) -> RecordedRequest:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return RecordedRequest(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers, body)
