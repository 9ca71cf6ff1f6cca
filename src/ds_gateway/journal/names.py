"""``journal.streams``: whose journal it is and what its streams are called, kept beside the database.

Only needed when the database is damaged: then it says that there was one, and what the streams of readable
segments are called even if the rows that say so are gone. Written whole, under another name, when a stream begins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.journal.state import State

FILE: Final = "journal.streams"


@dataclass(frozen=True, slots=True)
class Names:
    """All empty where there is no journal yet, or the file is unreadable."""

    gateway: str = ""
    install: str = ""
    first_install: str = ""
    streams: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, state: State) -> Names:
        """What the journal itself says."""
        identity = state.identity
        streams = {book.number: book.name for book in list(state.books.values())}
        return cls(identity.gateway, identity.install, identity.first_install, streams)


def read_names(directory: Path) -> Names:
    """Read the file; never raises, because without it everything but a salvage goes on as well."""
    try:
        row = rows.decode_json(FILE, (directory / FILE).read_bytes())
        streams = {int(number): str(name) for number, name in row["streams"].items()}
        return Names(str(row["gateway"]), str(row["install"]), str(row["first_install"]), streams)
    except (OSError, JournalDamagedError, KeyError, TypeError, ValueError, AttributeError):
        return Names()


def check_names(names: Names, state: State) -> None:
    """Raise `JournalDamagedError` for a journal that does not know streams any more which it once had."""
    missing = names.streams.keys() - state.books.keys()
    if missing and names.install == state.identity.install:
        raise JournalDamagedError(f"the rows of {len(missing)} streams are missing")


def write_names(directory: Path, names: Names) -> None:
    """Replace the file durably. Raises OSError; the old one is whole then."""
    row = rows.encode_json(
        FILE,
        {
            "gateway": names.gateway,
            "install": names.install,
            "first_install": names.first_install,
            "streams": {str(number): name for number, name in names.streams.items()},
        },
    )
    fresh = directory / f"{FILE}.new"
    with fresh.open("wb") as file:
        file.write(row)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / FILE)
