"""Batches that can be told apart in a stream, and what became of them: lost, stored twice, unreadable.

A writer numbers its batches 0, 1, 2 ... and sends each until it is acknowledged. A batch is stored in pieces: a
JSON stream has two messages of it, so that half a batch shows, and a stream of bytes one frame with a checksum, so
that a torn one does. Nothing here does I/O.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

JSON = "application/json"
BYTES = "application/octet-stream"

_HEAD = struct.Struct(">4sIII")  # mark, batch, size of the padding, its checksum
_MARK = b"\xffBAT"


@dataclass(frozen=True)
class Found:
    """The batches in a stream, in their order, and what kept the rest from being read (empty: all was read)."""

    batches: Sequence[int]
    damage: str = ""


@dataclass
class Verdict:
    """What became of acknowledged batches; each is counted for one thing only."""

    acknowledged: int = 0
    lost: int = 0
    """Not there, although the stream can be read beyond their place, or to its end."""
    unreadable: int = 0
    """Behind the place from which the stream cannot be read."""
    stored_twice: int = 0
    out_of_order: int = 0
    foreign: int = 0
    """In the stream, and never sent."""
    damages: list[str] = field(default_factory=list[str])

    @property
    def fine(self) -> bool:
        """Whether every acknowledged batch is there, once, in order and readable."""
        return not (
            self.lost or self.unreadable or self.stored_twice or self.out_of_order or self.foreign or self.damages
        )

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.acknowledged + other.acknowledged,
            self.lost + other.lost,
            self.unreadable + other.unreadable,
            self.stored_twice + other.stored_twice,
            self.out_of_order + other.out_of_order,
            self.foreign + other.foreign,
            self.damages + other.damages,
        )


def judge(acknowledged: int, sent: int, found: Found) -> Verdict:
    """Judge a stream of which the first ``acknowledged`` of ``sent`` batches were confirmed.

    A batch that was sent and not acknowledged may be there or not.
    """
    count = Counter(found.batches)
    first_time = list(dict.fromkeys(batch for batch in found.batches if batch < sent))
    missing = [batch for batch in range(acknowledged) if batch not in count]
    reached = max(first_time, default=-1)
    unreadable = [batch for batch in missing if found.damage and batch > reached]
    return Verdict(
        acknowledged,
        lost=len(missing) - len(unreadable),
        unreadable=len(unreadable),
        stored_twice=sum(times - 1 for batch, times in count.items() if batch < sent),
        out_of_order=sum(after < before for before, after in pairwise(first_time)),
        foreign=sum(batch >= sent for batch in found.batches),
        damages=[found.damage] if found.damage else [],
    )


def encode(content_type: str, batch: int, size: int) -> bytes:
    """A batch as the body of a POST, of about ``size`` bytes."""
    if content_type == JSON:
        return orjson.dumps([{"batch": batch, "pad": "x" * size}, {"batch": batch, "end": True}])
    pad = bytes([batch % 251]) * size
    return _HEAD.pack(_MARK, batch, size, zlib.crc32(pad)) + pad


def decode(content_type: str, pages: Sequence[bytes]) -> Found:
    """The batches in the pages of a stream, up to the first thing that is none."""
    return _decode_json(pages) if content_type == JSON else _decode_bytes(b"".join(pages))


def _decode_json(pages: Sequence[bytes]) -> Found:
    batches: list[int] = []
    begun: int | None = None
    for page in pages:
        try:
            values = orjson.loads(page)
        except orjson.JSONDecodeError as error:
            return Found(batches, f"not JSON: {error}")
        for value in values:
            batch = value["batch"]
            if begun not in {None, batch} or (begun is None) == ("end" in value):
                return Found(batches, f"half a batch before or at {batch}")
            begun = batch if begun is None else None
            if begun is None:
                batches.append(batch)
    return Found(batches, "" if begun is None else f"half a batch: {begun}")


def _decode_bytes(data: bytes) -> Found:
    batches: list[int] = []
    at = 0
    while at < len(data):
        pad_at = at + _HEAD.size
        if pad_at > len(data):
            return Found(batches, f"the head of a frame is torn at byte {at}")
        mark, batch, size, checksum = _HEAD.unpack_from(data, at)
        if mark != _MARK:
            return Found(batches, f"no frame at byte {at}")
        if zlib.crc32(data[pad_at : pad_at + size]) != checksum or pad_at + size > len(data):
            return Found(batches, f"frame {batch} is torn at byte {at}")
        batches.append(batch)
        at = pad_at + size
    return Found(batches)
