"""Gives a journal to another gateway id, as an operator decided. No gateway may have it open."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ds_gateway.errors import JournalError
from ds_gateway.journal import rows
from ds_gateway.journal.access import explain, user_name
from ds_gateway.journal.disk import DirectoryLock, Disk
from ds_gateway.journal.names import read_names, write_names
from ds_gateway.journal.reading import read_books
from ds_gateway.journal.state import check_meta

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Adoption:
    """Whose journal it was, and whose it is to be."""

    old: str
    new: str


def adopt(directory: Path, gateway: str, *, write: bool) -> Adoption:
    """Let the journal belong to this gateway id; without ``write`` only tell whose it is.

    Raises `JournalError`: there is none, it is in use, damaged, of a newer program, or another user's.
    """
    old = read_books(directory).identity.gateway
    if not write or old == gateway:
        return Adoption(old, gateway)
    _check_user(directory)
    lock = DirectoryLock(directory / "lock")
    try:
        lock.acquire()
    except OSError as error:
        raise JournalError(f"the journal's directory: {explain(directory, error)}") from error
    try:
        disk = Disk(directory)
        try:
            meta = rows.decode_json(rows.META, disk.read(rows.META) or b"")
            identity = check_meta(meta, old)
            # What brokers know us by stays: they hold messages for that client.
            first = str(meta.get("first_gateway") or old)
            fresh = {**meta, "gateway": gateway, "first_gateway": first}
            if fresh["first_gateway"] == gateway:
                del fresh["first_gateway"]
            with disk.transaction():
                disk.write(rows.META, rows.encode_json(rows.META, fresh))
        finally:
            disk.close()
        names = read_names(directory)
        if names.install == identity.install:
            # Without it a damaged journal would be told to be another gateway's.
            with suppress(OSError):
                write_names(directory, replace(names, gateway=gateway))
    finally:
        lock.release()
    return Adoption(old, gateway)


def _check_user(directory: Path) -> None:
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        name = user_name(owner)
        raise JournalError(f"{directory} belongs to user {name}: run this as that user (sudo -u {name} ...)")
