"""Small files that a configuration names: certificates, secrets. Whatever stands there, opening it never waits.

A pipe that nobody writes to would hold its reader for ever, which may be the event loop and then the watchdog.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


def open_plain(path: str | Path) -> BinaryIO:
    """Open a file to read it. Raises OSError, for what is no file, too; ValueError for a NUL in its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no file, but a pipe or a device", str(path))
