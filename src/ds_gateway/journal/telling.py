"""What the writer tells after a commit, and only then: to other threads, the log, the sources and the uplinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal.snapshot import StreamSnapshot
from ds_gateway.logs import event, logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.intake import Intake
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.requests import Change, Demand, Resolution, Task
    from ds_gateway.journal.room import Room
    from ds_gateway.journal.state import State
    from ds_gateway.records import Item
    from durable_streams import SealedBatch

_log = logger("journal")

MAX_REJECTED_TOLD: Final = 10
"""Rejected payloads that one commit tells of; repeats of the same text are counted by the log itself."""


class Committed:
    """The journal as the last commit left it: what may be told to anybody. Read in any thread."""

    def __init__(self, state: State, room: Room) -> None:
        self.streams = {book.number: StreamSnapshot.of(book) for book in state.books.values()}
        """Each stream as it was after the last commit that changed it."""
        self.confirmed: dict[int, int] = {}
        """The last position of a stream that the server confirmed; that need not be committed yet."""
        self._room = room
        self.take((), state)

    def take(self, touched: Iterable[Book], state: State) -> None:
        """Take note of a commit that changed these streams. Writer thread."""
        for book in touched:
            self.streams[book.number] = StreamSnapshot.of(book)
        self.quarantined = state.counters.quarantined
        self.losses = {cause: (entries, count) for cause, (entries, count) in state.counters.losses.items()}
        self.receipt_room = self._room.receipts_left(state)
        self.room = self._room.left(state)

    def confirm(self, resolution: Resolution) -> None:
        """A batch is in its stream. Any thread, under the writer's lock."""
        sent = self.streams.get(resolution.stream)
        if sent is not None and sent.in_flight_seq == resolution.seq:
            self.confirmed[resolution.stream] = sent.sealed

    def by_name(self, stream: str) -> StreamSnapshot | None:
        """A stream after the last commit that changed it; None before its first record is committed."""
        return next((each for each in list(self.streams.values()) if each.name == stream), None)


def log(plan: Plan) -> None:
    """Log what was put aside, lost or damaged."""
    for rejected in plan.rejected[:MAX_REJECTED_TOLD]:
        event(
            _log,
            "warning",
            "journal.quarantined",
            source=rejected.source,
            device=rejected.device,
            reason=rejected.reason,
        )
    for loss in plan.losses[:MAX_REJECTED_TOLD]:
        event(
            _log,
            "error" if loss.cause.startswith("shed") else "warning",
            "journal.loss",
            cause=loss.cause,
            count=loss.count,
            certain=loss.certain,
            source=loss.source,
            device=loss.device,
            detail=loss.detail,
        )
    for key in plan.damaged:
        event(_log, "error", "journal.row.damaged", row=key)


def tell_sources(taken: Sequence[tuple[Intake, list[Item]]], commit: int) -> None:
    """Tell the sources that their items are committed: they acknowledge now."""
    for intake, items in taken:
        if intake.on_committed is not None:
            intake.on_committed(items, commit)
    for intake, items in taken:
        intake.settle(items)


def answer_changes(changes: Sequence[Change | Task], failed: Mapping[int, JournalDamagedError]) -> None:
    """Tell the uplinks that their changes are made, or, by their place, that they have failed."""
    for place, change in enumerate(changes):
        if not change.done.set_running_or_notify_cancel():
            continue
        if place in failed:
            change.done.set_exception(failed[place])
        else:
            change.done.set_result(None)


def answer_demand(demand: Demand, batch: SealedBatch | JournalDamagedError) -> None:
    """Hand out a batch: it is sent now."""
    if not demand.batch.set_running_or_notify_cancel():
        return
    if isinstance(batch, JournalDamagedError):
        demand.batch.set_exception(batch)
    else:
        demand.batch.set_result(batch)
