"""Orders between the threads that give them and the connection that sends them: does what `outgoing` decides."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ds_gateway.commands import Progress
from ds_gateway.mqtt.outgoing import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.commands import Order
    from ds_gateway.mqtt.events import Connack, Puback
    from ds_gateway.mqtt.outgoing import Publish
    from ds_gateway.mqtt.packets import Publication

    OnProgress = Callable[[Progress], None]


class Link(Protocol):
    """What is needed of `ds_gateway.mqtt._connection.Connection`."""

    ended: str | None

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be written."""
        ...  # pragma: no cover

    def publish(self, message: Publish) -> int:
        """Queue the message; return its packet id."""
        ...  # pragma: no cover

    def write(self) -> None:
        """Write what waits, as far as the socket takes it."""
        ...  # pragma: no cover


class Sender:
    """`give` is called in any thread, the rest in the network thread. ``wake`` ends that thread's wait."""

    def __init__(
        self,
        response_topic: str | None,
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outgoing = Outgoing(response_topic)
        self._wake = wake
        self._monotonic = monotonic
        self._given: deque[tuple[Order, OnProgress]] = deque()
        self._callbacks: dict[int, OnProgress] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def give(self, order: Order, on_progress: OnProgress) -> None:
        """Take an order. After `close` it ends at once, and is told so in this thread."""
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._given.append((order, on_progress))
        if is_closed:
            on_progress(Progress("expired", is_final=True, reason="the gateway stops"))
        else:
            self._wake()

    def seconds_left(self, patience_seconds: float) -> float:
        """How long may be waited, at most so long, until something is due."""
        due = self._outgoing.due
        return patience_seconds if due is None else max(0.0, min(patience_seconds, due - self._monotonic()))

    def connected(self, connack: Connack) -> None:
        """The broker took us."""
        self._outgoing.connected(connack)

    def subscribed(self, refused: Mapping[str, str] | None = None) -> None:
        """The session has its subscriptions but for those that the broker refused, with its reason."""
        self._outgoing.subscribed(refused)

    @property
    def waiting(self) -> int:
        """Orders that wait to be published, the first time or again. Any thread."""
        return len(self._given) + self._outgoing.waiting

    @property
    def unacknowledged(self) -> int:
        """Orders that were published, and are not over. Any thread."""
        return max(len(self._outgoing) - self._outgoing.waiting, 0)

    def confirmed(self, puback: Puback) -> None:
        """The broker confirmed a message, or refused it."""
        self._outgoing.puback(puback, self._monotonic())

    def received(self, publication: Publication) -> None:
        """A message came in, an answer perhaps. Raises `ProtocolError`."""
        self._outgoing.received(publication)

    def disconnected(self) -> None:
        """The connection is over, or none came about."""
        self._outgoing.disconnected()
        self.turn(None)

    def turn(self, link: Link | None) -> None:
        """Take what was given, send what may be sent, and tell what became of it."""
        while self._given:
            order, on_progress = self._given.popleft()
            self._callbacks[self._outgoing.add(order)] = on_progress
        self._outgoing.tick(self._monotonic())
        if link is not None:
            self._send(link)
        self._tell()

    def close(self) -> None:
        """End all orders. Called when the network thread is at its end, or never began."""
        with self._lock:
            self._is_closed = True
        self.turn(None)
        self._outgoing.stop()
        self._tell()

    def _send(self, link: Link) -> None:
        # One after the other, and only when the socket has taken the one before: what is still here when the
        # connection ends was not sent, but for one.
        while link.ended is None and not link.wants_write:
            message = self._outgoing.next(now := self._monotonic())
            if message is None:
                return
            self._outgoing.sent(message, link.publish(message), now)
            link.write()

    def _tell(self) -> None:
        for number, progress in self._outgoing.take_told():
            on_progress = self._callbacks.pop(number) if progress.is_final else self._callbacks[number]
            on_progress(progress)
