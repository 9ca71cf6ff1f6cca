"""Looks at the journal's files before anything opens them for writing: SQLite is too forgiving.

An empty or missing file it takes for a new database, and of a damaged log it takes what comes before the damage;
both without a word, and then what was acknowledged would be gone and its positions given out again.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from ds_gateway.errors import JournalDamagedError, JournalUnreadableError
from ds_gateway.journal import rows
from ds_gateway.journal.disk import DATABASE, FOLDER, SUSPECT, translated
from ds_gateway.journal.files import JournalFiles
from ds_gateway.journal.sqlite_file import DAMAGE, connect, look_at_all

if TYPE_CHECKING:
    from pathlib import Path

    from ds_gateway.journal.names import Names


def examine(directory: Path, names: Names) -> None:
    """Raise `JournalDamagedError` or `JournalUnreadableError` for a journal that is not to be used as it is.

    ``names``: what is known from beside the database. Costs nothing after a clean end; after a crash the log is
    read once; where an earlier process met damage, everything is.
    """
    folder = directory / FOLDER
    if not folder.is_symlink() and not folder.exists():
        return  # there never was one, or somebody moved it away to begin anew
    database, log = folder / DATABASE, folder / f"{DATABASE}-wal"
    if not folder.is_dir():
        raise JournalDamagedError(f"{FOLDER} is not a directory")
    if not database.is_file() or database.stat().st_size == 0:
        if database.exists() and not database.is_file():
            raise JournalDamagedError(f"{DATABASE} is not a file")
        if names.gateway or (log.is_file() and log.stat().st_size):
            state = "empty" if database.exists() else "missing"
            raise JournalDamagedError(f"{DATABASE} is {state}")
        return  # a first start that did not get far
    if log.is_file() and log.stat().st_size:
        with JournalFiles(folder) as files:
            if files.wal.is_broken:
                raise JournalDamagedError(f"{log.name} is damaged before its end")
    _ask_sqlite(directory, names)


def _ask_sqlite(directory: Path, names: Names) -> None:
    """Whether the first row is readable; with the mark of an earlier process, whether everything is."""
    database = directory / FOLDER / DATABASE
    try:
        if (directory / SUSPECT).exists():
            look_at_all(database)
        with closing(connect(database)) as connection:
            found = connection.execute(
                "SELECT value FROM Cache WHERE key = ? AND raw = 1", (rows.META,)
            ).fetchone()
    except DAMAGE as error:
        if not names.gateway and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            return  # no such table: a first start that did not get far, or `load` will say what it is
        raise translated(directory, error) from error
    if found is None and names.gateway:
        raise JournalDamagedError(f"{DATABASE} does not say any more whose journal it is")


def is_whole(directory: Path) -> bool:
    """Whether SQLite can read every page, and index and table agree. Takes as long as reading the journal."""
    try:
        look_at_all(directory / FOLDER / DATABASE)
    except (*DAMAGE, JournalUnreadableError):
        return False
    return True
