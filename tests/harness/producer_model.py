"""A stream server's rules for producers (PROTOCOL section 5.2.1), written a second time, to test against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from durable_streams._wire import Reply

if TYPE_CHECKING:
    from durable_streams._wire import Request


@dataclass
class ModelServer:
    """One stream of bytes, in which every message is one line."""

    log: list[bytes] = field(default_factory=list)
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    closed: bool = False
    closed_by: tuple[str, int, int] | None = None
    max_body_bytes: int = 10**9

    def post(self, request: Request) -> Reply:
        """Answer one request, as often as it arrives."""
        headers = request.headers
        name, epoch, seq = headers["producer-id"], int(headers["producer-epoch"]), int(headers["producer-seq"])
        if self.closed and (name, epoch, seq) == self.closed_by:
            echo = {"producer-epoch": str(epoch), "producer-seq": str(seq)}
            return Reply(204, {**echo, "stream-closed": "true", "stream-next-offset": self.tail})
        if self.closed:
            return Reply(409, {"stream-closed": "true", "stream-next-offset": self.tail})
        known_epoch, last = self.producers.get(name, (epoch, -1))
        if epoch < known_epoch:
            return Reply(403, {"producer-epoch": str(known_epoch)})
        if epoch > known_epoch:
            if seq != 0:
                return Reply(400, {"producer-epoch": str(known_epoch)})
            last = -1
        if seq <= last:
            return Reply(204, {"producer-epoch": str(epoch), "producer-seq": str(last)})
        if seq > last + 1:
            return Reply(409, {"producer-expected-seq": str(last + 1), "producer-received-seq": str(seq)})
        body = request.body or b""
        if len(body) > self.max_body_bytes:
            return Reply(413, {"stream-next-offset": self.tail})
        self.closed = headers.get("stream-closed") == "true"
        if not body and not self.closed:
            return Reply(400, {})
        self.log.extend(body.splitlines())
        self.producers[name] = (epoch, seq)
        echo = {"producer-epoch": str(epoch), "producer-seq": str(seq), "stream-next-offset": self.tail}
        if not self.closed:
            return Reply(200, echo)
        self.closed_by = (name, epoch, seq)
        return Reply(200 if body else 204, {**echo, "stream-closed": "true"})

    @property
    def tail(self) -> str:
        """Where the stream ends."""
        return f"{len(self.log):08d}"
