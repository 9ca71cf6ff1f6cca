"""Whether a frame arrived as it was sent, by the check that it carries."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ds_gateway.config.crc_catalogue import crc_model

if TYPE_CHECKING:
    from ds_gateway.config.framing import CheckSettings

Judge = Callable[[bytes], bytes | None]
"""What a frame carries, without its check; None if the frame is damaged."""

_NMEA: Final = re.compile(rb"([$!]([^*]*))\*([0-9A-Fa-f]{2})\r?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Check:
    """A number at one end of a frame, computed from the rest of it. Call it to judge a frame."""

    compute: Callable[[bytes], int]
    size: int
    """Bytes of the number."""
    order: Literal["little", "big"]
    is_hex: bool = False
    """Whether it is written in hex digits, two for each byte."""
    is_first: bool = False
    """Whether it stands at the beginning of the frame."""
    skip: int = 0
    """Bytes of the frame, without the check, that it does not cover."""

    def __call__(self, frame: bytes) -> bytes | None:
        """The frame without its check; None if it is damaged, or nothing but a check."""
        width = self.size * (2 if self.is_hex else 1)
        if len(frame) <= width + self.skip:
            return None
        payload, there = (frame[width:], frame[:width]) if self.is_first else (frame[:-width], frame[-width:])
        if self.is_hex:
            try:
                there = binascii.unhexlify(there)
            except binascii.Error:
                return None
        return payload if self.compute(payload[self.skip :]) == int.from_bytes(there, self.order) else None


_DSMR: Final = Check(crc_model("CRC-16/ARC").compute, 2, "big", is_hex=True)


def judge_nmea(frame: bytes) -> bytes | None:
    """``$...`` or ``!...`` without the star and the two digits behind it; None if it is damaged."""
    match = _NMEA.fullmatch(frame)
    return match[1] if match is not None and xor_of(match[2]) == int(match[3], 16) else None


def judge_dsmr(telegram: bytes) -> bytes | None:
    """``/...!hhhh`` from the slash to the last line end; None if it is damaged."""
    payload = _DSMR(telegram)
    return None if payload is None else judge_old_dsmr(payload)


def judge_old_dsmr(telegram: bytes) -> bytes:
    """``/...!`` without the exclamation mark: DSMR 2 and 3 have nothing behind it."""
    return telegram[:-1]


def xor_of(data: bytes) -> int:
    """All bytes, exclusive-or."""
    # Whole halves at a time: much faster than byte by byte.
    value, size = int.from_bytes(data, "little"), len(data)
    while size > 1:
        size = (size + 1) // 2
        bits = 8 * size
        value = (value >> bits) ^ (value & ((1 << bits) - 1))
    return value


def sum_of(size: int, complement: Literal["none", "ones", "twos"]) -> Callable[[bytes], int]:
    """The sum of all bytes, in ``size`` bytes."""
    mask = (1 << 8 * size) - 1
    if complement == "ones":
        return lambda data: ~sum(data) & mask
    if complement == "twos":
        return lambda data: -sum(data) & mask
    return lambda data: sum(data) & mask


def build_judge(settings: CheckSettings) -> Judge:
    """The check that the settings describe."""
    if settings.nmea is not None:
        return judge_nmea
    order: Literal["little", "big"] = "big"
    if settings.crc is not None:
        crc = crc_model(settings.crc)
        compute, size = crc.compute, crc.size
        order = "little" if crc.is_reflected else "big"
    elif settings.sum is not None:
        size = settings.sum.bytes
        compute = sum_of(size, settings.sum.complement)
    else:
        compute, size = xor_of, 1
    return Check(
        compute,
        size,
        settings.order or order,
        is_hex=settings.written == "hex",
        is_first=settings.place == "start",
        skip=settings.skip,
    )


def proves(judge: Judge | None) -> bool:
    """Whether a frame that passes is taken for one wherever it stands: 16 bits or more."""
    return isinstance(judge, Check) and judge.size >= 2
