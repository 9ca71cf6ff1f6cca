"""How much may be taken from the command stream at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ds_gateway.downlink.receipts import TYPICAL_BYTES

MAX_OPEN: Final = 5000
MAX_OPEN_BYTES: Final = 8 * 1024 * 1024
MAX_SPAN: Final = 50_000
"""Commands from the oldest open one on, ended ones included: each has a row, and an entry in memory."""
MAX_UNCOMMITTED: Final = 2000


@dataclass(frozen=True, slots=True)
class Load:
    """What is taken already."""

    open_count: int
    """Commands without a terminal receipt."""
    open_bytes: int
    span: int
    """Commands that were read since the oldest open one."""
    uncommitted: int
    """Receipts on their way into the journal."""
    uncommitted_bytes: int
    receipt_room: int
    """Bytes that are free for receipts in the journal."""


def why_no_room(load: Load) -> str:
    """Why the next command must stay in its stream; empty if it can be taken."""
    if load.open_count >= MAX_OPEN or load.open_bytes >= MAX_OPEN_BYTES:
        return f"{load.open_count} commands are open"
    if load.span >= MAX_SPAN:
        return f"{MAX_SPAN} commands were read since the oldest one that is open"
    if load.uncommitted >= MAX_UNCOMMITTED:
        return "receipts wait for the journal"
    if load.receipt_room < load.uncommitted_bytes + (load.open_count + 1) * TYPICAL_BYTES:
        return "receipts wait for the server, and their room in the journal is promised"
    return ""
