"""A journal that no gateway has open, for commands that change something in it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ds_gateway import assembly
from ds_gateway.errors import ControlError
from ds_gateway.journal.access import user_name
from ds_gateway.mapping.commands import CommandRoutes
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ds_gateway.config.models import Settings
    from ds_gateway.journal import Journal


@contextmanager
def opened_journal(settings: Settings) -> Iterator[tuple[Journal, str]]:
    """The journal, which runs, and the name of its stream of receipts.

    Raises `JournalLockedError` where a gateway has it, `ControlError` for another user's, or none.
    """
    directory = Path(settings.data_dir)
    if not directory.exists():
        raise ControlError(f"there is no journal in {directory}: no gateway has run with this data_dir yet")
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        # What SQLite makes beside the journal would not be the gateway's.
        raise ControlError(
            f"{directory} belongs to user {user_name(owner)}: start the gateway and ask it, or run this as that "
            f"user (sudo -u {user_name(owner)} ...)"
        )
    receipts = assembly.receipt_stream(settings, CommandRoutes(settings))
    journal = assembly.open_journal(
        settings,
        receipts,
        on_stream=lambda _book: None,
        on_confirmed=lambda _stream: None,
        on_point=lambda _when, _parts: None,
        wall_clock=UNWATCHED,  # what is read again keeps its time; nobody knows how the clock was then
    )
    try:
        journal.start()
        yield journal, receipts
    finally:
        journal.stop()
