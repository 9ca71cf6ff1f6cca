"""The rows on disk: diskcache, tamed for durability. The only importer of diskcache.

What is set, and why (each was measured): no eviction and no culling; ``synchronous=FULL``, one fdatasync for each
commit; no side files, because they are never synced; bytes only, because a pickled row runs code when it is read;
no memory map and a small page cache, because the process's memory is bounded. One connection writes.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import diskcache

from ds_gateway.errors import JournalDamagedError, JournalError, JournalLockedError, JournalUnreadableError
from ds_gateway.journal import rows
from ds_gateway.journal.access import explain, refusal
from ds_gateway.journal.sqlite_file import DAMAGE, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BALLAST_BYTES: Final = 1024 * 1024
"""Given up when the disk is full, so that draining can go on."""


FOLDER: Final = "journal"
DATABASE: Final = diskcache.core.DBNAME
BALLAST: Final = "ballast"
SUSPECT: Final = "journal.suspect"
"""This file says why the journal is to be looked at as a whole at the next start."""

_TRIAL_KEY: Final = "trial"
_REFUSED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NOT_OF_THE_FILE: Final = frozenset({sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_MISUSE})


class DiskFullError(JournalError):
    """The file system has no room for the transaction; it was rolled back whole."""


class _TakenBackError(Exception):
    """A transaction is to be rolled back though nothing is wrong."""


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


def translated(directory: Path, error: Exception) -> JournalError:
    """What an error of SQLite means. A file that is not what was written is marked, to be salvaged."""
    database = directory / FOLDER / DATABASE
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    # Where SQLite needs room for its shared memory, a full disk shows as "disk I/O error".
    is_io = primary == sqlite3.SQLITE_IOERR or "disk I/O error" in str(error)
    if primary == sqlite3.SQLITE_FULL or "full" in str(error) or (is_io and free_bytes(directory) < BALLAST_BYTES):
        return DiskFullError(f"no room for the journal in {directory}: {error}")
    if isinstance(error, diskcache.Timeout) or primary in _BUSY:
        return JournalError(
            f"the journal {database} is locked by another program, which is no gateway (a backup, sqlite3): end "
            f"it; `fuser {database}` names it"
        )
    if primary in _REFUSED:
        files = [database, *(database.with_name(f"{DATABASE}-{each}") for each in ("wal", "shm"))]
        why_refused = refusal(directory, files)
        if why_refused is not None:
            return JournalError(f"the journal cannot be opened: {why_refused}")
    if primary in _NOT_OF_THE_FILE:
        return JournalError(f"the journal {database} cannot be used: {error}; restart the gateway")
    mark_suspect(directory, str(error))
    why = "cannot be read or written" if is_io else "is damaged"
    return JournalUnreadableError(
        f"the journal {database} {why}: {error}; start the gateway again, it salvages what is readable"
        + ("; see dmesg for what is wrong with the disk" if is_io else ""),
        f"{DATABASE}: {error}",
    )


def mark_suspect(directory: Path, reason: str) -> None:
    """Let the next start look at all of the journal."""
    # A disk that takes no mark is looked at when it cannot be opened, if not before.
    with suppress(OSError):
        (directory / SUSPECT).write_text(f"{reason}\n", encoding="utf-8")


def free_bytes(directory: Path) -> int:
    """Room on the file system for this user."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


class Disk:
    """Rows by key, in transactions. Used by one thread at a time; the writer's, once it runs.

    ``was_looked_at``: index and table were seen to agree, so that a row which is not there is not elsewhere.
    """

    def __init__(self, directory: Path, *, was_looked_at: bool = False) -> None:
        self.directory = directory
        self._was_looked_at = was_looked_at
        self._ballast = directory / BALLAST
        try:
            self._cache = self._connect()
        except DiskFullError:
            # This is what the ballast is for: a journal that cannot be opened cannot be drained either.
            self.drop_ballast()
            self._cache = self._connect()

    def _connect(self) -> Any:
        try:
            return self._open_cache()
        except OSError as error:
            raise JournalError(f"the journal cannot be opened: {explain(self.directory, error)}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # diskcache believes what its table of settings says; nothing of ours is in there.
            raise JournalUnreadableError(
                f"the journal {self.directory / FOLDER / DATABASE} is damaged: its settings are not readable "
                f"({error}); start the gateway again, it salvages what is readable",
                f"the settings in {DATABASE} are not readable: {error}",
            ) from error

    def _open_cache(self) -> Any:
        folder = self.directory / FOLDER
        # SQLite's files are as open as the umask lets them be, and whoever made data_dir may have left it open.
        folder.mkdir(mode=0o750, exist_ok=True)
        with self._translated():
            return diskcache.Cache(
                str(folder),
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
        except sqlite3.ProgrammingError:
            raise  # a defect of ours, and nothing of the file
        except (*DAMAGE, diskcache.Timeout) as error:
            raise translated(self.directory, error) from error

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

    def read_written(self, key: str) -> bytes | None:
        """A row that was written and not deleted.

        Raises `JournalUnreadableError` where the index does not lead to it: it may be whole in the table, and the
        next start looks for it there. Where that was done already, what is not here is lost: None, or other bytes.
        """
        row = self.read(key)
        if self._was_looked_at or (row is not None and rows.is_whole(key, row)):
            return row
        with self._translated(), closing(connect(self.directory / FOLDER / DATABASE)) as connection:
            found = connection.execute("SELECT rowid FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchone()
            # By its place, so that the key is the table's own and not the index's.
            own = found and connection.execute("SELECT key FROM Cache WHERE rowid = ?", found).fetchone()
        if own == (key,):
            return row
        reason = f"{DATABASE}: its index does not lead to row {key}"
        mark_suspect(self.directory, reason)
        raise JournalUnreadableError(
            f"the journal {self.directory / FOLDER / DATABASE} is damaged: its index does not lead to row {key}; "
            "start the gateway again, it salvages what is readable",
            reason,
        )

    def try_writing(self) -> None:
        """Write, overwrite and delete a row, and take it back: what only fails when it is done is seen before.

        Raises `JournalError` as `transaction` does: SQLite's own check believes what the schema says, whatever
        that has become.
        """
        with suppress(_TakenBackError), self.transaction():
            self._cache.set(_TRIAL_KEY, b"once")
            self._cache.set(_TRIAL_KEY, b"again")
            self._cache.delete(_TRIAL_KEY)
            raise _TakenBackError

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
        return free_bytes(self.directory)

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
