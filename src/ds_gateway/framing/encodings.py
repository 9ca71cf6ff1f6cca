"""What stands between the delimiters of SLIP and COBS, taken out of its encoding."""

from __future__ import annotations

import re
from typing import Final

from cobs import cobs

SLIP_END: Final = b"\xc0"
COBS_END: Final = b"\x00"

_SLIP_ESCAPED: Final = re.compile(rb"\xdb(.?)", re.DOTALL)
_SLIP_BYTES: Final = {b"\xdc": b"\xc0", b"\xdd": b"\xdb"}


def decode_slip(frame: bytes) -> bytes | None:
    """RFC 1055; None where an escape is followed by what may not follow it."""
    try:
        return _SLIP_ESCAPED.sub(lambda match: _SLIP_BYTES[match[1]], frame)
    except KeyError:
        return None


def decode_cobs(frame: bytes) -> bytes | None:
    """Cheshire and Baker, without the zero at the end; None where a block is not as long as it says."""
    try:
        decoded: bytes = cobs.decode(frame)
    except cobs.DecodeError:
        return None
    return decoded
