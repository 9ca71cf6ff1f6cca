"""What stands between the delimiters of SLIP and COBS, taken out of its encoding."""

from __future__ import annotations

import re
from typing import Final

SLIP_END: Final = b"\xc0"
COBS_END: Final = b"\x00"

_COBS_LONGEST: Final = 0xFF
_SLIP_ESCAPED: Final = re.compile(rb"\xdb(.?)", re.DOTALL)
_SLIP_BYTES: Final = {b"\xdc": b"\xc0", b"\xdd": b"\xdb"}


def decode_slip(frame: bytes) -> bytes | None:
    """RFC 1055; None where an escape is followed by what may not follow it."""
    try:
        return _SLIP_ESCAPED.sub(lambda match: _SLIP_BYTES[match[1]], frame)
    except KeyError:
        return None


def decode_cobs(frame: bytes) -> bytes | None:
    """Cheshire and Baker, without the zero at the end; None where a block has a zero in it, or ends too early."""
    if b"\0" in frame:
        return None
    blocks: list[bytes] = []
    place = 0
    while place < len(frame):
        code = frame[place]
        block = frame[place + 1 : place + code]
        if len(block) != code - 1:
            return None
        place += code
        # A block stands for a zero behind it, unless it is as long as can be, or the last.
        blocks += (block, b"\0") if code < _COBS_LONGEST and place < len(frame) else (block,)
    return b"".join(blocks)
