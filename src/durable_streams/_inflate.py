"""Inflates a gzip body in pieces of bounded size.

A few kilobytes may inflate to many megabytes; who inflates a chunk at once has them all in memory. Here one piece
at a time is inflated, and what the sender flushed is given out at once, as an event stream needs it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES: Final = 64 * 1024

_GZIP: Final = 16 + zlib.MAX_WBITS


class BrokenBodyError(Exception):
    """A body that ends too early or is not what its head says: no better than a broken connection."""


class GzipInflater:
    """Takes the bytes of one gzip body, which may have several members, and gives its content."""

    def __init__(self, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False
        self._between = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; give what they inflate to. Iterate to the end before the next call.

        Raises `BrokenBodyError` for what is not gzip.
        """
        while data:
            if self._between:
                data = data.lstrip(b"\0")  # padding behind a member
                if not data:
                    return
                self._member, self._between = zlib.decompressobj(_GZIP), False
            self._begun = True
            yield from self._inflate(data)
            self._between = self._member.eof
            data = self._member.unused_data

    def finish(self) -> None:
        """Say that the body is over. Raises `BrokenBodyError` if there should have been more of it."""
        if self._begun and not self._between:
            raise BrokenBodyError("the gzip data ends too early")

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = self._member.decompress(data, self._piece_bytes)
            except zlib.error as error:
                raise BrokenBodyError(f"the body is not gzip as its head says: {error}") from error
            data = self._member.unconsumed_tail
            if piece:
                yield piece
            # A full piece may have more behind it, even when all input is consumed.
            if self._member.eof or (len(piece) < self._piece_bytes and not data):
                return
