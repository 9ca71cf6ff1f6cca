"""Appends of one handle that wait for their turn: one POST is under way, the next takes all that wait.

Pure bookkeeping: who waits, what goes together, who is told what. The fronts own the locks and the requests.
Only appends without ``Stream-Seq`` go together, because each of the others has a number of its own.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_streams._answers import in_doubt
from durable_streams.errors import BadRequestError, DurableStreamError, FetchError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_streams._types import AppendResult

MAX_JOINED_BYTES: Final = 1024 * 1024
"""Appends are joined up to this size; the limit of many a proxy."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One append until it is settled."""

    message: bytes
    seq: str | None
    alone: bool
    """Sent by itself: it has a seq, joining is off, or its batch was refused and only the guilty shall be told."""
    told: Callable[[], object] | None = None
    """Called once it is settled."""
    wanted: bool = True
    """False: whoever waited for it has gone."""
    result: AppendResult | None = None
    error: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None

    def outcome(self) -> AppendResult:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.result is not None, "only after it is settled"
        return self.result


def own_error(error: Exception) -> Exception:
    """Return an exception that one waiter may raise: raised in two places, it would mix up its tracebacks."""
    if not isinstance(error, DurableStreamError):
        return error  # somebody else's, who may not have meant it to be copied
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    if notes := getattr(error, "__notes__", None):
        twin.__notes__ = list(notes)
    return twin


def as_error(error: BaseException) -> Exception:
    """Return what the others of a batch are told when its sender was interrupted or cancelled."""
    if isinstance(error, Exception):
        return error
    interrupted = FetchError(f"the append was interrupted ({type(error).__name__})")
    return in_doubt(interrupted, "It may have been stored.")


class AppendQueue:
    """Appends in order of arrival. ``joining``: those that wait at the same time go together."""

    def __init__(self, *, joining: bool) -> None:
        self._joining = joining
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()  # leaving is as cheap as joining

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, message: bytes, seq: str | None, told: Callable[[], object] | None = None) -> Waiting:
        """Queue one append."""
        entry = Waiting(message, seq, alone=seq is not None or not self._joining, told=told)
        self._waiting[entry] = None
        return entry

    def leave(self, entry: Waiting) -> None:
        """Give up one append. Without effect if it is under way or settled: then it may be stored."""
        entry.wanted = False
        self._waiting.pop(entry, None)

    def take(self) -> Sequence[Waiting]:
        """Remove and return what goes into the next POST."""
        batch: list[Waiting] = []
        size = 0
        while self._waiting:
            entry = next(iter(self._waiting))
            size += len(entry.message)
            if batch and (entry.alone or size > MAX_JOINED_BYTES):
                break
            del self._waiting[entry]
            batch.append(entry)
            if entry.alone:
                break
        return batch

    def settle(self, batch: Sequence[Waiting], outcome: AppendResult | Exception) -> None:
        """Tell a batch what became of it. What was refused as a whole is queued again, one by one, in front."""
        if isinstance(outcome, BadRequestError | PayloadTooLargeError) and len(batch) > 1:
            for entry in reversed(batch):
                if entry.wanted:
                    entry.alone = True
                    self._waiting[entry] = None
                    self._waiting.move_to_end(entry, last=False)
            return
        for entry in batch:
            if entry.settled:
                continue  # whoever tells them was interrupted, and begins again
            if isinstance(outcome, Exception):
                entry.error = own_error(outcome)
            else:
                entry.result = outcome
            if entry.told is not None:
                entry.told()
