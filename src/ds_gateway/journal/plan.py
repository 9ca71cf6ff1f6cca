"""What one transaction does: decided here in memory, written afterwards in one go.

A plan changes the books as it goes. If its rows cannot be written, the books are read again from the disk.

    Transaction   the rows, and what is there
    Losing        what is refused, put aside or damaged
    Plan          A, B and C of the writer
"""

from __future__ import annotations

import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import clocks, rows
from ds_gateway.journal.book import Portion, Run
from ds_gateway.journal.losing import Losing
from ds_gateway.journal.transaction import MAX_DELETES
from ds_gateway.records import Loss, Record, Rejected, Retried, control_tail, element
from durable_streams import SealedBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ds_gateway.journal.book import Book
    from ds_gateway.records import ClockState, Item


def _refuse_nothing(_stream: str, _size: int) -> str:
    return ""


class Plan(Losing):
    """What one transaction does."""

    # -- A: accept

    def accept(self, items: Iterable[Item], refusal: Callable[[str, int], str] = _refuse_nothing) -> None:
        """Give records their positions and final bytes; keep what was rejected aside.

        ``refusal`` says why a record of a stream, of about so many bytes, finds no room: it is only counted then.
        Once it refuses one of a stream's it refuses the rest.
        """
        elements: dict[int, list[bytes]] = {}
        refused: list[tuple[Record, str]] = []
        for item in items:
            match item.payload:
                case Record() as record:
                    pass
                case Rejected() as rejected:
                    self._quarantine(rejected)
                    continue
                case Retried() as retried:
                    accepted = self.retry(retried, refusal)
                    if accepted is not None:
                        self._render(accepted, elements)
                    continue
                case Loss() as loss:
                    self.lose(loss)
                    record = self._loss_record(loss)
                case None:
                    continue
            if why := refusal(record.stream, len(record.tail)):
                refused.append((record, why))
            else:
                self._render(record, elements)
        for number, rendered in elements.items():
            self._write_segments(self._state.books[number], rendered)
        for record, why in refused:
            self._refuse(record, why)

    def append(self, book: Book, tail: bytes) -> None:
        """Accept one more record of a stream."""
        self._write_segments(book, [element(self.record_id(book, book.next_position), tail)])

    def tell_quarantine(self) -> None:
        """Enter into the ledger what the quarantine deleted since the last time."""
        counters = self._state.counters
        count, first_ns, last_ns = counters.quarantine_untold
        detail = "the oldest payloads in the quarantine gave way to newer ones"
        loss = Loss("quarantined", certain=True, count=count, first_ns=first_ns, last_ns=last_ns, detail=detail)
        counters.quarantine_untold = [0, 0, 0]
        counters.losses["quarantined"][0] += 1
        self.losses.append(loss)
        record = self._loss_record(loss)
        self.append(self._book(record.stream), record.tail)

    def _render(self, record: Record, elements: dict[int, list[bytes]]) -> None:
        state = self._state
        book = self._book(record.stream)
        rendered = elements.setdefault(book.number, [])
        if record.clock is not None and self._followed.get(book.number) is not record.clock:
            self._follow(book, record.clock, rendered)
        if record.about:
            self._announce(book, record, rendered)
        position = book.next_position + len(rendered)
        rendered.append(element(book.record_id(state.identity.short_install, position), record.tail))

    def _announce(self, book: Book, record: Record, rendered: list[bytes]) -> None:
        known = self._state.announced.setdefault(book.number, {})
        checksum = zlib.crc32(record.about)
        if known.get(record.device) == checksum:
            return
        known[record.device] = checksum
        self._announced.add(book.number)
        tail = self._control(book, "device", record.about, device=record.device)
        rendered.append(element(self.record_id(book, book.next_position + len(rendered)), tail))

    def _control(self, book: Book, kind: str, info: bytes, *, device: str = "@gateway") -> bytes:
        said, now_ns = self.clock_said(book), self.now_ns()
        return control_tail(
            gateway=self.gateway,
            device=device,
            time_ns=now_ns,
            kind=kind,
            info=info,
            clock=said,
            envelope=self.envelope,
        )

    # -- the clock

    def _follow(self, book: Book, clock: ClockState, rendered: list[bytes]) -> None:
        self._followed[book.number] = clock
        if clocks.note(book, clock):
            tail = self._control(book, "clock", clocks.tell(book, clock))
            rendered.append(element(self.record_id(book, book.next_position + len(rendered)), tail))

    def tell_clock(self, book: Book, clock: ClockState) -> None:
        """Let a clock record follow the records that were stamped by a clock that was not synchronised.

        Not yet where this transaction has brought more of them: there may be others behind.
        """
        followed = self._followed.get(book.number)
        if followed is not None and not followed.is_synchronised:
            return
        for boot in clocks.untold(book, clock):
            info = clocks.tell(book, clock) if boot == clock.boot else clocks.tell_ended(book, boot)
            self.append(book, self._control(book, "clock", info))

    def owe_clock(self, owing: Book) -> None:
        """Let a stream be told what a damaged journal, whose book of it that is, has not told it."""
        book = self._book(owing.name)
        clocks.owe(book, owing)
        self.touch(book)

    def _write_segments(self, book: Book, rendered: list[bytes]) -> None:
        self.write_refused(book)
        start = 0
        while start < len(rendered):
            end, size = start, 2
            while end < len(rendered) and (end == start or size + len(rendered[end]) <= self._segment_max_bytes):
                size += len(rendered[end]) + 1
                end += 1
            segment = rows.make_segment(book.next_position, rendered[start:end])
            key = rows.segment_key(book.number, book.next_segment)
            self.rows[key] = row = rows.encode_segment(key, segment)
            book.accept(segment.count, len(row) + rows.ROW_OVERHEAD_BYTES)
            start = end
        self.touch(book)
        self.parts.add("A")

    def gate(self, source: str, changes: Mapping[str, bytes | None]) -> None:
        """Carry a gate's rows."""
        for name, value in changes.items():
            key = rows.gate_key(source, name)
            self.rows[key] = None if value is None else rows.protect(key, value)

    # -- B: seal

    def seal(self, book: Book, max_bytes: int, *, max_records: int | None = None) -> SealedBatch:
        """Seal as many of the oldest open segments as fit; at least one.

        ``max_records`` is for a batch that was refused: it may end within a segment.
        """
        joined: list[bytes] = []
        size, length, count = 0, 1, 0
        first = last = last_number = 0
        number, skip, end = book.open_segment, book.open_skip, None
        while number < book.next_segment and end is None:
            try:
                row, segment = self.segment(book, number)
            except JournalDamagedError:
                self._write_off(book, number, max(book.open_position, last + 1))
                row, segment = self.segment(book, number)
            if max_records is not None and segment.count - skip > max_records - count:
                end = skip + max_records - count
            part = segment.part(skip, end)
            if joined and (end == skip or length + len(part) + 1 > max_bytes):
                end = None
                break
            if segment.count > skip:
                joined.append(part)
                length += len(part) + 1
                count += (segment.count if end is None else end) - skip
                last = segment.last_position((segment.count if end is None else end) - 1)
                first = first or segment.position(skip)
            if end is None:
                size += len(row) + rows.ROW_OVERHEAD_BYTES
            last_number, number, skip = number, book.after(number), 0
        run = book.seal(Portion(last_number, end, first, last, count, size))
        self.touch(book)
        self.parts.add("B")
        return _batch(book, run, joined)

    def sealed_batch(self, book: Book) -> SealedBatch | None:
        """The batch that was sealed before and is not resolved, with the same bytes."""
        run = book.sealed
        if run is None:
            return None
        joined: list[bytes] = []
        for number in book.numbers(run.first_segment, run.last_segment + 1):
            segment = self.segment(book, number)[1]
            skip = run.first_skip if number == run.first_segment else 0
            end = run.last_end if number == run.last_segment else None
            if segment.count > skip:
                joined.append(segment.part(skip, end))
        return _batch(book, run, joined)

    def reseal(self, book: Book, max_records: int) -> SealedBatch:
        """Seal a smaller batch under the same number. Only for one that the server provably refused."""
        assert book.sealed is not None, "there is a batch"
        most = min(max_records, book.sealed.count)  # never with what came since
        book.unseal()
        return self.seal(book, self._segment_max_bytes, max_records=most)

    # -- C: resolve and trim

    def resolve(self, book: Book, seq: int, offset: str) -> None:
        """The batch with this number is in the stream; keep it for repair."""
        if book.sealed is None or book.sealed.seq != seq:
            return  # resolved before: the same answer was told twice
        number, run = book.resolve(offset)
        key = rows.kept_key(book.number, number)
        self.rows[key] = rows.encode_json(key, {**asdict(run), "offset": offset})
        self.touch(book)
        self.parts.add("C")

    def trim(self, book: Book, keep_bytes: int) -> bool:
        """Delete the oldest kept batches until ``keep_bytes`` are kept, a bounded number of rows at a time.

        Return whether anything was deleted. Nothing is during a repair: it may be about to be sent again.
        """
        if book.repairing:
            return False
        deleted = 0
        while book.kept_size > keep_bytes and book.first_kept < book.next_kept and deleted < MAX_DELETES:
            key = rows.kept_key(book.number, book.first_kept)
            found = self.kept(book, book.first_kept)
            if found is None:
                deleted += self._trim_unnamed(book)
                continue
            run, offset = found
            for number in book.numbers(book.kept_segment, run.last_whole + 1):
                self.rows[rows.segment_key(book.number, number)] = None
                deleted += 1
            book.drop_kept(run.last_whole, run.size, offset)
            self.rows[key] = None
        if deleted:
            self.touch(book)
            self.parts.add("C")
        return deleted > 0

    def move(self, book: Book, url: str, *, give_up: bool) -> bool:
        """Let the stream begin at another server; False, and nothing is changed, while a batch is unresolved.

        ``give_up``: the unresolved batch counts as never sent. What is kept for repair stays the old server's: it
        is trimmed as always, and never sent.
        """
        if give_up:
            book.unseal()
        if not book.move_to(url):
            return False
        self.forget_announcements(book)
        self.touch(book)
        self.parts.add("C")
        return True


def _batch(book: Book, run: Run, joined: list[bytes]) -> SealedBatch:
    """The same bytes whether a run is sealed now or was sealed by an earlier process."""
    return SealedBatch(book.epoch, run.seq, b"[" + b",".join(joined) + b"]", run.count)
