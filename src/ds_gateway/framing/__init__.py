"""From bytes to frames, without I/O: bounded in memory, linear in time, found again after garbage.

A framing is one class that satisfies `Framer`; `build_framer` is the only place that knows which there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ds_gateway.framing.line import LineFramer

if TYPE_CHECKING:
    from ds_gateway.config.framing import FramingSettings

__all__ = ["Framer", "LineFramer", "build_framer"]


class Framer(Protocol):
    """Cuts the bytes of one link into frames. How the bytes were chunked never changes the frames."""

    @property
    def overlong(self) -> int:
        """Frames discarded so far because they were longer than allowed."""
        ...  # pragma: no cover

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        ...  # pragma: no cover

    @property
    def begun_bytes(self) -> int:
        """Bytes that the next frame begins with, if it is not discarded; 0 where none has begun."""
        ...  # pragma: no cover

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that they complete, oldest first."""
        ...  # pragma: no cover

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame: the link was opened again.

        With ``discard_to_boundary`` what comes next may be the tail of a frame whose head was never read: it
        is discarded to the first boundary, and not counted as over-long.
        """
        ...  # pragma: no cover


def build_framer(settings: FramingSettings) -> Framer:
    """The framer that the settings describe, at the start of a stream of bytes."""
    return LineFramer(_delimiter_bytes(settings.line.delimiter), settings.line.max_bytes)


def _delimiter_bytes(text: str) -> bytes:
    """A delimiter is written as text but compared with bytes: up to U+00FF a character is that byte."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
