"""What ``read`` and ``tail`` print: JSON messages, bytes, or the server's responses one by one."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import orjson

from durable_streams._wire import is_json, media_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams import StreamEvent, StreamResponse


class Form(StrEnum):
    """How a stream is printed."""

    JSON = "json"
    RAW = "raw"
    EVENTS = "events"


def form_for(content_type: str | None) -> Form:
    """Return the form that suits a content type."""
    return Form.JSON if is_json(content_type) else Form.RAW


def printed(response: StreamResponse, form: Form, content_type: str | None) -> Iterator[bytes]:
    """Return what is printed of a response, piece by piece; JSON messages and events are lines."""
    match form:
        case Form.JSON:
            return map(_line, response.iter_json())
        case Form.RAW:
            return response.iter_bytes()
        case Form.EVENTS:
            mode = _mode(content_type)
            return (_line(_event(event, mode)) for event in response.iter_events(mode))


class Output:
    """Standard output. `settle` returns when everything written is out of this process."""

    def __init__(self, *, live: bool) -> None:
        self._file: BinaryIO = sys.stdout.buffer
        self._live = live

    def write(self, piece: bytes, form: Form) -> None:
        """Write a piece; bytes of a live stream are passed on at once, because no line end tells when to."""
        self._file.write(piece)
        if self._live and form is Form.RAW:
            self._file.flush()

    def flush(self) -> None:
        """Hand everything to whoever reads."""
        self._file.flush()

    def settle(self) -> None:
        """Hand everything on, and have it on the disk if the output is a file."""
        self._file.flush()
        number = self._file.fileno()
        if stat.S_ISREG(os.fstat(number).st_mode):
            os.fsync(number)


def _line(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # half of a surrogate pair, deep nesting: rare, and JSON all the same
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _event(event: StreamEvent[Any], mode: str) -> dict[str, Any]:
    is_binary = mode == "bytes"
    data = base64.b64encode(event.data).decode("ascii") if is_binary else event.data
    return {
        "offset": event.next_offset,
        "up_to_date": event.up_to_date,
        "cursor": event.cursor,
        "base64" if is_binary else "data": data,
    }


def _mode(content_type: str | None) -> Literal["bytes", "text", "json"]:
    if is_json(content_type):
        return "json"
    return "text" if media_type(content_type).startswith("text/") else "bytes"
