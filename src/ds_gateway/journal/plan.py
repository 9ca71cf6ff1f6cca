"""What one transaction does: decided here in memory, written afterwards in one go.

A plan changes the books as it goes. If its rows cannot be written, the books are read again from the disk.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.book import Portion, Run
from ds_gateway.records import Loss, Record, Rejected, control_tail, element, ledger_stream, loss_tail
from durable_streams import SealedBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.state import State
    from ds_gateway.journal.tally import Tally
    from ds_gateway.records import Item, LossCause

QUARANTINE_MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DELETES: Final = 2_000
"""Segments deleted in one transaction: small transactions keep the write-ahead log small."""


def _refuse_nothing(_stream: str, _size: int) -> str:
    return ""


class Plan:
    """The rows of one transaction, and what it consists of."""

    def __init__(
        self,
        state: State,
        read: Callable[[str], bytes | None],
        *,
        url: str,
        segment_max_bytes: int,
        quarantine_max_bytes: int = QUARANTINE_MAX_BYTES,
        now_ns: Callable[[], int],
    ) -> None:
        self.rows: dict[str, bytes | None] = {}
        self.parts: set[str] = set()
        """Which of A, B and C the transaction carries."""
        self.new_books: list[Book] = []
        self.rejected: list[Rejected] = []
        """What was put into the quarantine."""
        self.losses: list[Loss] = []
        """What was entered into the loss ledger."""
        self.damaged: list[str] = []
        """Rows that did not carry what was written, and were not needed."""
        self._state = state
        self._read_disk = read
        self._url = url
        self._segment_max_bytes = segment_max_bytes
        self._quarantine_max_bytes = quarantine_max_bytes
        self.now_ns = now_ns
        self._touched: dict[int, Book] = {}
        self._announced: set[int] = set()

    @property
    def commit(self) -> int:
        """Number of the transaction."""
        return self._state.counters.commit + 1

    @property
    def touched(self) -> list[Book]:
        """The streams that the transaction changes."""
        return list(self._touched.values())

    def touch(self, book: Book) -> None:
        """The stream's row is to be written."""
        self._touched[book.number] = book

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

    def _refuse(self, record: Record, why: str) -> None:
        book, now_ns = self._book(record.stream), self.now_ns()
        begins = book.refuse("shed_newest", record.device, now_ns, why)
        loss = Loss("shed_newest", certain=True, count=1, first_ns=now_ns, last_ns=now_ns, detail=why)
        self.lose(loss, begins=begins)
        self.touch(book)
        self.parts.add("A")

    def _loss_record(self, loss: Loss) -> Record:
        """A loss of no stream in particular, as a record of the gateway's own."""
        gateway = self._state.identity.gateway
        tail = loss_tail(loss, gateway=gateway, time_ns=self.now_ns())
        return Record(ledger_stream(gateway), loss.device or "@gateway", tail)

    def lose(self, loss: Loss, *, begins: bool = True) -> None:
        """Count a loss; its record is the caller's. ``begins``: it is a new record, not one that counts on."""
        counted = self._state.counters.losses.setdefault(loss.cause, [0, 0])
        counted[0] += begins
        counted[1] += loss.count or 0
        if begins:
            self.losses.append(loss)

    def loss_element(self, book: Book, cause: LossCause, positions: tuple[int, int], *, detail: str = "") -> bytes:
        """Count records of a stream as lost, and return the record that stands for them, at the first position."""
        first, last = positions
        now = self.now_ns()
        loss = Loss(cause, certain=True, count=last - first + 1, first_ns=now, last_ns=now, detail=detail)
        self.lose(loss)
        book.lost_positions += last - first
        tail = loss_tail(loss, gateway=self.gateway, time_ns=now, positions=positions)
        return element(book.record_id(self._state.identity.short_install, first), tail)

    def tally_element(self, book: Book, tally: Tally) -> bytes:
        """The loss record of a tally, at its first position."""
        now_ns = self.now_ns()
        positions = (tally.first_position, tally.last_position)
        tail = loss_tail(tally.loss(now_ns), gateway=self.gateway, time_ns=now_ns, positions=positions)
        return element(self.record_id(book, tally.first_position), tail)

    def write_refused(self, book: Book) -> None:
        """Write the loss record of what was refused, if anything was; it comes before what is accepted next."""
        tally = book.refused
        if tally is None:
            return
        segment = rows.make_segment(tally.first_position, [self.tally_element(book, tally)])
        key = rows.segment_key(book.number, book.next_segment)
        self.rows[key] = row = rows.encode_segment(key, segment)
        book.write_refused(len(row) + rows.ROW_OVERHEAD_BYTES)
        self.touch(book)
        self.parts.add("A")

    def append(self, book: Book, tail: bytes) -> None:
        """Accept one more record of a stream."""
        self._write_segments(book, [element(self.record_id(book, book.next_position), tail)])

    def record_id(self, book: Book, position: int) -> str:
        """Id of a record of this journal."""
        return book.record_id(self._state.identity.short_install, position)

    @property
    def install(self) -> str:
        """What the ids of this journal's records begin with."""
        return self._state.identity.short_install

    @property
    def gateway(self) -> str:
        """The gateway's id."""
        return self._state.identity.gateway

    def _book(self, stream: str) -> Book:
        book = self._state.by_name.get(stream)
        if book is None:
            book = self._state.new_book(stream, self._url)
            self.new_books.append(book)
        return book

    def _render(self, record: Record, elements: dict[int, list[bytes]]) -> None:
        state = self._state
        book = self._book(record.stream)
        rendered = elements.setdefault(book.number, [])
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
        identity = self._state.identity
        tail = control_tail(
            gateway=identity.gateway,
            device=record.device,
            time_ns=self.now_ns(),
            kind="device",
            info=record.about,
        )
        position = book.next_position + len(rendered)
        rendered.append(element(book.record_id(identity.short_install, position), tail))

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

    def quarantine_record(self, book: Book, record: bytes, reason: str) -> None:
        """Keep a record aside that the server refuses."""
        self._quarantine(Rejected(f"stream {book.name}", "", reason, record, self.now_ns()))

    def _quarantine(self, rejected: Rejected) -> None:
        counters = self._state.counters
        key = rows.quarantine_key(counters.quarantine_next)
        row = rows.encode_json(
            key,
            {
                "source": rejected.source,
                "device": rejected.device,
                "reason": rejected.reason,
                "time_ns": rejected.time_ns,
                "raw": rejected.raw.hex(),
            },
        )
        self.rows[key] = row
        self.rejected.append(rejected)
        counters.quarantine_next += 1
        counters.quarantined += 1
        counters.quarantine_size += len(row) + rows.ROW_OVERHEAD_BYTES
        self.trim_quarantine()
        self.parts.add("A")

    def trim_quarantine(self) -> None:
        """Delete the oldest quarantined payloads until what is kept is within its limit.

        That is a loss: counted at once, and entered into the ledger by `tell_quarantine`.
        """
        counters = self._state.counters
        deleted = 0
        while (
            counters.quarantine_size > self._quarantine_max_bytes
            and counters.quarantine_first < counters.quarantine_next
            and deleted < MAX_DELETES
        ):
            key = rows.quarantine_key(counters.quarantine_first)
            old = self.read(key)
            counters.quarantine_size -= len(old or b"") + rows.ROW_OVERHEAD_BYTES
            counters.quarantine_first += 1
            self.rows[key] = None
            deleted += 1
            try:
                time_ns = int(rows.decode_json(key, old or b"")["time_ns"])
            except (JournalDamagedError, KeyError, ValueError):
                time_ns = self.now_ns()
            counters.lose_quarantined(time_ns)

    def keep_quarantine_size(self) -> None:
        """There is no room: what is put aside now pushes the oldest out."""
        self._quarantine_max_bytes = min(self._quarantine_max_bytes, self._state.counters.quarantine_size)

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
        book.unseal()
        return self.seal(book, self._segment_max_bytes, max_records=max_records)

    def segment(self, book: Book, number: int) -> tuple[bytes, rows.Segment]:
        """A segment's row, and what it holds. Raises `JournalDamagedError`."""
        key = rows.segment_key(book.number, number)
        row = self.read(key)
        if row is None:
            raise JournalDamagedError(f"journal row {key} of stream {book.name} is missing")
        segment = rows.decode_segment(key, row)
        if number < book.reborn_segment and segment.count:
            segment = _renamed(book, segment)
        return row, segment

    def position_before(self, book: Book, number: int) -> int:
        """The last position before a segment, as far as that can be told from what is readable behind it."""
        for following in book.numbers(number, book.next_segment):
            try:
                return self.segment(book, following)[1].first_position - 1
            except JournalDamagedError:
                continue
        return book.next_position - 1

    def _write_off(self, book: Book, number: int, first: int) -> None:
        """An open segment cannot be read: say in its place which positions are lost. They were never sent."""
        damaged = [number]
        following = book.after(number)
        while following < book.next_segment and self._is_damaged(book, following):
            damaged.append(following)
            following = book.after(following)
        last = self.position_before(book, following)
        key = rows.segment_key(book.number, number)
        lost = []
        if first <= last:
            lost = [self.loss_element(book, "corrupt", (first, last), detail=f"journal row {key} was damaged")]
            book.open_records -= last - first
        # Nobody knows where one damaged segment ends and the next begins: the first one stands for all.
        for each in damaged:
            key = rows.segment_key(book.number, each)
            self.damaged.append(key)
            segment = rows.make_segment(first, lost) if each == number else rows.make_segment(last + 1, [])
            self.rows[key] = rows.encode_segment(key, segment)
        self.weigh(book)
        self.touch(book)

    def weigh(self, book: Book) -> None:
        """Count the bytes of what is open anew: a row that was damaged does not tell how long it was."""
        book.open_size = self.weight(book, book.open_segment, book.next_segment)

    def weight(self, book: Book, first: int, stop: int) -> int:
        """Bytes of the rows from a segment to before another."""
        found = (self.read(rows.segment_key(book.number, number)) for number in book.numbers(first, stop))
        return sum(len(row) + rows.ROW_OVERHEAD_BYTES for row in found if row is not None)

    def _is_damaged(self, book: Book, number: int) -> bool:
        try:
            self.segment(book, number)
        except JournalDamagedError:
            return True
        return False

    def read(self, key: str) -> bytes | None:
        """A row as the transaction leaves it; None where there is none."""
        return self.rows[key] if key in self.rows else self._read_disk(key)

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

    def kept(self, book: Book, number: int) -> tuple[Run, str] | None:
        """A kept batch, and the offset that it ends before; None where its row is damaged."""
        key = rows.kept_key(book.number, number)
        try:
            row = rows.decode_json(key, self.read(key) or b"")
        except JournalDamagedError:
            return None
        offset = str(row.pop("offset"))
        return Run(**row), offset

    def _trim_unnamed(self, book: Book) -> int:
        """Delete the oldest kept batches whose own rows are damaged; return the number of rows deleted.

        Their segments end where the next batch begins that says so: they are resolved, and only kept for repair.
        """
        end, number = book.unresolved_segment, book.first_kept
        while number < book.next_kept:
            found = self.kept(book, number)
            if found is not None:
                end = found[0].first_segment
                break
            key = rows.kept_key(book.number, number)
            self.damaged.append(key)
            self.rows[key] = None
            number += 1
        size, batches = self.weight(book, book.kept_segment, end), number - book.first_kept
        segments = list(book.numbers(book.kept_segment, end))
        for each in segments:
            self.rows[rows.segment_key(book.number, each)] = None
        book.drop_unnamed(batches, end, size)
        return batches + len(segments)

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

    def forget_announcements(self, book: Book) -> None:
        """A new epoch announces its devices again."""
        if self._state.announced.pop(book.number, None) is not None:
            self._announced.add(book.number)

    # -- the end

    def finish(self) -> dict[str, bytes | None]:
        """The rows of the transaction; empty when there is nothing to commit."""
        for number, book in self._touched.items():
            key = rows.stream_key(number)
            self.rows[key] = rows.encode_json(key, book.to_row())
        for number in self._announced:
            known = self._state.announced.get(number)
            key = rows.announced_key(number)
            self.rows[key] = None if known is None else rows.encode_json(key, dict(known))
        if self.rows:
            self._state.counters.commit += 1
            self.rows[rows.COUNTERS] = rows.encode_json(rows.COUNTERS, asdict(self._state.counters))
        return self.rows


def _batch(book: Book, run: Run, joined: list[bytes]) -> SealedBatch:
    """The same bytes whether a run is sealed now or was sealed by an earlier process."""
    return SealedBatch(book.epoch, run.seq, b"[" + b",".join(joined) + b"]", run.count)


def _renamed(book: Book, segment: rows.Segment) -> rows.Segment:
    """A segment under the incarnations that its positions belong to now."""
    elements = [
        rows.with_incarnation(element, book.incarnation_at(int(record_id.rpartition(".")[2])))
        for element, record_id in zip(segment.elements(), rows.record_ids(segment), strict=True)
    ]
    return rows.make_segment(segment.first_position, elements)
