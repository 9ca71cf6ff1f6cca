"""Server-sent events, as they arrive: any division into chunks gives the same events.

What this parser follows of the WHATWG specification of event streams (section 9.2.6 there): a line ends with LF,
CR or CRLF and with nothing else; a byte order mark at the very beginning is not content; a colon begins a comment;
one space behind a field's colon is not content; a field without a colon has an empty value; the lines of several
``data`` fields are joined by LF; an event without a ``data`` field is none, and neither is one that the end of the
connection cut off. ``id`` and ``retry`` are passed over: a stream's own offsets say where to go on.

Payloads stay bytes: a server may divide a text between two events inside of a character.

The work is linear: every byte is looked at and copied a fixed number of times, however the stream is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from durable_streams.errors import SSEEncodingError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENT_BYTES: Final = 64 * 1024 * 1024
"""More than this in one event, or in one line, is an error: an event is kept in memory until it is complete."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINES_PER_BLOCK: Final = 4096


class Event(NamedTuple):
    """One event: its type (empty means ``message``) and the data of its lines, joined by LF."""

    kind: bytes
    data: bytes


class EventParser:
    """Takes the bytes of one connection and gives its events."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._begun = False
        self._after_cr = False
        self._rest = bytearray()  # of a line that is not complete yet
        self._kind = b""
        self._lines: list[bytes] = []
        self._blocks: list[bytes] = []  # many short lines, joined: a list of them takes a multiple of their size
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes; give the events that are complete with them.

        Iterate to the end before the next call. Raises `SSEEncodingError` for an event that is too large; the
        events before it have been given by then.
        """
        for line in self._complete_lines(chunk):
            if line:
                self._take(line)
            elif self._lines or self._blocks:
                yield self._dispatch()
            else:
                self._kind = b""
        self._check_size(self._size + len(self._rest))

    def _complete_lines(self, chunk: bytes) -> list[bytes]:
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the second half of a CRLF
        self._after_cr = chunk.endswith(b"\r")
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not end:
            self._rest += chunk
            return []
        if self._rest:
            self._rest += chunk[:end]
            complete = bytes(self._rest)
            self._rest.clear()
        else:
            complete = chunk[:end]
        self._rest += chunk[end:]
        lines = complete.splitlines()  # of bytes: LF, CR and CRLF only
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        return lines

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._add(line[6:] if line.startswith(b"data: ") else line[5:])
            return
        field, _, value = line.partition(b":")
        if field == b"event":
            self._kind = value.removeprefix(b" ")
        elif field == b"data":
            self._add(b"")

    def _add(self, value: bytes) -> None:
        self._size += len(value) + 1
        self._check_size(self._size)
        self._lines.append(value)
        if len(self._lines) >= _LINES_PER_BLOCK:
            self._blocks.append(b"\n".join(self._lines))
            self._lines.clear()

    def _dispatch(self) -> Event:
        event = Event(self._kind, b"\n".join([*self._blocks, *self._lines]))
        self._kind, self._size = b"", 0
        self._lines.clear()
        self._blocks.clear()
        return event

    def _check_size(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise SSEEncodingError(
                f"an event of more than {self._max_event_bytes} bytes: read this stream with live='long-poll'"
            )
