"""Reads a SQLite write-ahead log, also beyond the place where SQLite stops. Pure but for the reading it is given.

SQLite takes a log up to the first frame whose checksum is wrong, without a word: that is how a transaction looks
that a power cut tore, and nobody was told of that one. One wrong bit in an older frame looks the same, and takes
every transaction after it away, though they were synced and told. The two can be told apart: a frame's checksum
goes on from the one that is written in the frame before, so that each frame can be checked with its predecessor
alone, and whole transactions behind a bad frame are no torn end.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_MAGICS: Final = {0x377F0682: "<", 0x377F0683: ">"}
_SUMMED_BYTES: Final = 24
"""The part of the header that its checksum is of."""
_SUMMED_FRAME_BYTES: Final = 8
_MASK: Final = 0xFFFFFFFF


@dataclass(slots=True)
class Wal:
    """What a log says."""

    page_bytes: int | None = None
    """None: its header is damaged."""
    frames: dict[int, int] = field(default_factory=dict)
    """For each page where its newest committed content begins in the file."""
    page_count: int | None = None
    """Pages of the database after the last transaction; None where nothing says so."""
    is_broken: bool = False
    """Whether whole transactions lie behind a frame that SQLite does not get beyond."""


def read_wal(read: Callable[[int, int], bytes | None], size: int, page_bytes: int) -> Wal:
    """Read a log of ``size`` bytes. ``read`` takes an offset and a length; None for what cannot be read.

    ``page_bytes`` counts where the log's own header is damaged.
    """
    header = read(0, _HEADER.size) if size >= _HEADER.size else None
    wal = Wal()
    order = {"little": "<", "big": ">"}[sys.byteorder]
    salts: tuple[int, int] | None = None
    last: tuple[int, int] | None = None
    if header is not None:
        magic, _version, said_bytes, _sequence, *rest = _HEADER.unpack(header)
        stored = (rest[2], rest[3])
        order = _MAGICS.get(magic, order)
        if magic in _MAGICS and _checksum(header[:_SUMMED_BYTES], (0, 0), order) == stored:
            wal.page_bytes = page_bytes = 65536 if said_bytes == 1 else said_bytes
            salts, last = (rest[0], rest[1]), stored
    frame_bytes = _FRAME.size + page_bytes
    chain_holds = salts is not None
    is_behind_bad_frame = False
    pending: dict[int, int] = {}
    for start in range(_HEADER.size, size - frame_bytes + 1, frame_bytes):
        frame = read(start, frame_bytes)
        if frame is None:
            chain_holds, last = False, None
            continue
        page, page_count, salt1, salt2, *stored_list = _FRAME.unpack_from(frame)
        if salts is None:
            salts = (salt1, salt2)
        if (salt1, salt2) != salts:
            # Left over from before the log was begun anew, or a bad frame: then more of this log comes.
            chain_holds, last = False, None
            continue
        summed = frame[:_SUMMED_FRAME_BYTES] + frame[_FRAME.size :]
        is_good = last is not None and _checksum(summed, last, order) == (stored_list[0], stored_list[1])
        last = (stored_list[0], stored_list[1])
        chain_holds = chain_holds and is_good
        pending[page] = start + _FRAME.size
        if not page_count:
            continue
        if not chain_holds:
            if not (is_behind_bad_frame and is_good):
                # This can be the torn one, which counts only if another follows that was begun when it was whole.
                is_behind_bad_frame = True
                continue
            wal.is_broken = True
        wal.frames.update(pending)
        pending.clear()
        wal.page_count = page_count
    return wal


def _checksum(data: bytes, seed: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & _MASK
        second = (second + two + first) & _MASK
    return first, second
