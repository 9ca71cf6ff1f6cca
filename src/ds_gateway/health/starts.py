"""How often the gateway has started, and in how many boots of the machine: a file in the data folder.

Not a row of the journal: its rows must be readable by the version before, and a start that fails is one, too.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "starts.json"


@dataclass(frozen=True, slots=True)
class Starts:
    """Counted since the data folder was made, or since somebody removed the file."""

    boots: int = 0
    starts: int = 0
    boot: str = ""
    """The boot of the last start."""

    def next(self, boot: str) -> Starts:
        """One start more, in this boot."""
        return Starts(self.boots + (boot != self.boot), self.starts + 1, boot)


def count(folder: Path, boot: str) -> Starts:
    """Count this start; never raises: without room for the file the next start counts the same again."""
    counted = _read(folder / FILE).next(boot)
    fresh = folder / f"{FILE}.new"
    try:
        with fresh.open("wb") as file:
            file.write(orjson.dumps(asdict(counted)))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / FILE)
    except OSError:
        return counted
    return counted


def _read(path: Path) -> Starts:
    try:
        match orjson.loads(path.read_bytes()):
            case {"boots": int(boots), "starts": int(starts), "boot": str(boot)}:
                return Starts(max(boots, 0), max(starts, 0), boot)
            case _:
                return Starts()
    except (OSError, ValueError):
        return Starts()
