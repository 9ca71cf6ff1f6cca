"""The SQLite file of a store: its schema, its version, and how it is opened.

A stream row has an id that is never used again; messages are keyed by (stream id, number). A stream that
inherits the messages of another one can be added as columns of its row. The messages of deleted streams wait
in ``trash`` until the writer has time for them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Final

from durable_streams.server._errors import StoreError, StoreFormatError, StoreFullError, StoreLockedError
from durable_streams.server._room import Space

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("durable_streams.server")

SCHEMA_VERSION: Final = 2
FILE_NAME: Final = "streams.db"
LOCK_NAME: Final = "lock"

_APPLICATION_ID: Final = 0x44537472  # "DStr": says whose file it is
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_PAGE_BYTES: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_SCHEMA: Final = (
    """
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL,
        path TEXT NOT NULL UNIQUE,
        content_type TEXT NOT NULL,
        ttl_seconds INTEGER,
        expires_at TEXT,
        tail INTEGER NOT NULL DEFAULT 0,
        closed INTEGER NOT NULL DEFAULT 0,
        closed_producer TEXT,
        closed_epoch INTEGER,
        closed_seq INTEGER,
        stream_seq TEXT,
        deadline REAL,
        head INTEGER NOT NULL DEFAULT 0,
        size INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX streams_by_deadline ON streams (deadline) WHERE deadline IS NOT NULL",
    """
    CREATE TABLE messages (
        stream_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at REAL NOT NULL DEFAULT 0,
        data BLOB NOT NULL,
        PRIMARY KEY (stream_id, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE producers (
        stream_id INTEGER NOT NULL,
        producer_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (stream_id, producer_id)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE trash (stream_id INTEGER PRIMARY KEY)",
    "CREATE TABLE served (seconds REAL NOT NULL)",
    "INSERT INTO served VALUES (0)",
)
_FROM_1_TO_2: Final = (
    "ALTER TABLE streams ADD COLUMN head INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE streams ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
    "UPDATE streams SET size = (SELECT coalesce(sum(length(data)), 0) FROM messages WHERE stream_id = id)",
    "ALTER TABLE messages ADD COLUMN at REAL NOT NULL DEFAULT 0",
    "CREATE TABLE served (seconds REAL NOT NULL)",
    "INSERT INTO served VALUES (0)",
)
_STEPS: Final = {0: _SCHEMA, 1: _FROM_1_TO_2}
"""How each older format, or none at all, becomes the present one."""


def make_directory(directory: Path) -> None:
    """Create the directory if it is not there, so that it is still there after a power cut."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:
            descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise StoreError(
            f"cannot create {directory}: {error.strerror}; choose a directory that this user may write to"
        ) from error


class DirectoryLock:
    """The right to serve a directory; it ends with the process, however that ends."""

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot open {path}: {error.strerror}; choose a directory that this user may write to, or let it"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise StoreLockedError(
                f"this or another process serves {directory}: stop it, or choose another directory"
            ) from error

    def release(self) -> None:
        """Let another process serve the directory."""
        os.close(self._descriptor)


def connect_writer(path: Path, max_bytes: int | None) -> sqlite3.Connection:
    """The one connection that writes; creates the file. Any thread may use it, one at a time.

    A commit is on the disk when it returns: write-ahead log, ``synchronous=FULL``.
    """
    _make_private(path)
    try:
        connection = _connect(path)
        _prepare(connection, path, max_bytes)
    except sqlite3.Error as error:
        raise translated(error, path) from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged schema byte for byte
        raise StoreFormatError(f"{path} is damaged: its schema cannot be read") from error
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads. Any thread may use it, one at a time."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def space(connection: sqlite3.Connection, path: Path) -> Space:
    """What the store takes and what is left. Raises `StoreError` when the disk cannot be asked."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (empty,) = connection.execute("PRAGMA freelist_count").fetchone()
    try:
        disk = os.statvfs(path)
    except OSError as error:
        raise StoreError(f"cannot ask the disk of {path} for its space: {error.strerror}") from error
    return Space(pages * _PAGE_BYTES, empty * _PAGE_BYTES, disk.f_bavail * disk.f_frsize)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None when there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - once for each commit: `Path.stat` takes twice as long
    except OSError:
        return None
    return status.st_dev, status.st_ino


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """The store's own error for one of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(f"no space left for {path}")
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreFormatError(f"{path} is damaged or not a store: {error}")
    return StoreError(f"{path}: {error}")


def _make_private(path: Path) -> None:
    """Create the file, for its user alone; SQLite makes those beside it alike. Warn if others may open it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        modes = path.stat().st_mode, path.parent.stat().st_mode
        if all(mode & _OTHERS for mode in modes):  # it may be meant so, for a backup
            logger.warning("store.not_private: other users may open %s; chmod 600 %s* shuts them out", path, path)
    except OSError as error:
        raise StoreError(f"cannot create {path}: {error.strerror}") from error


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)


def _prepare(connection: sqlite3.Connection, path: Path, max_bytes: int | None) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION_ID and tables:
        raise StoreFormatError(f"{path} is not a stream store")
    if version > SCHEMA_VERSION:
        raise StoreFormatError(
            f"{path} has format {version}, this program knows {SCHEMA_VERSION}: use the newer program"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    if max_bytes is not None:
        connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // _PAGE_BYTES)}")
    if version in _STEPS:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _STEPS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
