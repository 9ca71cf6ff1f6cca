"""What callers gave a producer, in its order, until requests are made of it.

Messages are put into batches at once, at the price of a list's `append`. A batch grows until it is full, or until
something stands behind it, or until it is taken out.

With threads, whoever takes or takes out holds `lock`. Ctrl-C may break a caller off between any two steps: a
message is then taken or not, and what was counted wrong for it is counted again when its batch is taken out.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

from durable_streams._batches import Batch, Flush
from durable_streams._messages import Unencoded
from durable_streams._wire import is_json
from durable_streams.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager


class Intake:
    """A queue of batches, and of wishes that have their place among them. Not thread-safe without its lock."""

    def __init__(self, content_type: str, max_batch_bytes: int) -> None:
        self.lock: AbstractContextManager[object] = nullcontext()
        """Guards this where there are threads: whoever has some puts one here."""
        self.size_bytes = 0
        """Bytes in here, framing included."""
        self.frame_bytes = 0
        """The bytes around and between messages: "[", "," and "]" on a JSON stream."""
        self._max_batch_bytes = max_batch_bytes
        self._entries: deque[Batch | Flush] = deque()
        self._growing: Batch | None = None
        """The last one, if it is a batch that may take more."""
        self.set_content_type(content_type)

    def set_content_type(self, content_type: str) -> None:
        """Say of which type the messages are that come from now on."""
        self.frame_bytes = 1 if is_json(content_type) else 0

    def __len__(self) -> int:
        """How many batches and wishes there are."""
        return len(self._entries)

    @property
    def message_count(self) -> int:
        """How many messages there are."""
        return sum(len(entry.messages) for entry in tuple(self._entries) if isinstance(entry, Batch))

    @property
    def first(self) -> Batch | Flush | None:
        """What came first."""
        return self._entries[0] if self._entries else None

    # -- In ----------------------------------------------------------------------------------------

    def take(self, message: bytes) -> Batch:
        """Take one message; return its batch, of which it is the last. Raises `MessageError` if it never fits."""
        size = len(message) + self.frame_bytes
        batch = self._growing
        if batch is None or batch.size_bytes + size > self._max_batch_bytes:
            batch = self._begin(message)
        batch.messages.append(message)
        batch.size_bytes += size
        self.size_bytes += size
        if batch.size_bytes + self.frame_bytes >= self._max_batch_bytes:
            batch.full, batch.announced = True, False
        return batch

    def take_last(self, message: bytes) -> Batch:
        """Take the end of the stream, with a last message unless that is empty. Raises as `take`."""
        batch = self._begin(message)
        self._growing = None
        batch.closing = True
        if message:
            batch.messages.append(message)
            batch.size_bytes += len(message) + self.frame_bytes
            self.size_bytes += len(message) + self.frame_bytes
        return batch

    def flush(self) -> Flush:
        """Take the wish that what is here does not linger."""
        last = self._entries[-1] if self._entries else None
        flush = last if isinstance(last, Flush) else Flush()
        self._growing = None
        if flush is not last:
            self._entries.append(flush)
        return flush

    def _begin(self, message: bytes) -> Batch:
        if len(message) + 2 * self.frame_bytes > self._max_batch_bytes:
            raise MessageError(
                f"a message of {len(message)} bytes exceeds max_batch_bytes={self._max_batch_bytes}"
            )
        batch = Batch([], self.frame_bytes)
        self._entries.append(batch)
        self._growing = batch
        return batch

    # -- Out ---------------------------------------------------------------------------------------

    def take_out(self) -> Batch | Flush:
        """Take out what came first; a batch grows no more."""
        with self.lock:
            entry = self._entries.popleft()
            if entry is self._growing:
                self._growing = None
            if isinstance(entry, Batch):
                counted = entry.size_bytes
                entry.size_bytes = batch_bytes(entry.messages, self.frame_bytes)
                self.size_bytes -= counted - self.frame_bytes
            if not self._entries:
                self.size_bytes = 0
            return entry

    def encode(self, content_type: str) -> list[MessageError]:
        """Encode everything that is here for this content type; return the errors of what cannot be."""
        early: Sequence[Batch | Flush] = list(self._entries)
        self._entries.clear()
        self._growing, self.size_bytes = None, 0
        self.set_content_type(content_type)
        errors: list[MessageError] = []
        for entry in early:
            if isinstance(entry, Flush) or not entry.messages:
                self._growing = None
                self._entries.append(entry)
            else:
                entry.moved = [
                    self._encoded(message, content_type, errors, closing=entry.closing)
                    for message in entry.messages
                ]
        return errors

    def _encoded(
        self, early: bytes, content_type: str, errors: list[MessageError], *, closing: bool
    ) -> tuple[Batch, int]:
        try:
            message = early.encode(content_type) if isinstance(early, Unencoded) else early
            batch = self.take_last(message) if closing else self.take(message)
        except MessageError as error:
            error.records = (bytes(early),)
            errors.append(error)
            return Batch([], error=error), 0
        return batch, len(batch.messages) - 1


def batch_bytes(messages: Sequence[bytes], frame_bytes: int) -> int:
    """Return the size of the body that appends these messages."""
    return sum(map(len, messages), frame_bytes * (len(messages) + 1))
