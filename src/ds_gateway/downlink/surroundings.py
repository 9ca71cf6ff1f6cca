"""What the downlink is told at its start: the configuration's words, and the rest of the gateway."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import httpx

    from ds_gateway.downlink.outbox import ReceiptJournal
    from ds_gateway.downlink.own import Verb
    from ds_gateway.downlink.ports import Routes, Target
    from ds_gateway.records import Envelope
    from ds_gateway.timekeeping import WallClock


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration says."""

    gateway: str
    stream: str
    receipts: str
    url: str
    """Of the command stream."""
    receipts_url: str
    """Of the stream of receipts."""
    start: Literal["tail", "beginning"] = "tail"
    create: bool = True
    trusts_clock: bool = False
    gateway_commands: Collection[str] = ()
    dry_run: bool = False
    envelope: Envelope = "plain"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rest of the gateway does for it."""

    journal: ReceiptJournal
    routes: Routes
    targets: Mapping[str, Target]
    verbs: Mapping[str, Verb]
    client: httpx.AsyncClient
    headers: Mapping[str, Callable[[], str]]
    install: str
    """What the ids of this journal's records begin with."""
    claim: Callable[[str], None]
    """Begin to claim the receipts stream, and to send receipts; a word tells this life's claims from others'."""
    claimed: Callable[[], int | None]
    """The epoch under which the receipts stream is this gateway's alone; None while that is not certain."""
    why_not_claimed: Callable[[], str]
    """Why that is None; empty if it is not."""
    is_fenced: Callable[[], bool]
    """Whether the receipts stream has stopped."""
    is_synchronised: Callable[[], bool]
    afterwards: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    """What some verbs do once the receipt that acknowledges them is committed."""
    wall_clock: WallClock = UNWATCHED
    """What receipts say of the clock."""
    wall_ns: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic
