"""Appends of one handle that wait for their turn: one POST is under way, the next takes all that wait.

Pure bookkeeping: who waits, what goes together, who is told what. The fronts own the locks and the requests.
Only appends without ``Stream-Seq`` go together, because each of the others has a number of its own.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from durable_streams._answers import in_doubt
from durable_streams.errors import (
    BadRequestError,
    DurableStreamError,
    FetchError,
    MessageError,
    PayloadTooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_streams._types import AppendResult

MAX_JOINED_BYTES: Final = 1024 * 1024
"""Appends are joined up to this size; the limit of many a proxy."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One append until it is settled."""

    data: Any
    message: bytes | None
    """The encoded data; None as long as the stream's content type is unknown."""
    seq: str | None
    alone: bool = False
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
    return error if isinstance(error, Exception) else interrupted(sent=True)


def interrupted(*, sent: bool) -> DurableStreamError:
    """Return what those are told whose sender was interrupted. ``sent``: their request was under way."""
    error = FetchError("the append was interrupted")
    return in_doubt(error, "It may have been stored.") if sent else error


def _refused(outcome: AppendResult | Exception) -> bool:
    """Whether the server looked at what was appended, and did not like it: one message may be guilty."""
    return isinstance(outcome, BadRequestError | PayloadTooLargeError) or (
        isinstance(outcome, DurableStreamError) and outcome.status == 422
    )


class AppendQueue:
    """Appends in order of arrival. ``joining``: those that wait at the same time go together."""

    def __init__(self, *, joining: bool) -> None:
        self._joining = joining
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()  # leaving is as cheap as joining
        self.undecided = False
        """Whether some of them must be encoded before they can be taken."""

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, entry: Waiting) -> None:
        """Queue one append."""
        entry.alone = entry.alone or entry.seq is not None or not self._joining
        self.undecided = self.undecided or entry.message is None
        self._waiting[entry] = None

    def encode(self, encode: Callable[[Any], bytes]) -> None:
        """Encode what was queued before it was known how. What cannot be encoded fails by itself."""
        self.undecided = False
        for entry in [entry for entry in self._waiting if entry.message is None]:
            try:
                entry.message = encode(entry.data)
            except MessageError as error:
                self.settle([entry], error)

    def leave(self, entry: Waiting) -> None:
        """Give up one append. Without effect if it is under way or settled: then it may be stored."""
        entry.wanted = False
        self._waiting.pop(entry, None)

    def take(self, batch: list[Waiting]) -> None:
        """Move what goes into the next POST to the empty ``batch``.

        It is the caller's, so that an interruption at any point leaves every entry where somebody finds it: here,
        there, or in both.
        """
        size = 0
        while self._waiting:
            entry = next(iter(self._waiting))
            size += len(entry.message or b"")
            if batch and (entry.alone or size > MAX_JOINED_BYTES):
                break
            batch.append(entry)
            del self._waiting[entry]
            if entry.alone:
                break

    def take_all(self, batch: list[Waiting]) -> None:
        """Add everything that waits to ``batch``, to be told the same."""
        batch.extend(self._waiting)
        self._waiting.clear()
        self.undecided = False

    def settle(self, batch: Sequence[Waiting], outcome: AppendResult | Exception) -> None:
        """Tell a batch what became of it. What was refused as a whole is queued again, one by one, in front."""
        if _refused(outcome) and len(batch) > 1:
            for entry in reversed(batch):
                if entry.wanted:
                    entry.alone = True
                    self._waiting[entry] = None
                    self._waiting.move_to_end(entry, last=False)
            return
        for entry in batch:
            self._waiting.pop(entry, None)
            if entry.settled:
                continue  # whoever tells them was interrupted, and begins again
            if isinstance(outcome, Exception):
                entry.error = own_error(outcome)
            else:
                entry.result = outcome
            if entry.told is not None:
                entry.told()
