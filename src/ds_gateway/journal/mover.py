"""Moves records out of an open journal, and into it: what `moving` decides, by the writer's hand. Blocks."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalError
from ds_gateway.journal import moving
from ds_gateway.journal.requests import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.moving import Incoming
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.writer import Writer

COMMIT_SECONDS: Final = 30.0


class Mover:
    """Each call returns once it is committed. Raises `JournalError`: it is closed, full, or damaged."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def mark(self, export: str, wanted: Callable[[Book], bool]) -> None:
        """See `moving.mark`."""
        self._do(lambda plan: moving.mark(plan, export, wanted))

    def take_back(self, export: str) -> list[str]:
        """See `moving.take_back`."""
        late: list[str] = []
        self._do(lambda plan: late.extend(moving.take_back(plan, export)))
        return late

    def end(self, export: str) -> None:
        """See `moving.end`."""
        self._do(lambda plan: moving.end(plan, export))

    def finish(self, export: str) -> None:
        """It is whole in its file: forget it here."""
        self._do(lambda plan: moving.written(plan, export))
        more = True

        def delete(plan: Plan) -> None:
            nonlocal more
            marked = [book for book in plan.books() if book.exporting is not None and book.exporting.id == export]
            more = bool(marked) and (moving.delete(plan, marked[0]) or len(marked) > 1)

        while more:
            self._do(delete)

    def begin_import(self, export: str, streams: Sequence[Incoming]) -> None:
        """See `moving.begin_import`."""

        def begin(plan: Plan) -> None:
            for each in streams:
                moving.begin_import(plan, export, each)

        self._do(begin)

    def take_in(self, title: str, elements: Sequence[bytes]) -> None:
        """See `moving.take_in`."""

        def take(plan: Plan) -> None:
            book = plan.book_named(title)
            if book is not None and book.importing:
                moving.take_in(plan, book, elements, self._writer.settings.batch_max_bytes)

        self._do(take)

    def give_up_imports(self) -> None:
        """See `moving.give_up`: for every half import."""
        more = True

        def give_up(plan: Plan) -> None:
            nonlocal more
            half = [book for book in plan.books() if book.importing and book.open_records]
            more = bool(half) and (moving.give_up(plan, half[0]) or len(half) > 1)

        while more:
            self._do(give_up)

    def finish_import(self, export: str, streams: Sequence[Incoming]) -> None:
        """See `moving.finish_import`."""

        def finish(plan: Plan) -> None:
            for each in streams:
                book = plan.book_named(moving.title(each, export))
                if book is not None and book.importing:
                    moving.finish_import(plan, book, each)

        self._do(finish)

    def books(self) -> list[Book]:
        """The streams as the writer has them; to be looked at only."""
        return list(self._writer.state.books.values())

    @property
    def install(self) -> str:
        """What ids of this journal's records begin with."""
        return self._writer.state.identity.short_install

    def room_left(self) -> int:
        """Bytes of room for records. Roughly: others may be taking it."""
        return self._writer.committed.room

    def now_ns(self) -> int:
        """The time now."""
        return time.time_ns()

    def _do(self, apply: Callable[[Plan], object]) -> None:
        done: Future[None] = Future()

        def task(plan: Plan) -> None:
            apply(plan)

        self._writer.submit(Task(task, done))
        try:
            done.result(COMMIT_SECONDS)
        except TimeoutError:
            raise JournalError(
                f"the journal committed nothing within {COMMIT_SECONDS:g} s: its disk is full or slow (see "
                "ds-gateway status); try again then"
            ) from None
