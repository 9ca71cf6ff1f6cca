"""Appends of one handle that wait for their turn: one POST is under way, the next takes all that wait.

Pure bookkeeping: who waits, what goes together, who is told what. The fronts own the locks and the requests.
Only appends without ``Stream-Seq`` go together, because each of the others has a number of its own.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_streams.errors import BadRequestError, DurableStreamError, FetchError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_streams._types import AppendResult

MAX_JOINED_BYTES: Final = 1024 * 1024
"""Appends are joined up to this size; the limit of many a proxy."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One append until it is settled."""

    message: bytes
    seq: str | None
    alone: bool = False
    """Sent by itself: it was in a batch that was refused, and only the guilty one shall be told so."""
    result: AppendResult | None = None
    error: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None


def own_error(error: Exception) -> Exception:
    """Return an exception that one waiter may raise: raised in two places, it would mix up its tracebacks."""
    if not isinstance(error, DurableStreamError):
        return error  # somebody else's, who may not have meant it to be copied
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def as_error(error: BaseException) -> Exception:
    """Return what the others of a batch are told when its sender was interrupted or cancelled."""
    if isinstance(error, Exception):
        return error
    return FetchError(f"the append was interrupted ({type(error).__name__}) and may have been stored")


class AppendQueue:
    """Appends in order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, message: bytes, seq: str | None) -> Waiting:
        """Queue one append."""
        entry = Waiting(message, seq)
        self._waiting.append(entry)
        return entry

    def leave(self, entry: Waiting) -> None:
        """Give up one append. Without effect if it is under way or settled: then it may be stored."""
        if entry in self._waiting:
            self._waiting.remove(entry)

    def take(self) -> Sequence[Waiting]:
        """Remove and return what goes into the next POST."""
        batch: list[Waiting] = []
        size = 0
        while self._waiting:
            entry = self._waiting[0]
            by_itself = entry.seq is not None or entry.alone
            size += len(entry.message)
            if batch and (by_itself or size > MAX_JOINED_BYTES):
                break
            batch.append(self._waiting.popleft())
            if by_itself:
                break
        return batch

    def succeed(self, batch: Sequence[Waiting], result: AppendResult) -> None:
        """Tell all of a batch that it is stored."""
        for entry in batch:
            entry.result = result

    def fail(self, batch: Sequence[Waiting], error: Exception) -> None:
        """Tell a batch that it failed. What was refused as a whole is queued again, one by one, in front."""
        if len(batch) > 1 and isinstance(error, BadRequestError | PayloadTooLargeError):
            for entry in batch:
                entry.alone = True
            self._waiting.extendleft(reversed(batch))
            return
        for entry in batch:
            entry.error = own_error(error)
