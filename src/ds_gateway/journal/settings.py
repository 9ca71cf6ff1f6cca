"""What the writer decides by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ds_gateway.journal.upkeep import WhenFull


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """What the writer decides by."""

    gateway: str
    url: str
    """Base URL of the stream server that new streams belong to."""
    max_bytes: int
    min_free_bytes: int
    retain_bytes: int
    batch_max_bytes: int
    max_delay_seconds: float
    commit_interval_seconds: float = 0.0
    when_full: WhenFull = "backpressure"
    max_age_seconds: float | None = None
    receipts: str = ""
    """Name of the stream of receipts; empty where there is none."""
