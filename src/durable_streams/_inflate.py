"""Inflates a body, gzip or deflate, in pieces of bounded size.

A few kilobytes may inflate to many megabytes; who inflates a chunk at once has them all in memory. Here one piece
at a time is inflated, and what the sender flushed is given out at once, as an event stream needs it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES: Final = 64 * 1024

_GZIP: Final = 16 + zlib.MAX_WBITS


class Decompressor(Protocol):
    """What `zlib.decompressobj` makes; its own type has no public name."""

    @property
    def unconsumed_tail(self) -> bytes:
        """Input that waits for the next call."""
        ...  # pragma: no cover

    @property
    def eof(self) -> bool:
        """Whether the data has come to its end."""
        ...  # pragma: no cover

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return the next output."""
        ...  # pragma: no cover


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
            yield from _pieces(self._member, data, self._piece_bytes, coding="gzip")
            self._between = self._member.eof
            data = self._member.unused_data

    def finish(self) -> None:
        """Say that the body is over. Raises `BrokenBodyError` if there should have been more of it."""
        if self._begun and not self._between:
            raise BrokenBodyError("the gzip data ends too early")


class DeflateInflater:
    """Takes the bytes of one body in the coding ``deflate`` and gives its content.

    That is zlib's format (RFC 9110, 8.4.1.2). Some servers send what is inside of it, without its head; the first
    two bytes tell.
    """

    def __init__(self, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        self._head = b""
        self._body: Decompressor | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; give what they inflate to. Iterate to the end before the next call.

        Raises `BrokenBodyError` for what is not deflate.
        """
        if self._body is None:
            self._head = data = self._head + data
            if len(data) < 2:
                return
            self._body = zlib.decompressobj(zlib.MAX_WBITS if _is_zlib(data) else -zlib.MAX_WBITS)
        if not self._body.eof:
            yield from _pieces(self._body, data, self._piece_bytes, coding="deflate")

    def finish(self) -> None:
        """Say that the body is over. Raises `BrokenBodyError` if there should have been more of it."""
        if self._head and (self._body is None or not self._body.eof):
            raise BrokenBodyError("the deflate data ends too early")


class NoInflater:
    """Takes the bytes of a body in a coding that nothing here can undo: they are not the content."""

    def __init__(self, coding: str) -> None:
        self._coding = coding

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raise `BrokenBodyError`, if there is anything to be undone."""
        if data:
            raise BrokenBodyError(f"the body is in a coding that cannot be undone here: {self._coding}")
        return iter(())

    def finish(self) -> None:
        """Nothing came, and nothing is what it says."""


def _is_zlib(data: bytes) -> bool:
    """Whether this is how zlib's format begins: method 8, and a checksum (RFC 1950, 2.2)."""
    return data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0


def _pieces(member: Decompressor, data: bytes, piece_bytes: int, *, coding: str) -> Iterator[bytes]:
    while True:
        try:
            piece = member.decompress(data, piece_bytes)
        except zlib.error as error:
            raise BrokenBodyError(f"the body is not {coding} as its head says: {error}") from error
        data = member.unconsumed_tail
        if piece:
            yield piece
        # A full piece may have more behind it, even when all input is consumed.
        if member.eof or (len(piece) < piece_bytes and not data):
            return


Inflater = GzipInflater | DeflateInflater | NoInflater
