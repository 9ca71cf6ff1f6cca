"""What ``append`` takes: arguments, or a file in pieces, so that its size does not matter.

A stream of JSON gets one message a line. A stream of text gets whole lines with their ends, so that the lines of
several writers never mix. Any other stream gets the bytes as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from durable_streams._wire import is_json, media_type
from durable_streams.cli.ending import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK_BYTES: Final = 64 * 1024
_FRAME_BYTES: Final = 16
"""Brackets and commas around a message in a batch, generously."""


def messages_in(file: BinaryIO, content_type: str, max_batch_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Return the messages of a file, each with where it is and small enough for a batch of this size."""
    if is_json(content_type):
        return _json_lines(file, max_batch_bytes)
    if media_type(content_type).startswith("text/"):
        return _text_lines(file, max_batch_bytes - _FRAME_BYTES)
    return _blocks(file, min(max_batch_bytes - _FRAME_BYTES, _BLOCK_BYTES))


def _json_lines(file: BinaryIO, max_batch_bytes: int) -> Iterator[tuple[str, bytes]]:
    number, limit = 0, max_batch_bytes - _FRAME_BYTES
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise InputError(f"line {number} is longer than --max-batch-bytes {max_batch_bytes} allows: give more")
        if not line.isspace():
            yield f"line {number}", line


def _text_lines(file: BinaryIO, size: int) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := file.readline(size):
        number += line.endswith(b"\n")
        yield f"line {number}", line


def _blocks(file: BinaryIO, size: int) -> Iterator[tuple[str, bytes]]:
    position = 0
    # `read1` returns what a pipe has, instead of waiting until the block is full.
    read = getattr(file, "read1", file.read)
    while block := read(size):
        yield f"byte {position}", block
        position += len(block)
