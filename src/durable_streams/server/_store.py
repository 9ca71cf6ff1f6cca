"""What a store is: streams of messages, with everything that must be decided and kept together.

A message is the body of one append (for JSON streams: its elements, joined by commas, without the array's
brackets). Messages of a stream are numbered from 0; the stream's ``tail`` is the number of the next one, its
``head`` that of the oldest one that is kept.

Ages are counted by the time that a store has been served, not by the clock on the wall: a machine that boots in
1970 and then learns the time must not take its data for old. That time is given with each change (``Change.at``),
and `Store.served_seconds` tells where it stood when the store was last served.

All writes go through `Store.transact`: the given function sees the state as of all writes before it, decides,
and changes it through the `Transaction`; transactions run one after the other, and the result is returned
after what was changed is durable. A change is one value (`Change`), so that data, producer state and closure
cannot be stored one without the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from asyncio import Event
    from collections.abc import Callable
    from contextlib import AbstractContextManager

Result = TypeVar("Result")

MAX_PAGE_MESSAGES: Final = 10_000
"""A page ends here, however small its messages are: each costs time and memory of its own."""

EARLIEST: Final = -1
"""Where to read from: the oldest message that is kept, whatever its number."""


@dataclass(frozen=True, slots=True)
class ProducerMark:
    """The last accepted batch of an idempotent producer, or one that is offered (PROTOCOL section 5.2.1)."""

    producer_id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a stream is created with and keeps for life (PROTOCOL section 5.1)."""

    content_type: str
    ttl_seconds: int | None = None
    expires_at: str | None = None
    """RFC 3339 text, as the creator sent it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one request changes in a stream, all of it or nothing. None leaves a value as it is."""

    data: bytes | None = None
    producer: ProducerMark | None = None
    stream_seq: str | None = None
    close: bool = False
    deadline: float | None = None
    at: float = 0.0
    """When, in seconds that the store has been served; the age of ``data`` is counted from here."""


@dataclass(frozen=True, slots=True)
class Stream:
    """State of one stream. ``id`` is never used twice in a store, ``uid`` never twice anywhere."""

    id: int
    uid: str
    path: str
    settings: StreamSettings
    tail: int = 0
    head: int = 0
    """The oldest message that is kept; equal to ``tail`` when there is none."""
    size: int = 0
    """Bytes of the messages that are kept."""
    closed: bool = False
    closed_by: ProducerMark | None = None
    stream_seq: str | None = None
    """The last ``Stream-Seq``, its bytes read as Latin-1; the scope is the stream."""
    deadline: float | None = None
    """When the stream expires, in seconds since 1970; None is never."""

    def after(self, change: Change) -> Stream:
        """The state once the change is made."""
        # Every field by name, as this is done for every append: `dataclasses.replace` takes eight times as long.
        return Stream(
            id=self.id,
            uid=self.uid,
            path=self.path,
            settings=self.settings,
            tail=self.tail + (change.data is not None),
            head=self.head,
            size=self.size + len(change.data or b""),
            closed=self.closed or change.close,
            closed_by=change.producer if change.close else self.closed_by,
            stream_seq=self.stream_seq if change.stream_seq is None else change.stream_seq,
            deadline=self.deadline if change.deadline is None else change.deadline,
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What retention needs to know of a message: its size in bytes, and when it was stored (`Change.at`)."""

    size: int
    at: float


@dataclass(frozen=True, slots=True)
class Page:
    """Messages ``start`` to ``end`` (exclusive) of a stream, and the stream's state at the same instant."""

    stream: Stream
    start: int
    messages: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """The number of the message after the page."""
        return self.start + len(self.messages)

    @property
    def gone(self) -> bool:
        """Whether messages that the page should begin with are no longer kept."""
        return self.start < self.stream.head

    @property
    def up_to_date(self) -> bool:
        """Whether nothing was stored behind this page when it was read."""
        return self.end >= self.stream.tail

    @property
    def final(self) -> bool:
        """Whether nothing will ever be stored behind this page."""
        return self.stream.closed and self.up_to_date


class Transaction(Protocol):
    """The state as the running transaction sees it, and the ways to change it."""

    def find(self, path: str) -> Stream | None:
        """The stream of this path, expired or not."""
        ...  # pragma: no cover

    def producer(self, stream: Stream, producer_id: str) -> ProducerMark | None:
        """What the stream last accepted of this producer."""
        ...  # pragma: no cover

    def create(self, path: str, settings: StreamSettings, deadline: float | None) -> Stream:
        """A new empty stream; there must be none of this path."""
        ...  # pragma: no cover

    def apply(self, stream: Stream, change: Change) -> None:
        """Change a stream. Data becomes the message number ``stream.tail``."""
        ...  # pragma: no cover

    def delete(self, stream: Stream) -> None:
        """Delete a stream with all that belongs to it."""
        ...  # pragma: no cover

    def expired(self, now: float) -> list[Stream]:
        """Some of the streams whose deadline has passed."""
        ...  # pragma: no cover

    def count(self) -> int:
        """How many streams there are."""
        ...  # pragma: no cover

    def oldest(self, stream: Stream, count: int) -> list[Kept]:
        """The oldest messages that are kept, oldest first, at most so many."""
        ...  # pragma: no cover

    def trim(self, stream: Stream, messages: int, size: int) -> Stream:
        """Drop so many of the oldest messages, which have ``size`` bytes; return the stream without them."""
        ...  # pragma: no cover

    def overfull(self, max_bytes: int | None, before: float | None) -> list[Stream]:
        """Some of the streams that keep several messages of more bytes, or one that was stored before this."""
        ...  # pragma: no cover

    def keep_time(self, at: float) -> None:
        """Let `Store.served_seconds` come near this time although nothing is stored."""
        ...  # pragma: no cover


class Store(Protocol):
    """Where streams are kept. All methods belong to one event loop."""

    async def find(self, path: str) -> Stream | None:
        """The stream of this path, expired or not."""
        ...  # pragma: no cover

    async def read(self, path: str, start: int | None, max_bytes: int) -> Page | None:
        """Messages from number ``start`` on, or None when there is no such stream.

        `EARLIEST` starts with the oldest message that is kept, None at the tail. A page that would start before
        the head is empty. It ends before the message that would make it larger than ``max_bytes``, but holds at
        least one message if there is any.
        """
        ...  # pragma: no cover

    async def served_seconds(self) -> float:
        """How long the store had been served when it last changed: the greatest `Change.at` in it."""
        ...  # pragma: no cover

    async def transact(self, work: Callable[[Transaction], Result]) -> Result:
        """Run ``work`` alone and return its result once its changes are durable.

        ``work`` may run more than once and in another thread: it does nothing but decide and change. Raises
        `StoreError` when the changes could not be stored; then none of them is.
        """
        ...  # pragma: no cover

    def watch(self, stream_id: int) -> AbstractContextManager[Event]:
        """An event that is set whenever a stream was changed or deleted, and when waiting must end."""
        ...  # pragma: no cover

    def stop_waiting(self) -> None:
        """Set all events, for good: the server stops."""
        ...  # pragma: no cover

    async def close(self) -> None:
        """Finish what was asked and let go of all resources."""
        ...  # pragma: no cover
