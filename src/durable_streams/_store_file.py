"""The SQLite file of a message store: how it is opened, checked and locked, and what its errors mean.

A commit is on the disk when it returns: write-ahead log, ``synchronous=FULL``, both checked when the file is
opened. The lock is SQLite's own exclusive one. It ends with the process, however that ends.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from durable_streams.errors import (
    ProducerFullError,
    ProducerStoreDamagedError,
    ProducerStoreError,
    ProducerStoreLockedError,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

FORMAT: Final = 1
_APPLICATION_ID: Final = 0x44537072  # "DSpr": says whose file it is
_LOCK_SECONDS: Final = 0.2
_WAL_LIMIT_BYTES: Final = 16 * 1024 * 1024

_SCHEMA: Final = (
    """
    CREATE TABLE producer (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        producer_id TEXT NOT NULL,
        url TEXT NOT NULL,
        id_member TEXT,
        lineage TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        claimed INTEGER NOT NULL,
        anchor TEXT,
        resolved_seq INTEGER NOT NULL,
        resolved_position INTEGER NOT NULL,
        sealed_position INTEGER,
        sealed_crc INTEGER,
        last_position INTEGER NOT NULL
    )
    """,
    # The position is the row's id: messages lie in the file in their order.
    "CREATE TABLE messages (position INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL)",
)


class StoreFile:
    """One open file. Used by the thread that opened it."""

    def __init__(self, path: Path) -> None:
        """Open the file, create it if it is not there. Raises `ProducerStoreError` and its kin."""
        self.path = path
        if not path.parent.is_dir():
            raise ProducerStoreError(f"there is no directory {path.parent} for the store {path.name}: create it")
        with translated(path):
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_SECONDS)
        try:
            with translated(path):
                self._prepare()
        except BaseException:
            self.connection.close()
            raise

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Commit what is done inside, durably, or nothing of it."""
        with translated(self.path):
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Let another process use the file."""
        self.connection.close()

    def _prepare(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION_ID:
            raise ProducerStoreError(
                f"{self.path} is a database of another program: give the store a path of its own"
            )
        if tables and version != FORMAT:
            raise ProducerStoreError(
                f"{self.path} has format {version}, and this version of durable_streams knows only {FORMAT}: "
                "use the version that wrote it"
            )
        (journal_mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA fullfsync = ON")
        execute("PRAGMA checkpoint_fullfsync = ON")
        execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        (synchronous,) = execute("PRAGMA synchronous").fetchone()
        if (journal_mode, synchronous) != ("wal", 2):
            raise ProducerStoreError(
                f"SQLite cannot make {self.path} safe against a power cut (journal_mode {journal_mode}, "
                f"synchronous {synchronous}): put it on a local file system"
            )
        # Takes the lock for good, and shows at once whether the file can be written.
        execute("BEGIN EXCLUSIVE")
        if not tables:
            for statement in _SCHEMA:
                execute(statement)
            execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            execute(f"PRAGMA user_version = {FORMAT}")
        execute("COMMIT")
        if not tables:
            self._sync_directory()

    def _sync_directory(self) -> None:
        """Make the new file's name durable, as SQLite does for its log but not for the file itself."""
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn SQLite's errors into ones that name the file and the way out."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(error, path) from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged schema byte for byte
        raise damaged(path, "its schema cannot be read") from error
    except OSError as error:
        raise ProducerStoreError(f"{path} cannot be used: {error.strerror}") from error


def _translation(error: sqlite3.Error, path: Path) -> ProducerStoreError | ProducerFullError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return ProducerFullError(f"no space left for {path}: the message was not stored; free some space")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return ProducerStoreLockedError(
                f"{path} is in use, by another process or another producer of this one: a store has one producer "
                "at a time; stop the other, or give this one a file of its own"
            )
        case sqlite3.SQLITE_NOTADB:
            return ProducerStoreDamagedError(
                f"{path} is no SQLite database: give the store a path of its own, or, if it was a store, move it "
                "away to begin a new one"
            )
        case sqlite3.SQLITE_CORRUPT:
            return damaged(path, f"SQLite says: {error}")
        case sqlite3.SQLITE_READONLY:
            return ProducerStoreError(f"{path} cannot be written: it is read-only here ({name})")
        case sqlite3.SQLITE_CANTOPEN:
            return ProducerStoreError(f"{path} cannot be opened: look at its permissions ({name})")
        case _:
            # A failed fsync leaves it open what is in the file; only opening it again tells.
            return ProducerStoreError(
                f"{path} failed ({name}: {error}); what was being stored may or may not be in it. It is safe to "
                "open it again"
            )


def damaged(path: Path, what: str) -> ProducerStoreDamagedError:
    """Return the error for a file that does not hold together."""
    return ProducerStoreDamagedError(
        f"the store {path} is damaged: {what}. Move it away to begin a new one; what it held and was not "
        "confirmed is in it still, as far as it can be read"
    )
