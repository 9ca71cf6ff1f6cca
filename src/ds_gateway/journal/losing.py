"""What a transaction does for records that are lost: refused, put aside, or damaged.

Each is counted and leaves a record in its place, or, where it belongs to no stream, in the loss ledger's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.quarantine import Retrying, encode
from ds_gateway.journal.transaction import MAX_DELETES
from ds_gateway.records import Loss, Record, Rejected, element, ledger_stream, loss_tail

if TYPE_CHECKING:
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.tally import Tally
    from ds_gateway.records import LossCause


class Losing(Retrying):
    """The losses of one transaction."""

    # -- the ledger

    def lose(self, loss: Loss, *, begins: bool = True) -> None:
        """Count a loss; its record is the caller's. ``begins``: it is a new record, not one that counts on."""
        counted = self._state.counters.losses.setdefault(loss.cause, [0, 0])
        counted[0] += begins
        counted[1] += loss.count or 0
        if begins:
            self.losses.append(loss)

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
        said = self.clock_said(self._book(ledger_stream(gateway)))
        tail = loss_tail(loss, gateway=gateway, time_ns=self.now_ns(), clock=said, envelope=self.envelope)
        return Record(ledger_stream(gateway), loss.device or "@gateway", tail)

    def loss_element(self, book: Book, cause: LossCause, positions: tuple[int, int], *, detail: str = "") -> bytes:
        """Count records of a stream as lost, and return the record that stands for them, at the first position."""
        first, last = positions
        now = self.now_ns()
        loss = Loss(cause, certain=True, count=last - first + 1, first_ns=now, last_ns=now, detail=detail)
        self.lose(loss)
        book.lost_positions += last - first
        said = self.clock_said(book)
        tail = loss_tail(
            loss, gateway=self.gateway, time_ns=now, positions=positions, clock=said, envelope=self.envelope
        )
        return element(book.record_id(self._state.identity.short_install, first), tail)

    def tally_element(self, book: Book, tally: Tally) -> bytes:
        """The loss record of a tally, at its first position."""
        now_ns = self.now_ns()
        positions = (tally.first_position, tally.last_position)
        loss, said = tally.loss(now_ns), self.clock_said(book)
        tail = loss_tail(
            loss, gateway=self.gateway, time_ns=now_ns, positions=positions, clock=said, envelope=self.envelope
        )
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

    # -- the quarantine

    def quarantine_record(self, book: Book, record: bytes, reason: str) -> None:
        """Keep a record aside that the server refuses."""
        self._quarantine(Rejected(f"stream {book.name}", "", reason, record, self.now_ns()))

    def _quarantine(self, rejected: Rejected) -> None:
        counters = self._state.counters
        key = rows.quarantine_key(counters.quarantine_next)
        row = rows.encode_json(key, encode(rejected))
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
            self.step_over_holes()
            key = rows.quarantine_key(counters.quarantine_first)
            old = self.read_if_any(key)
            if old is None:
                return  # nothing but holes, so far
            counters.quarantine_size -= len(old) + rows.ROW_OVERHEAD_BYTES
            counters.quarantine_first += 1
            self.rows[key] = None
            deleted += 1
            try:
                time_ns = int(rows.decode_json(key, old)["time_ns"])
            except (JournalDamagedError, KeyError, ValueError):
                time_ns = self.now_ns()
            counters.lose_quarantined(time_ns)

    def keep_quarantine_size(self) -> None:
        """There is no room: what is put aside now pushes the oldest out."""
        self._quarantine_max_bytes = min(self._quarantine_max_bytes, self._state.counters.quarantine_size)

    # -- damage

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
