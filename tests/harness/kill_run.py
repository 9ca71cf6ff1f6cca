"""SIGKILL of a stream server, again and again under load; then every stream is read back and judged.

Each writer is an idempotent producer: it sends a batch until it is acknowledged, then the next. A server that
refuses a batch, or does not answer for long, ends its stream and not the run: the writer goes on with another one.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from harness import batch_audit
from harness.batch_audit import BYTES, JSON, Found, Verdict
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WRITERS = (JSON, BYTES, JSON, BYTES)
SMALLEST_BYTES, LARGEST_BYTES = 100, 1_000_000
BATCHES_A_STREAM = 150
"""After so many a writer begins another stream: a page of one that is read at once stays bearable."""
# What is in progress when the server dies is sent again within a second of its return; this is for a server that
# is stuck.
_GIVE_UP_SECONDS = 20.0
_ANSWER_SECONDS = 20.0


class Server(Protocol):
    """A server over a directory that comes back at the same address."""

    @property
    def base_url(self) -> str:
        """What stands before a stream's name."""
        ...

    def start(self) -> None:
        """Start, and return once connections are accepted."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


@dataclass
class Written:
    """A stream, and what its writer knows."""

    path: str
    content_type: str
    acknowledged: int = 0
    sent: int = 0
    given_up: str = ""
    """Why its writer went on to another stream before its time."""


class RefusedError(Exception):
    """The server refuses a batch, and would do so again."""


class Connection:
    """Requests to one server; a broken connection is opened anew by the next one."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        self.root = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_ANSWER_SECONDS)

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, http.client.HTTPMessage, bytes] | None:
        """The answer's status, headers and body; None when there is none."""
        try:
            self._connection.request(method, path, body=body, headers=dict(headers))
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return None

    def close(self) -> None:
        """Let go of the socket."""
        self._connection.close()


class Writer(threading.Thread):
    """Writes batches of random sizes until it has been told that it is enough."""

    def __init__(self, base_url: str, number: int, content_type: str) -> None:
        super().__init__(name=f"writer-{number}")
        self.streams: list[Written] = []
        self.acknowledged = 0
        self.bytes = 0
        self.enough = threading.Event()
        self.error: BaseException | None = None
        self._content_type = content_type
        self._random = random.Random(number)
        self._connection = Connection(base_url)

    def run(self) -> None:
        """See `Thread.run`."""
        try:
            while not self.enough.is_set():
                self._write_stream()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's to raise
            self.error = error
        finally:
            self._connection.close()

    def _write_stream(self) -> None:
        name = f"{self.name}-{len(self.streams)}"
        stream = Written(f"{self._connection.root}/{name}", self._content_type)
        self.streams.append(stream)
        try:
            self._until_acknowledged("PUT", stream, {}, b"")
            while stream.acknowledged < BATCHES_A_STREAM and not self.enough.is_set():
                self._send_batch(stream)
        except (RefusedError, AssertionError) as error:
            stream.given_up = str(error)

    def _send_batch(self, stream: Written) -> None:
        size = round(SMALLEST_BYTES * (LARGEST_BYTES / SMALLEST_BYTES) ** self._random.random())
        body = batch_audit.encode(stream.content_type, stream.acknowledged, size)
        mark = {"producer-id": self.name, "producer-epoch": "0", "producer-seq": str(stream.acknowledged)}
        stream.sent = stream.acknowledged + 1
        self._until_acknowledged("POST", stream, mark, body)
        stream.acknowledged += 1
        self.acknowledged += 1
        self.bytes += len(body)

    def _until_acknowledged(self, method: str, stream: Written, mark: Mapping[str, str], body: bytes) -> None:
        headers = {"content-type": stream.content_type, **mark}

        def acknowledged() -> bool:
            answer = self._connection.request(method, stream.path, headers, body)
            if answer is None or answer[0] >= 500:
                return False
            status, _, text = answer
            if status >= 300:
                raise RefusedError(f"{method} is refused: {status} {text[:80]!r}")
            return True

        wait_until(acknowledged, timeout_seconds=_GIVE_UP_SECONDS, what=f"{method} is acknowledged")


@dataclass
class Report:
    """How a run went."""

    kills: int
    seconds: float
    bytes: int
    streams: Sequence[Written]
    verdict: Verdict
    given_up: Sequence[str] = field(default_factory=list[str])


def kill_repeatedly(server: Server, *, kills: int) -> Report:
    """Kill the server so many times while all writers write, then judge what is in its streams."""
    begun = time.monotonic()
    server.start()
    writers = [Writer(server.base_url, number, content_type) for number, content_type in enumerate(WRITERS)]
    for writer in writers:
        writer.start()
    moments = random.Random(7)
    try:
        for _ in range(kills):
            _wait_for_progress(writers, moments.randint(3, 20))
            server.kill()
            server.start()
    finally:
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * len(writers)
    seconds = time.monotonic() - begun
    streams = [stream for writer in writers for stream in writer.streams]
    verdict = _judge_all(server.base_url, streams)
    server.kill()
    return Report(
        kills,
        seconds,
        sum(writer.bytes for writer in writers),
        streams,
        verdict,
        [f"{stream.path}: {stream.given_up}" for stream in streams if stream.given_up],
    )


def table(reports: Mapping[str, Report]) -> str:
    """The figures of runs, one below the other."""
    columns: tuple[tuple[str, Callable[[Report], object]], ...] = (
        ("kills", lambda report: report.kills),
        ("seconds", lambda report: round(report.seconds)),
        ("streams", lambda report: len(report.streams)),
        ("MB", lambda report: round(report.bytes / 1e6)),
        ("acknowledged", lambda report: report.verdict.acknowledged),
        ("acknowledged and lost", lambda report: report.verdict.lost),
        ("stored twice", lambda report: report.verdict.stored_twice),
        ("unreadable", lambda report: report.verdict.unreadable),
        ("out of order", lambda report: report.verdict.out_of_order),
        ("damaged streams", lambda report: len(report.verdict.damages)),
        ("streams given up", lambda report: len(report.given_up)),
    )
    rows = [["", *(title for title, _ in columns)]]
    rows += [[name, *(str(value(report)) for _, value in columns)] for name, report in reports.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _wait_for_progress(writers: Sequence[Writer], batches: int) -> None:
    goal = sum(writer.acknowledged for writer in writers) + batches
    wait_until(
        lambda: sum(writer.acknowledged for writer in writers) >= goal,
        timeout_seconds=3 * (_GIVE_UP_SECONDS + _ANSWER_SECONDS),
        what="some batches are acknowledged",
    )


def _judge_all(base_url: str, streams: Sequence[Written]) -> Verdict:
    connection = Connection(base_url)
    verdict = Verdict()
    for stream in streams:
        found = read_back(connection, stream)
        verdict += batch_audit.judge(stream.acknowledged, stream.sent, found)
    connection.close()
    return verdict


def read_back(connection: Connection, stream: Written) -> Found:
    """All batches of a stream. What cannot be read, for whatever reason, is damage and not an error."""
    pages: list[bytes] = []
    damage = ""
    offset, positions = "-1", {"-1"}
    while not damage:
        answer = connection.request("GET", f"{stream.path}?offset={offset}", {})
        if answer is None:
            damage = "no answer to a read"
            break
        status, headers, page = answer
        if status != 200:
            damage = f"reading is answered with {status}"
            break
        pages.append(page)
        offset = headers.get("stream-next-offset", "")
        if "stream-up-to-date" in headers:
            break
        if offset in positions:
            damage = f"reading does not get beyond {offset!r}"
        positions.add(offset)
    found = batch_audit.decode(stream.content_type, pages)
    return Found(found.batches, found.damage or damage)
