"""Why a file of the journal cannot be used by this process, and the way out: in words for an operator."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shlex
from pathlib import Path


def user_name(number: int) -> str:
    """A user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def explain(path: Path, error: OSError) -> str:
    """What an error of the file system means for whoever runs the gateway. ``path`` is the data directory."""
    where = error.filename if isinstance(error.filename, str) else str(path)
    reason = error.strerror or str(error)
    if error.errno == errno.EROFS:
        return (
            f"{where} cannot be written: its file system is read-only; remount it writable (mount -o remount,rw), "
            "and look with dmesg whether the kernel made it read-only after errors of the disk"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        user = user_name(os.geteuid())
        owner = "somebody else"
        with contextlib.suppress(OSError):
            owner = user_name(Path(where).stat().st_uid)
        return (
            f"{where} cannot be used: {reason}; it belongs to user {owner}, and the gateway runs as {user}: "
            f"`chown -R {user} {shlex.quote(str(path))}` gives it the directory, or set data_dir"
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{where} cannot be written: {reason}; make room on the file system of {path}"
    if error.errno == errno.EIO:
        return (
            f"{where} cannot be read or written: {reason}; the disk fails: see dmesg, copy {path} to a good disk "
            "and set data_dir to it"
        )
    return f"{where} cannot be used: {reason}; give {path} to the user that the gateway runs as, or set data_dir"


def refusal(directory: Path, files: list[Path]) -> str | None:
    """Why SQLite may not write these files: tried again without it, because it keeps the reason for itself.

    None: it may. Then it is something in the file that forbids it.
    """
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            return explain(directory, error)
        os.close(descriptor)
    folder = files[0].parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return explain(directory, PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder)))
    return None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was created, renamed or removed there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
