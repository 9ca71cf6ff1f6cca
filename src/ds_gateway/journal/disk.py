"""The rows on disk: diskcache, tamed for durability. The only importer of diskcache.

What is set, and why (each was measured): no eviction and no culling; ``synchronous=FULL``, one fdatasync for each
commit; no side files, because they are never synced; bytes only, because a pickled row runs code when it is read;
no memory map and a small page cache, because the process's memory is bounded. One connection writes.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import diskcache

from ds_gateway.errors import JournalDamagedError, JournalError, JournalLockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BALLAST_BYTES: Final = 1024 * 1024
"""Given up when the disk is full, so that draining can go on."""


class DiskFullError(JournalError):
    """The file system has no room for the transaction; it was rolled back whole."""


class BytesOnlyDisk(diskcache.Disk):  # type: ignore[misc]
    """Text keys and byte values in the table itself; refuses everything else instead of pickling it."""

    def put(self, key: object) -> tuple[str, bool]:
        """Return the key as SQLite stores it."""
        if not isinstance(key, str):
            raise TypeError(f"a journal key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """Return the key as it was put."""
        if not isinstance(key, str) or not raw:
            raise JournalDamagedError(f"the journal has a key that it never wrote: {key!r}")
        return key

    def store(self, value: object, read: object, key: object = diskcache.UNKNOWN) -> tuple[int, int, None, object]:
        """Return the row's columns."""
        if not isinstance(value, bytes) or read:
            raise TypeError(f"journal row {key} is bytes, not {type(value).__name__}")
        return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: object) -> bytes:
        """Return the row's bytes."""
        if mode != diskcache.core.MODE_RAW or filename is not None or read or not isinstance(value, bytes):
            raise JournalDamagedError(
                "the journal has a row that it never wrote; nothing was run or loaded from it"
            )
        return bytes(value)


class DirectoryLock:
    """An exclusive lock on the data directory, held as long as the process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock, or raise `JournalLockedError` naming the holder."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise JournalLockedError(
                f"another gateway (process {holder}) uses {self._path.parent}; stop it first, or give this one "
                "a data_dir of its own"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Disk:
    """Rows by key, in transactions. Used by one thread at a time; the writer's, once it runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"
        try:
            self._cache = self._connect()
        except DiskFullError:
            # This is what the ballast is for: a journal that cannot be opened cannot be drained either.
            self.drop_ballast()
            self._cache = self._connect()

    def _connect(self) -> Any:
        with self._translated():
            return diskcache.Cache(
                str(self.directory / "journal"),
                timeout=10,
                disk=BytesOnlyDisk,
                eviction_policy="none",
                cull_limit=0,
                size_limit=2**62,
                statistics=0,
                tag_index=0,
                disk_min_file_size=2**31 - 1,
                sqlite_synchronous=2,
                sqlite_journal_mode="wal",
                sqlite_mmap_size=0,
                sqlite_cache_size=-2048,
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite and diskcache raise into errors that an operator can read."""
        try:
            yield
        except (sqlite3.OperationalError, diskcache.Timeout) as error:
            # Where SQLite needs room for its shared memory, a full disk shows as "disk I/O error".
            if "full" in str(error) or ("disk I/O error" in str(error) and self.free_bytes() < BALLAST_BYTES):
                raise DiskFullError(f"no room for the journal in {self.directory}: {error}") from error
            raise JournalError(f"the journal in {self.directory} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise JournalDamagedError(
                f"the journal in {self.directory} is damaged: {error}; restore the directory from a copy, or "
                "move it away to begin a new journal"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, durably, or nothing of it.

        Raises `DiskFullError` when there is no room, and leaves a usable connection behind.
        """
        try:
            with self._translated(), self._cache.transact():
                yield
        except JournalError:
            # A failed COMMIT leaves the transaction open; closing the connection rolls it back for certain.
            self._cache.close()
            raise

    def read(self, key: str) -> bytes | None:
        """The row, or None."""
        with self._translated():
            row = self._cache.get(key)
        assert row is None or isinstance(row, bytes)
        return row

    def write(self, key: str, row: bytes) -> None:
        """Write a row; inside a transaction."""
        self._cache.set(key, row)

    def delete(self, key: str) -> None:
        """Delete a row if it is there; inside a transaction."""
        self._cache.delete(key)

    def keys_before(self, bound: str) -> Iterator[str]:
        """All keys that sort before the bound, in order."""
        with self._translated():
            for key in self._cache.iterkeys():
                if key >= bound:
                    return
                yield key

    def free_bytes(self) -> int:
        """Room on the file system for this user."""
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_frsize

    def load_ballast(self) -> None:
        """Reserve the ballast if it is missing; without room for it, go on without."""
        if self._ballast.exists():
            return
        try:
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        except OSError:
            self._ballast.unlink(missing_ok=True)

    def drop_ballast(self) -> None:
        """Give the ballast's room to the journal."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection of this thread."""
        self._cache.close()
