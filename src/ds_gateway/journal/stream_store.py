"""One stream of the journal, as the store that a durable producer pulls from."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

import orjson

from ds_gateway.journal import repair
from ds_gateway.journal.finder import IdFinder
from ds_gateway.journal.requests import Change, Demand, Resolution
from ds_gateway.journal.rows import position_of
from ds_gateway.journal.skipping import Skipped, and_these, front, skip, write_file
from ds_gateway.journal.state import random_letters
from ds_gateway.journal.survey import JournalSurvey
from ds_gateway.records import control_tail, element
from durable_streams import ProducerState, SealedBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.writer import Writer
    from durable_streams import Survey


class StreamStore:
    """A `durable_streams.RepairStore` over one stream. Used on the event loop."""

    def __init__(self, writer: Writer, stream: int, *, birth: Mapping[str, object]) -> None:
        self._writer = writer
        self._stream = stream
        self._birth = dict(birth)

    @property
    def _book(self) -> Book:
        # Looked up each time: after a rolled back transaction the books are new objects.
        return self._writer.state.books[self._stream]

    @property
    def name(self) -> str:
        """What the stream is called at the server."""
        return self._book.name

    async def load(self) -> ProducerState:
        """Return what the journal knows of the stream's producer."""
        # What an earlier producer resolved may not be committed yet, and its batch is not to be waited for.
        await self._change(lambda _book, _plan: None)
        book = self._book
        if book.repairing:
            return self._state(book, None)
        batch = await self._demand(0) if book.sealed is not None else None
        return self._state(self._book, batch)

    def _state(self, book: Book, batch: SealedBatch | None) -> ProducerState:
        settings = self._writer.settings
        # One producer for every journal with this gateway's id: a claim stops whoever else executes commands.
        is_shared = book.title == settings.receipts
        return ProducerState(
            producer_id=settings.gateway if is_shared else book.producer_id,
            epoch=book.epoch,
            claimed=book.claimed,
            anchor=book.anchor,
            resolved_seq=book.resolved_seq,
            batch=batch,
            repairing=book.repairing,
        )

    async def save_anchor(self, offset: str) -> None:
        """Commit the first anchor."""

        def apply(book: Book, plan: Plan) -> None:
            book.anchor = book.kept_anchor = offset
            plan.touch(book)

        await self._change(apply)

    async def save_epoch(self, epoch: int) -> None:
        """Commit a new epoch; its devices are announced again."""

        def apply(book: Book, plan: Plan) -> None:
            book.begin_epoch(epoch)
            plan.forget_announcements(book)
            plan.touch(book)

        await self._change(apply)

    async def save_claim(self, epoch: int) -> None:
        """Commit that the claim was confirmed."""

        def apply(book: Book, plan: Plan) -> None:
            book.confirm_claim(epoch)
            plan.clock_said(book)  # so that a clock record follows the birth record
            plan.touch(book)

        await self._change(apply)

    async def begin_repair(self, epoch: int) -> None:
        """Commit a new epoch under which everything is to be read back; devices are announced again."""

        def apply(book: Book, plan: Plan) -> None:
            if book.high_water < book.own_position and not book.imported:
                # Nothing was ever sealed. A later self of a journal that was rolled back may have sent what is
                # open, before the anchor.
                book.kept_anchor = None
            book.begin_repair(epoch)
            plan.forget_announcements(book)
            plan.touch(book)

        await self._change(apply)

    async def mark_for_repair(self) -> None:
        """Commit that everything is to be read back: the sealed batch cannot be read here any more."""
        await self.begin_repair(self._book.epoch + 1)

    async def begin_survey(self) -> JournalSurvey:
        """Return what is to be looked for, as of now; nothing is sealed while a repair is going on."""
        expecting, expected, anchor = repair.Expecting(), None, None

        def apply(book: Book, plan: Plan) -> None:
            nonlocal expected, anchor
            expected, anchor = expecting.take(plan, book), book.kept_anchor

        while expected is None:
            await self._change(apply)
        return JournalSurvey(anchor, expected)

    async def save_repair(self, survey: Survey, end: str, *, adopt: bool) -> None:
        """Commit what the survey found."""
        assert isinstance(survey, JournalSurvey), "the survey that begin_survey made"
        found = survey

        def apply(book: Book, plan: Plan) -> None:
            repair.apply(plan, book, found, end, adopt=adopt)

        await self._change(apply)

    async def reseal(self, max_records: int) -> SealedBatch:
        """Seal the first records of the sealed batch under its number."""

        def apply(book: Book, plan: Plan) -> None:
            plan.reseal(book, max_records)

        await self._change(apply)
        return await self._demand(0)

    async def set_aside(self, reason: str) -> SealedBatch:
        """Put the sealed batch's one record into the quarantine, and a loss record in its place."""

        def apply(book: Book, plan: Plan) -> None:
            # A loss record is left as it is: whoever asks again and again finds that out.
            repair.set_aside(plan, book, reason)

        await self._change(apply)
        return await self._demand(0)

    async def skip_to(self, position: int | None) -> Skipped:
        """Set what is before a position aside in a file, or all there is now; begin a new epoch behind it.

        Whether a batch that was sealed is in the stream is not known then; the loss record covers it. Nothing
        leaves the journal before it is in the file. Raises `JournalError` when that cannot be written; what was
        done before stays done.
        """
        end = self._book.next_position
        before = end if position is None else min(position, end)
        skipped = Skipped()
        while records := await self._front(before):
            path = await asyncio.to_thread(write_file, self._writer.directory, self._stream, records, skipped)
            skipped = and_these(skipped, records, path)
            through = position_of(records[-1])
            await self._change(lambda book, plan, through=through: skip(plan, book, through))  # type: ignore[misc]
        return skipped

    async def _front(self, before_position: int) -> list[bytes]:
        """The oldest records that are waiting before a position."""
        records: list[bytes] = []

        def apply(book: Book, plan: Plan) -> None:
            nonlocal records
            records = front(plan, book, before_position)

        await self._change(apply)
        return records

    async def move(self, url: str, *, give_up: bool = False) -> bool:
        """Commit that the stream goes on at another server; False while a batch is unresolved at the old one.

        Whatever was resolved before this call counts: it is in the same transaction, or an earlier one.
        ``give_up``: the unresolved batch counts as never sent, and is sent to the new server.
        """
        moved = False

        def apply(book: Book, plan: Plan) -> None:
            nonlocal moved
            moved = plan.move(book, url, give_up=give_up)

        await self._change(apply)
        return moved

    async def next_batch(self, max_bytes: int) -> SealedBatch:
        """Wait for the next sealed batch; durable on return."""
        return await self._demand(max_bytes)

    async def resolve(self, batch: SealedBatch, offset: str) -> None:
        """Tell the writer; it commits this with whatever comes next, at the latest after a second.

        A crash before that costs a look into the stream, nothing else: the sealed batch is still there, and the
        read-back finds it.
        """
        self._writer.submit(Resolution(self._stream, batch.seq, offset))

    async def drained(self) -> None:
        """Wait until everything accepted is known to be in the stream."""
        while self.pending_count:  # noqa: ASYNC110 - a counter of the writer's thread has no event
            await asyncio.sleep(0.02)

    @property
    def pending_count(self) -> int:
        """Records accepted and not known to be in the stream."""
        return self._book.unresolved_records

    def claim_body(self, epoch: int) -> bytes:
        """Return a fresh ``birth`` record, alone in its batch."""
        return self._control("birth", epoch)

    def probe_body(self) -> bytes:
        """Return a fresh ``probe`` record."""
        return self._control("probe", self._book.epoch)

    def _control(self, kind: str, epoch: int) -> bytes:
        tail = control_tail(
            gateway=self._writer.state.identity.gateway,
            device="@gateway",
            time_ns=time.time_ns(),
            kind=kind,
            info=orjson.dumps({**self._birth, **self._import, "epoch": epoch}),
            clock=self._writer.wall_clock.stamp()[1],
            envelope=self._writer.state.envelope,
        )
        return b"[" + element(f"b.{epoch}.{random_letters(16)}", tail) + b"]"

    @property
    def _import(self) -> dict[str, str]:
        return {"import": self._book.imported} if self._book.imported else {}

    def finder(self, batch: SealedBatch) -> IdFinder:
        """Return a finder for the sealed batch."""
        book = self._book
        assert book.sealed is not None and book.sealed.seq == batch.seq, "only the sealed batch is looked for"  # noqa: PT018
        # What is sealed is sent under the present incarnation, whatever came before it.
        install = book.install or self._writer.state.identity.short_install
        prefix = f"{install}.{book.incarnation}."
        return IdFinder(prefix, batch.body, book.high_water, book.moved, is_import=bool(book.imported))

    async def _change(self, apply: Callable[[Book, Plan], None]) -> None:
        done: Future[None] = Future()
        self._writer.submit(Change(self._stream, apply, done))
        await asyncio.wrap_future(done)

    async def _demand(self, max_bytes: int) -> SealedBatch:
        batch: Future[SealedBatch] = Future()
        self._writer.submit(Demand(self._stream, max_bytes, batch))
        return await asyncio.wrap_future(batch)
