"""systemd's journal, in its own protocol: one datagram an entry, with fields that ``journalctl`` can ask for.

    a value of one line    NAME=value, line end
    any other              NAME, line end, the length in 8 bytes (little-endian), value, line end

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import os
import re
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET: Final = "/run/systemd/journal/socket"
_MAX_NAME_CHARACTERS: Final = 64
_length = struct.Struct("<Q").pack


def is_connected(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether what is written to this descriptor goes to the journal: ``$JOURNAL_STREAM`` names its socket."""
    device, separator, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return bool(separator) and (device, inode) == (str(status.st_dev), str(status.st_ino))


def encode(fields: Mapping[str, str]) -> bytes:
    """One entry. Names are made such as the journal takes: capitals, digits, and ``_`` not in front."""
    parts: list[bytes] = []
    for name, text in fields.items():
        key = re.sub(r"[^A-Z0-9_]", "_", name.upper()).lstrip("_0123456789")[:_MAX_NAME_CHARACTERS]
        if not key:
            continue
        value = text.encode(errors="replace")
        if b"\n" in value:
            parts.append(b"%b\n%b%b\n" % (key.encode(), _length(len(value)), value))
        else:
            parts.append(b"%b=%b\n" % (key.encode(), value))
    return b"".join(parts)


class Journald:
    """The way to the journal. Raises OSError where there is none, or for an entry that it does not take."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # A journal that hangs must not hold the gateway's threads: the entry goes to standard error then.
        self._socket.setblocking(False)

    def send(self, fields: Mapping[str, str]) -> None:
        """Write one entry. Any thread; never waits."""
        self._socket.sendto(encode(fields), self._path)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
