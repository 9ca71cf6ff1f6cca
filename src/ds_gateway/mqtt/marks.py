"""`acks.mark`: how far PUBACKs may have been sent, written before they are.

One record, overwritten in place by one `pwrite` before the PUBACKs of a group of commits. It is not synced: a
kill leaves it in the page cache, and after a power cut the boot id differs and nothing in it is believed.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RECORD: Final = struct.Struct(">4sIQ?36s")
_CRC: Final = struct.Struct(">I")
_MAGIC: Final = b"mrk1"
BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Mark:
    """``commit`` is the highest whose PUBACKs may have been sent in the broker session numbered ``session``.

    ``settled`` is False from a CONNECT until it is known that the broker's session has our subscriptions.
    """

    session: int
    commit: int
    settled: bool


def boot_id() -> str:
    """Name of this boot of the machine; another after every restart of the kernel."""
    return BOOT_ID_FILE.read_text(encoding="ascii").strip()


class MarkFile:
    """The file. Network thread only."""

    def __init__(self, path: Path, boot: str) -> None:
        """Open or create the file. Raises OSError."""
        self._boot = boot.encode("ascii")[:36].ljust(36)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> tuple[Mark, bool] | None:
        """Return the mark and whether it is of this boot; None if there is none, or it is torn."""
        data = os.pread(self._descriptor, _RECORD.size + _CRC.size, 0)
        if len(data) != _RECORD.size + _CRC.size:
            return None
        body = data[: _RECORD.size]
        magic, session, commit, settled, boot = _RECORD.unpack(body)
        if magic != _MAGIC or zlib.crc32(body) != _CRC.unpack(data[_RECORD.size :])[0]:
            return None
        return Mark(session, commit, settled), boot == self._boot

    def write(self, mark: Mark) -> None:
        """Replace the mark. Raises OSError; then the PUBACKs must not be sent."""
        body = _RECORD.pack(_MAGIC, mark.session, mark.commit, mark.settled, self._boot)
        data = body + _CRC.pack(zlib.crc32(body))
        if os.pwrite(self._descriptor, data, 0) != len(data):
            raise OSError("acks.mark was written in part only")

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
