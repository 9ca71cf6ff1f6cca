"""A QoS 1 publisher that knows exactly which messages the broker has confirmed, and in which order.

It speaks just enough MQTT 3.1.1 for that, over one blocking socket: what a client library would queue, resend or
reorder must not be in doubt here.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

Message = tuple[str, bytes]
"""Topic and payload."""

_CONNECT_FLAGS_CLEAN = 0x02
_TIMEOUT_SECONDS = 20.0


class Publisher:
    """One connection. A message counts as confirmed when its PUBACK is here.

    With ``retries`` it is a publisher that outlives its broker: what is unconfirmed when the connection ends is
    published again, as another message with the same payload, on a new connection.
    """

    def __init__(self, port: int, client_id: str = "publisher", *, retries: bool = False) -> None:
        self.confirmed: list[Message] = []
        self.retried = 0
        """Messages published again."""
        self._retries = retries
        self._mid = 0
        self._port = port
        self._client_id = client_id
        self._connect()

    def reconnect(self) -> None:
        """Connect again, to a broker that was restarted meanwhile. Nothing must be unconfirmed."""
        self._received.close()
        self._socket.close()
        self._connect()

    def publish(self, messages: Sequence[Message], *, retain: bool = False) -> None:
        """Send all of them at once, and return when every one is confirmed."""
        waiting: dict[int, Message] = {}
        try:
            self._publish(messages, waiting, 0x33 if retain else 0x32)
        except (OSError, AssertionError):
            if not self._retries:
                raise
            wait_until(self._is_back, what="the publisher's broker is back", timeout_seconds=_TIMEOUT_SECONDS)
            self.retried += len(waiting)
            self.publish(list(waiting.values()), retain=retain)

    def _publish(self, messages: Sequence[Message], waiting: dict[int, Message], kind: int) -> None:
        packets = []
        for topic, payload in messages:
            self._mid = self._mid % 65_535 + 1
            waiting[self._mid] = (topic, payload)
            packets.append(_packet(kind, _text(topic) + struct.pack(">H", self._mid) + payload))
        self._socket.sendall(b"".join(packets))
        while waiting:
            answer, body = self._read()
            assert answer == 0x40, f"the broker sent packet {answer:#x} to a publisher"
            self.confirmed.append(waiting.pop(struct.unpack(">H", body[:2])[0]))

    def publish_qos0(self, messages: Sequence[Message]) -> None:
        """Send them all. Nobody confirms anything."""
        self._socket.sendall(b"".join(_packet(0x30, _text(topic) + payload) for topic, payload in messages))

    def close(self) -> None:
        """Disconnect."""
        self._socket.sendall(_packet(0xE0, b""))
        self._received.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_back(self) -> bool:
        try:
            self.reconnect()
        except (OSError, AssertionError):
            return False
        return True

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = self._socket.makefile("rb")
        body = _text("MQTT") + struct.pack(">BBH", 4, _CONNECT_FLAGS_CLEAN, 0) + _text(self._client_id)
        self._socket.sendall(_packet(0x10, body))
        assert self._read() == (0x20, b"\0\0"), "the broker refuses the publisher"

    def _read(self) -> tuple[int, bytes]:
        kind, size = self._exactly(2)
        assert size < 128, "what a broker sends to a publisher is short"
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self._received.read(size)
        if len(data) < size:
            raise AssertionError("the broker closed the publisher's connection")
        return data


class Traffic:
    """Publishes from a thread of its own, as far as it was allowed to, in bursts of random size.

    A burst is what is unconfirmed at a time: from one message after the other to a flood.
    """

    def __init__(self, publisher: Publisher, messages: Sequence[Message], burst: Callable[[], int]) -> None:
        self._publisher = publisher
        self._messages = messages
        self._burst = burst
        # What the publisher sent before is none of this traffic: counted in, the end would be seen too early, and
        # two threads would read each other's PUBACKs.
        self._before = len(publisher.confirmed)
        self._allowed = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="traffic")

    @property
    def confirmed(self) -> int:
        """Messages of this traffic confirmed so far."""
        return len(self._publisher.confirmed) - self._before

    def allow(self, count: int) -> None:
        """Let so many more messages be published."""
        with self._changed:
            self._allowed = min(self._allowed + count, len(self._messages))
            self._changed.notify_all()

    def wait_confirmed(self, count: int, *, timeout_seconds: float = 60.0) -> None:
        """Return at the moment at which at least so many messages are confirmed."""
        with self._changed:
            reached = self._changed.wait_for(
                lambda: self._failure is not None or self.confirmed >= count, timeout_seconds
            )
        if self._failure is not None:
            raise AssertionError("the publisher failed") from self._failure
        assert reached, f"{self.confirmed} of {count} messages are confirmed after {timeout_seconds} s"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            sent = 0
            while sent < len(self._messages):
                allowed = self._wait_allowed(sent)
                if allowed <= sent:
                    return
                chunk = self._messages[sent : min(sent + self._burst(), allowed)]
                self._publisher.publish(chunk)
                sent += len(chunk)
                with self._changed:
                    self._changed.notify_all()
        except (AssertionError, OSError) as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _wait_allowed(self, sent: int) -> int:
        """How many messages may be sent in all; no more than were sent when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._allowed > sent)
            return sent if self._stopped else self._allowed


def _packet(kind: int, body: bytes) -> bytes:
    size, head = len(body), bytearray([kind])
    while True:
        size, low = divmod(size, 128)
        head.append(low | (0x80 if size else 0))
        if not size:
            return bytes(head) + body


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded
