"""What `producer_explorer` explores: worlds, and how often each misfortune may happen in them. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable_streams import _pull
from harness.stream_model import Manners

if TYPE_CHECKING:
    from collections.abc import Hashable

    from durable_streams._pull import Policy, Stop

CLAIM: Final = 0
"""What a claim leaves in the stream."""
FOREIGN: Final = 1
"""Somebody else's message."""
CLONES: Final = 1000
"""Values from here on are records that a copy of the journal accepted."""
SMALLEST, LARGEST = 1, 1 << 14
"""Sizes that a batch may be asked for: one segment, or all that is open."""


MANNERS: Final = Manners()


class Fate(NamedTuple):
    """How often each misfortune may happen."""

    crashes: int = 0
    losses: int = 0
    """Requests or answers that are lost or late, and refused connections."""
    doubles: int = 0
    """Requests that arrive, and later once more."""
    forgets: int = 0
    restores: int = 0
    torn: int = 0
    """Times that the server stores the data and not the producer's state."""
    torn_state: int = 0
    """Times that it stores the state and not the data."""
    foreign: int = 0
    expiries: int = 0
    changes: int = 0
    """Times that the server, or what is before it, takes one message at most, or as many as come again."""
    closes: int = 0
    deletions: int = 0
    renewals: int = 0
    """Times that the stream is deleted, and there again, empty."""
    rollbacks: int = 0
    clones: int = 0
    damages: int = 0
    trims: int = 0
    """Times that everything kept has to give way."""
    claims: int = 0
    bisects: int = 0


@dataclass(frozen=True)
class Limits:
    """What is explored."""

    fate: Fate
    groups: tuple[int, ...] = (1, 1, 1)
    """Records that are accepted together, one group after the other."""
    early: int = 2
    """How many groups are there from the beginning; the others come whenever an uplink waits or surveys."""
    anytime: bool = False
    """Whether they come at any other moment, too."""
    keep: int = 99
    """How many records are kept for repair, about."""
    manners: Manners = MANNERS
    heavy: tuple[int, ...] = ()
    """Values of records that are too large alone."""
    poison: tuple[int, ...] = ()
    policies: tuple[Policy, ...] = (_pull.Policy(recover=True),)
    """A process may be started with any of them; the first one with the first."""
    stops: frozenset[Stop] = frozenset()
    """What may stop the uplink in these worlds; each of them must."""
    repeatedly: bool = False
    """Whether rows are damaged that stand for damaged ones already: how much they held, nobody can know."""

    def __str__(self) -> str:
        told = ", ".join(f"{name}={n}" for name, n in zip(Fate._fields, self.fate, strict=True) if n)
        kept = f", keep {self.keep}" if self.keep < 99 else ""
        return f"{told or 'no misfortune'}; records {self.groups}{kept}"


class World(NamedTuple):
    """Everything there is between two steps, each thing as its number."""

    proc: int
    journal: int
    lazy: tuple[int, str] | None
    """A resolution that is not committed yet."""
    server: int
    late: tuple[tuple[int, int, tuple[int, ...]], ...]
    """Requests that the network may still deliver: epoch, sequence number, messages."""
    fate: Fate
    groups: int
    """How many groups were accepted."""
    backups: tuple[int, ...] = ()
    """The server as it may be restored, the oldest first: as many as restores are to come."""
    image: int = -1
    """The journal as it may be rolled back to."""
    lost: int = 0
    """2: the server lost what it had, 1: a repair has read since then, 0: and has committed what it found."""


class Numbers:
    """Values by small numbers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def of(self, value: Hashable) -> int:
        """The value's number."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Journal(NamedTuple):
    """Rows, and what was accepted into them: the position and the value of each record."""

    rows: frozenset[tuple[str, bytes]]
    accepted: tuple[tuple[int, int], ...]
