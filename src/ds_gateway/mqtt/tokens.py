"""What the network thread tells the gate, in the order in which it happened: the tokens of items.

Every token carries ``acked``: the highest commit whose PUBACKs may have been sent when the thing happened
(see `marks`). Commits above it are provably not acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Delivery(NamedTuple):
    """One PUBLISH that the broker delivered. A tuple, because there is one for every message.

    ``topic`` is a digest of the topic alone, ``digest`` one of topic, payload and properties, ``key`` one of topic
    and publisher's own id: None where none is looked for, empty if the message has none.
    ``generation`` numbers the connection: a PUBACK belongs to the connection that brought the message.
    ``time_ns`` is when it came in; nothing is decided by it.
    """

    mid: int
    dup: bool
    qos: int
    retain: bool
    topic: bytes
    digest: bytes
    acked: int
    generation: int
    time_ns: int = 0
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A process begins. ``acked`` and ``session`` are what it found in the mark; None: nothing it may trust.

    ``beyond``: how many commits the mark is ahead of the journal. They were synced before it was written, in
    whatever boot, so the journal has lost its end, or is another one.
    """

    acked: int | None
    session: int
    beyond: int = 0
    time_ns: int = 0

    def acked_through(self, session: int, commit: int) -> int:
        """Highest commit that may have been acknowledged, once this token is in a commit of that session.

        A mark of another session, or of commits that do not exist yet, proves nothing: then it is everything.
        """
        if self.acked is None or self.session != session or self.acked >= commit:
            return commit
        return self.acked


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A CONNACK. ``present`` is False when the broker has no session: packet ids begin anew (rule R0).

    ``doubtful``: it has one, but perhaps a new one, made by a CONNECT whose CONNACK nobody has seen.
    """

    present: bool
    acked: int
    generation: int
    time_ns: int = 0
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker granted these topic filters, and the session has no others."""

    filters: tuple[str, ...]
    qos: int
    generation: int
