"""A proxy between one MQTT client and its broker that cuts the connection around what the client publishes."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING, Literal, Self

from ds_gateway.mqtt.packets import PUBLISH, PacketBuffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Cut = Literal[
    "pass",
    "before",  # the broker does not get it
    "after",  # the broker gets it; its answer is lost
]
_PUBACK = 4


class MqttProxy:
    """One connection at a time, as a client has it that reconnects. ``judge`` decides on each PUBLISH."""

    def __init__(self, port: int, judge: Callable[[bytes], Cut]) -> None:
        self.cuts = 0
        self._upstream_port = port
        self._judge = judge
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopper = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="mqtt-proxy")

    @property
    def url(self) -> str:
        """Its address, as the configuration wants it."""
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopper.close()
        self._thread.join()
        self._stop.close()
        self._listener.close()

    def _run(self) -> None:
        while self._listener in select.select([self._listener, self._stop], [], [])[0]:
            client, _ = self._listener.accept()
            with client, contextlib.suppress(OSError), self._connect() as broker:
                self._serve(client, broker)

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._upstream_port), timeout=10)

    def _serve(self, client: socket.socket, broker: socket.socket) -> None:
        packets, answers = PacketBuffer(), PacketBuffer()
        while True:
            ready = select.select([client, broker, self._stop], [], [])[0]
            if self._stop in ready:
                return
            for source, target in ((broker, client), (client, broker)):
                if source not in ready:
                    continue
                data = source.recv(65536)
                if not data:
                    return
                if source is broker:
                    target.sendall(data)
                    _holds_puback(answers, data)
                    continue
                for packet in packets.feed(data):
                    assert isinstance(packet, bytes)
                    cut = self._judge(packet) if packet[0] >> 4 == PUBLISH else "pass"
                    if cut != "before":
                        broker.sendall(packet)
                    if cut == "after":
                        while (data := broker.recv(65536)) and not _holds_puback(answers, data):
                            pass
                    if cut != "pass":
                        self.cuts += 1
                        return


def _holds_puback(answers: PacketBuffer, data: bytes) -> bool:
    """Whether there is a PUBACK among the packets that are complete with these bytes of the broker."""
    return _PUBACK in [packet[0] >> 4 for packet in answers.feed(data) if isinstance(packet, bytes)]
