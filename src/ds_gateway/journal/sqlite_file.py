"""The database as SQLite sees it: opened to be read only, looked at as a whole, and what it raises on damage."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalUnreadableError

if TYPE_CHECKING:
    from pathlib import Path

DAMAGE: Final = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What comes out of SQLite when its file is not what it wrote: in its messages it quotes the schema byte for byte,
and Python cannot make text of every byte."""
BUSY_SECONDS: Final = 10.0
SQLITE_VERSION: Final = sqlite3.sqlite_version


def connect(database: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    return sqlite3.connect(
        f"{database.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )


def look_at_all(database: Path) -> None:
    """Raise `JournalUnreadableError` or one of `DAMAGE` where a page cannot be read, or index and table disagree.

    Takes as long as reading the journal.
    """
    with closing(connect(database)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        first_line = str(verdict).strip().replace("\n", " ")
        raise JournalUnreadableError(f"{database} is damaged: {first_line}", f"{database.name}: {first_line}")
