"""Where frames begin and end, for `ds_gateway.framing.candidates`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

DSMR_CHECK_BYTES: Final = 4
"""Hex digits behind the exclamation mark."""


@dataclass(frozen=True, slots=True)
class LengthField:
    """A number in a frame that says how long it is."""

    offset: int
    """Bytes in front of it, from the beginning of the frame."""
    size: int
    order: Literal["little", "big"]
    adds: int
    """What the number does not count of the frame."""

    @property
    def end(self) -> int:
        """Where it ends in the frame."""
        return self.offset + self.size

    def frame_end(self, buffer: bytearray, begin: int) -> int | None:
        """Where the frame at ``begin`` ends; None while the field is not there."""
        at = begin + self.offset
        if len(buffer) < at + self.size:
            return None
        end = begin + int.from_bytes(buffer[at : at + self.size], self.order) + self.adds
        return end if end >= at + self.size else begin


class FixedLayout:
    """All frames have the same length."""

    fillers = b""
    is_marked = False

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes

    def begin(self, buffer: bytearray, start: int) -> int:
        """A frame may begin anywhere."""
        return min(start, len(buffer))

    def end(self, _buffer: bytearray, begin: int, _scanned: int) -> int | None:
        """See `Layout.end`."""
        return begin + self._frame_bytes


class LengthLayout:
    """A frame says near its beginning how long it is."""

    fillers = b""
    is_marked = False

    def __init__(self, length: LengthField) -> None:
        self._length = length

    def begin(self, buffer: bytearray, start: int) -> int:
        """A frame may begin anywhere."""
        return min(start, len(buffer))

    def end(self, buffer: bytearray, begin: int, _scanned: int) -> int | None:
        """See `Layout.end`."""
        return self._length.frame_end(buffer, begin)


class SyncLayout:
    """A frame begins with a word, and has a length in it or always the same one."""

    fillers = b""
    is_marked = True

    def __init__(self, word: bytes, length: LengthField | int) -> None:
        self._word = word
        self._length = length
        # A word that is not complete yet, at the end of the buffer.
        self._beginnings = [word[:size] for size in range(len(word) - 1, 0, -1)]

    def begin(self, buffer: bytearray, start: int) -> int:
        """The next word, or what may become one."""
        found = buffer.find(self._word, start)
        if found >= 0:
            return found
        tail = buffer[max(start, len(buffer) - len(self._word) + 1) :]
        size = next((len(part) for part in self._beginnings if tail.endswith(part)), 0)
        return len(buffer) - size

    def end(self, buffer: bytearray, begin: int, _scanned: int) -> int | None:
        """See `Layout.end`."""
        if isinstance(self._length, int):
            return begin + self._length
        if len(buffer) - begin < len(self._word):
            return None
        return self._length.frame_end(buffer, begin)


class NmeaLayout:
    """A sentence: ``$`` or ``!``, text, ``*`` and two hex digits. Line ends stand between sentences."""

    fillers = b"\r\n"
    is_marked = True
    _BEGIN: ClassVar = re.compile(rb"[$!]")
    _END: ClassVar = re.compile(rb"[*$!\r\n]")
    _CHECK_BYTES: Final = 3

    def begin(self, buffer: bytearray, start: int) -> int:
        """The next ``$`` or ``!``."""
        found = self._BEGIN.search(buffer, start)
        return found.start() if found else len(buffer)

    def end(self, buffer: bytearray, begin: int, scanned: int) -> int | None:
        """Behind the two hex digits; before a line end or a beginning, if they are missing."""
        found = self._END.search(buffer, max(begin + 1, scanned))
        if found is None:
            return None
        return found.start() + (self._CHECK_BYTES if found[0] == b"*" else 0)


class DsmrLayout:
    """A telegram: ``/``, the meter's name, lines, ``!`` and where ``check_bytes`` says so a check behind it."""

    fillers = b"\r\n"
    is_marked = True
    # Three letters and what tells the speed; with the end of the buffer in place of any of them.
    _BEGIN: ClassVar = re.compile(rb"/(?:[A-Za-z]{3}[0-9A-Za-z]|[A-Za-z]{0,3}\Z)")

    def __init__(self, check_bytes: int) -> None:
        self._check_bytes = check_bytes

    def begin(self, buffer: bytearray, start: int) -> int:
        """The next ``/`` with a name, or what may become one."""
        found = self._BEGIN.search(buffer, start)
        return found.start() if found else len(buffer)

    def end(self, buffer: bytearray, begin: int, scanned: int) -> int | None:
        """Behind the check."""
        found = buffer.find(b"!", max(begin, scanned))
        return None if found < 0 else found + 1 + self._check_bytes
