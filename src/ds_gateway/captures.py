"""Captures: what came from a port or a broker, kept in a file that `ds-gateway try` and tests read again.

One JSON object a line. The first says what it is, each of the others is one thing that happened:

    {"capture": 1, "source": "scale", "kind": "serial", "started": "2026-03-01T10:00:00Z", "port": "/dev/ttyUSB0"}
    {"after": 0.0131, "raw": "MTIuMyBrZw0K"}                         bytes as they were read (base64)
    {"after": 1.0002, "sent": "Uw0K"}                                serial: bytes that were written, as a question
    {"after": 1.0130, "topic": "a/b", "raw": "e30=", "retain": true} MQTT: one message
    {"after": 2.5000, "lost": 4096}                                  so many bytes are missing here

``after`` is in seconds since the beginning, on a clock that never goes back. Members that are not known are passed
over, so that later versions can add some. A last line without an end was being written when its writer was
killed; it does not count. What does not begin with such a header is taken as the bytes of a line, all in one.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import orjson

from ds_gateway.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

Kind = Literal["serial", "mqtt"]

FORMAT: Final = 1
MAX_LINE_BYTES: Final = 2 * 1024 * 1024
"""The largest payload that is decoded, in base64, with a topic."""
MAX_RAW_FILE_BYTES: Final = 16 * 1024 * 1024
"""The largest file without a header: it is read as a whole."""
_MODE: Final = 0o600
_HEADER_START: Final = b'{"capture"'
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_PLACES: Final = {"serial": "port", "mqtt": "broker"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a capture is of."""

    source: str
    kind: Kind
    started_ns: int | None
    """UTC, nanoseconds since 1970; None for bytes without a header."""
    at: str = ""
    """The port, or the broker's URL."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One thing that happened, so many seconds after the beginning."""

    after_seconds: float
    raw: bytes
    """What was read, or the payload of a message."""
    topic: str | None = None
    retain: bool = False
    is_sent: bool = False
    """``raw`` was written to the port."""
    lost_bytes: int = 0
    """Bytes that are missing here; ``raw`` is empty then."""


class CaptureReader:
    """Reads one file, line by line. A context manager; iterating gives its chunks, once.

    Raises `CaptureError` that names file, line and the way out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 1
        self.is_cut = False
        """Whether the last line was not written to its end; known after the last chunk."""
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise CaptureError(f"{path} cannot be read: {error.strerror}") from None
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Chunk]:
        if self._raw is not None:
            yield Chunk(0.0, self._raw)
            return
        last = 0.0
        while line := self._line():
            self._number += 1
            if not line.endswith(b"\n"):
                if len(line) > MAX_LINE_BYTES:
                    raise self._error(f"has more than {MAX_LINE_BYTES} bytes: remove this line")
                self.is_cut = True
                return
            if line.isspace():
                continue
            chunk = self._chunk(line)
            if chunk.after_seconds < last:
                raise self._error("after goes back: put the lines into their order")
            last = chunk.after_seconds
            yield chunk

    def _line(self) -> bytes:
        try:
            return self._file.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise CaptureError(f"{self._path} cannot be read: {error.strerror}") from None

    def _read_header(self) -> Header:
        self._raw: bytes | None = None
        line = self._line()
        if not line.lstrip().startswith(_HEADER_START) and not _is_header(line):
            self._raw = self._rest(line)
            return Header(source="", kind="serial", started_ns=None)
        match _json(line):
            case {"capture": 1, "source": str(source), "kind": ("serial" | "mqtt") as kind, **more}:
                return Header(source, kind, self._started(more.get("started")), str(more.get(_PLACES[kind]) or ""))
            case {"capture": int(number)} if number != FORMAT:
                raise self._error(f"is a capture of format {number}, and this version reads {FORMAT}: update it")
            case None:
                raise self._error("is cut off: nothing was captured; capture again")
            case _:
                raise self._error(
                    'must be {"capture": 1, "source": NAME, "kind": "serial" or "mqtt", "started": RFC 3339 time}'
                )

    def _rest(self, first: bytes) -> bytes:
        try:
            raw = first + self._file.read(MAX_RAW_FILE_BYTES + 1 - len(first))
        except OSError as error:
            raise CaptureError(f"{self._path} cannot be read: {error.strerror}") from None
        if len(raw) > MAX_RAW_FILE_BYTES:
            raise CaptureError(
                f"{self._path}: is no capture, and as plain bytes it has more than {MAX_RAW_FILE_BYTES}: give a "
                "part of it (head -c), or record it with ds-gateway capture"
            )
        return raw

    def _started(self, text: Any) -> int | None:
        if text is None:
            return None
        try:
            since = datetime.fromisoformat(text) - _EPOCH
        except (TypeError, ValueError):  # a time without a zone cannot be subtracted
            raise self._error('started must be a time with its zone, as "2026-03-01T10:00:00Z"') from None
        return since // _MICROSECOND * 1000

    def _chunk(self, line: bytes) -> Chunk:
        values = _json(line)
        if not isinstance(values, dict):
            raise self._error("is no JSON object: remove this line, or capture again")
        after = values.get("after")
        if isinstance(after, bool) or not isinstance(after, int | float) or not math.isfinite(after) or after < 0:
            raise self._error("after must be seconds since the beginning, as 0.25")
        match values:
            case {"lost": int(lost)} if lost > 0 and not isinstance(lost, bool):
                return Chunk(float(after), b"", lost_bytes=lost)
            case {"sent": str(sent)} if self.header.kind == "serial":
                return Chunk(float(after), self._bytes("sent", sent), is_sent=True)
            case {"raw": str(raw)} if self.header.kind == "serial":
                return Chunk(float(after), self._bytes("raw", raw))
            case {"raw": str(raw), "topic": str(topic)}:
                return Chunk(float(after), self._bytes("raw", raw), topic, values.get("retain") is True)
        members = "raw or sent" if self.header.kind == "serial" else "topic and raw"
        raise self._error(f"has no {members} (raw is base64), nor lost: remove this line")

    def _bytes(self, name: str, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise self._error(f"{name} is no base64: remove this line") from None

    def _error(self, message: str) -> CaptureError:
        return CaptureError(f"{self._path}:{self._number}: {message}")


class CaptureWriter:
    """Writes one file, and flushes each chunk: what is captured is there even if the writer is killed.

    The file is for this user alone, as payloads may be anything. Raises `CaptureError`: it is there already
    (unless ``replace``), or cannot be written. A context manager.
    """

    def __init__(
        self, path: Path, *, source: str, kind: Kind, at: str, started: str, replace: bool = False
    ) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags | (os.O_TRUNC if replace else os.O_EXCL), _MODE)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # never the mode of a device, as /dev/null
                os.fchmod(descriptor, _MODE)
        except FileExistsError:
            raise CaptureError(f"{path} is there already: name another file, or add --force") from None
        except OSError as error:
            raise CaptureError(f"{path} cannot be written: {error.strerror}") from None
        # Unbuffered: one write a line, whole or cut.
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self.chunks = 0
        self.bytes = 0
        try:
            self._write({"capture": FORMAT, "source": source, "kind": kind, "started": started, _PLACES[kind]: at})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, chunk: Chunk) -> None:
        """Write one chunk."""
        line: dict[str, Any] = {"after": round(chunk.after_seconds, 6)}
        if chunk.lost_bytes:
            line["lost"] = chunk.lost_bytes
        elif chunk.is_sent:
            line["sent"] = base64.b64encode(chunk.raw).decode()
        else:
            if chunk.topic is not None:
                line["topic"] = chunk.topic
            line["raw"] = base64.b64encode(chunk.raw).decode()
            if chunk.retain:
                line["retain"] = True
            self.chunks += 1
            self.bytes += len(chunk.raw)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        data = memoryview(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise CaptureError(
                f"{self._path} cannot be written on: {error.strerror}; what is in it can be read"
            ) from None


def _is_header(line: bytes) -> bool:
    """Whether it is one whose members stand in another order."""
    values = _json(line) if line.lstrip().startswith(b"{") else None
    return isinstance(values, dict) and "capture" in values


def _json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
