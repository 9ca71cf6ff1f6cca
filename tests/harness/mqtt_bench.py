"""An MQTT source between a broker and a journal in memory, and a publisher beside it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from ds_gateway.config.mqtt import MqttSettings
from ds_gateway.mqtt import MqttSource
from ds_gateway.records import Record, Rejected
from durable_streams._retry import Backoff
from harness.memory_journal import Disk, MemoryJournal
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

CLIENT_ID = "gateway-1"


def record(topic: str, payload: bytes, time_ns: int) -> Record | Rejected:
    """The pipeline of these tests: the topic is the device, the payload the record."""
    assert time_ns > 0
    return Record("stream", topic, payload)


class Publisher:
    """A client that publishes and waits for the broker's PUBACKs."""

    def __init__(self, port: int, *, username: str | None = None, password: str | None = None) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, "publisher")
        self._client.max_inflight_messages_set(1000)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(
        self, payloads: Iterable[bytes], *, topic: str = "s/1/t", qos: int = 1, retain: bool = False
    ) -> None:
        """Publish, and return when the broker has all of them."""
        last: MQTTMessageInfo | None = None
        for payload in payloads:
            last = self._client.publish(topic, payload, qos=qos, retain=retain)
        if last is not None:
            last.wait_for_publish(20)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()
        # paho keeps its wake-up sockets until it is collected.
        self._client._reset_sockets()


class Bench:
    """One gateway's disk, and the processes that come and go on it."""

    def __init__(self, folder: Path) -> None:
        self.disk = Disk()
        self.folder = folder
        self._stack = ExitStack()
        self.journal = MemoryJournal(self.disk)
        self.source: MqttSource | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.release()
        self._stack.close()

    def start(
        self,
        url: str,
        *,
        filters: Sequence[str] = ("s/+/t",),
        journal: MemoryJournal | None = None,
        pipeline: Any = record,
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> MqttSource:
        """Start a process: a journal's writer and a source, which is returned."""
        self.journal = self._stack.enter_context(journal or MemoryJournal(self.disk))
        source = MqttSource(
            "hall",
            MqttSettings.model_validate({"url": url, "devices": [{"topic": "s/+/t"}], **settings}),
            client_id=CLIENT_ID,
            filters=filters,
            pipeline=pipeline,
            intake_factory=self.journal.intake,
            data_dir=self.folder,
            **{"backoff": Backoff(first_seconds=0.05, max_seconds=0.2), **(options or {})},
        )
        self._stack.callback(source.stop, 10)
        source.start()
        self.source = source
        return source

    def kill(self) -> None:
        """End the process without any more PUBACKs: what is committed now is not told to the source."""
        assert self.source is not None
        self.journal.mute = True
        self.journal.release()
        self.source.stop(0)
        wait_until(lambda: self.source is not None and not self.source.is_running, what="the source has ended")

    def wait_for(self, payloads: Sequence[bytes]) -> None:
        """Wait until so many records are accepted, and compare them."""
        wait_until(
            lambda: len(self.disk.tails) >= len(payloads),
            what=f"{len(payloads)} records are accepted ({self.source and self.source.snapshot()})",
        )
        assert self.disk.tails == list(payloads)

    def wait_until_received(self, count: int) -> None:
        """Wait until so many messages have come in."""
        source = self.source
        assert source is not None
        wait_until(lambda: source.snapshot().received == count, what=f"{count} messages have come in")

    def wait_until_acknowledged(self) -> None:
        """Wait until nothing waits for a PUBACK."""
        source = self.source
        assert source is not None
        wait_until(lambda: source.snapshot().unacked == 0, what="everything is acknowledged")

    def wait_until_subscribed(self) -> None:
        """Wait until the subscription is known to the journal."""
        source = self.source
        assert source is not None
        wait_until(
            lambda: source.snapshot().state == "connected" and "filters" in self.disk.rows,
            what="the source has subscribed",
        )

    def wait_for_reason(self, text: str) -> None:
        """Wait until the source's state says this."""
        source = self.source
        assert source is not None
        wait_until(lambda: text in source.snapshot().reason, what=f"the source says {text!r}")


def take_over(port: int) -> None:
    """Connect with the source's client id and go away: the broker cuts the source off, and keeps the session."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        name = CLIENT_ID.encode()
        body = b"\x00\x04MQTT\x04\x00\x00\x3c" + len(name).to_bytes(2, "big") + name
        link.sendall(bytes([0x10, len(body)]) + body)
        assert link.recv(4)[:1] == b"\x20"


def numbered(first: int, last: int) -> list[bytes]:
    """Payloads with their numbers."""
    return [b"%d" % number for number in range(first, last + 1)]
