"""How commands print what machines read, and how they say numbers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping


def print_json(document: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


def count(number: int, what: str, many: str = "") -> str:
    """As people say it: 1 entry, 2 entries. ``many`` where it is not ``what`` with an s."""
    return f"{number} {what if number == 1 else many or f'{what}s'}"


def ledgered(cause: str, counted: Mapping[str, Any]) -> str:
    """What the loss ledger has of a cause. An entry without a number is of something that nobody could count."""
    records, entries = counted.get("records"), counted.get("entries")
    lost = count(records, "record") if isinstance(records, int) and records else "an unknown number of records"
    told = count(entries, "entry", "entries") if isinstance(entries, int) else "-"
    return f"loss ledger: {cause}: {lost}, {told}"
