"""What a repair makes of a stream, once everything of it was read back: one transaction's worth of changes. Pure.

    kept ............ sealed ... open ...
    found | missing | found    | never sent          what the survey says
    kept  | open ...................................  what becomes of it

Everything from the first missing record on is open again. What was found before it stays kept, so that it can be
sent again should the server lose it later. What was found behind it is left out: an empty segment stands in its
place, so that segments stay dense; should the server lose that later, a loss record says so. What is neither there
nor readable here is lost: a loss record takes its place.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.book import Run
from ds_gateway.journal.contents import digest, parse
from ds_gateway.journal.reading import LOSS_MARK, named_loss
from ds_gateway.journal.state import random_letters
from ds_gateway.journal.survey import Expected, Held
from ds_gateway.records import Loss, loss_tail

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan
    from ds_gateway.journal.survey import JournalSurvey
    from ds_gateway.spans import Span, Spans

BEGINNING: Final = "-1"
SLICE_SECONDS: Final = 0.2
"""How long the journal's writer may be kept from its records at a time."""
MAX_LOSS_RECORDS: Final = 20
"""Ranges that a server lost, each in a record of its own; the last one stands for all others."""


@dataclass(slots=True)
class _Candidate:
    """A segment that may have been sent, with what is to be sent again of it."""

    number: int
    old_size: int
    size: int
    first_position: int
    last_position: int
    was_resolved: int
    """Records that were taken for resolved."""
    was_open: int
    """Records that were never sealed."""
    found: int
    leading: int
    """Of those found, the ones before the first missing record of the segment."""
    missing: list[bytes]

    @property
    def is_readable(self) -> bool:
        """Whether its row carries what was written."""
        return self.old_size > 0


def apply(plan: Plan, book: Book, survey: JournalSurvey, end: str, *, adopt: bool) -> None:
    """Mark what was found as resolved, open the rest again, and take the epoch for claimed."""
    went_back = survey.start == BEGINNING
    named = book.moved
    candidates = list(_candidates(plan, book, survey, named, adopt=adopt))
    reopened = next((each for each in candidates if each.missing), None)
    behind = book.after(candidates[-1].number) if candidates else book.open_segment
    first_open = behind if reopened is None else reopened.number
    first_own = candidates[0].first_position if candidates else book.high_water + 1
    # Under another incarnation nothing is sent again that was sent under an earlier one: none of it is kept then.
    skip = 0 if reopened is None or adopt else reopened.leading
    lost = _lost_again(book, candidates, survey, named) if not adopt else []
    _reopen(plan, book, [each for each in candidates if each.number >= first_open], skip)
    _count(book, candidates, first_open)
    kept = [each for each in candidates if each.number < first_open]
    _keep(plan, book, kept, (first_open, skip), end)
    book.kept_anchor = _oldest(survey, end) if kept or skip else end
    if reopened is not None:
        open_position = rows.position_of(reopened.missing[0])
    else:
        open_position = candidates[-1].last_position + 1 if candidates else book.open_position
    book.finish_repair(first_open, skip, end, open_position)
    if not all(each.is_readable for each in candidates):
        plan.weigh(book)
        # Nor how many records: of several positions, some may have been those of one loss record.
        book.balance()
    if adopt:
        # Whatever is sent from now on has ids of its own; what is kept keeps the old ones, and is not sent again.
        # What somebody else sent for us has its id for good.
        book.high_water = max(book.high_water, book.open_position - 1)
        book.begin_incarnation(random_letters(rows.INCARNATION_LETTERS), book.open_position - 1)
    if went_back:
        lost = survey.there.missing(max(book.own_position, survey.kept_from), first_own - 1) + lost
    if book.imported:
        # All of its positions are given, and no record can follow; and it may be read back from the beginning now.
        lost, book.own_position = [], book.begins
    _tell_lost(plan, book, lost)
    plan.touch(book)
    plan.parts.add("C")


class Expecting:
    """Finds out what a survey of the stream has to look for, a few segments at a time: `take` until it is all.

    Nothing is sealed or trimmed meanwhile, because a repair is going on.
    """

    def __init__(self) -> None:
        self._held = Held()
        self._next: int | None = None

    def take(self, plan: Plan, book: Book) -> Expected | None:
        """Look at the next segments; return the whole once it is there."""
        first = max(book.kept_segment, book.own_segment) if self._next is None else self._next
        started = time.monotonic()
        for number in book.numbers(first, book.next_segment):
            if number > first and time.monotonic() - started > SLICE_SECONDS:
                self._next = number
                return None
            if not self._hold(plan, book, number):
                break
        install = book.install or plan.install
        return Expected(
            prefixes=(
                *((f"{install}.{name}.", last) for name, last in book.past),
                (f"{install}.{book.incarnation}.", book.next_position),
            ),
            moved=book.moved,
            is_import=bool(book.imported),
            high_water=book.high_water,
            sent=book.high_water >= book.own_position,
            unresolved=book.sealed.first_position if book.sealed is not None else book.open_position,
            held=self._held,
        )

    def _hold(self, plan: Plan, book: Book, number: int) -> bool:
        """Remember the records of a segment; False where what was never sealed begins."""
        try:
            segment = plan.segment(book, number)[1]
        except JournalDamagedError:
            return True
        for record in segment.elements():
            position = rows.position_of(record)
            if position > book.high_water:
                return False
            self._held.add(position, digest(parse(record)))
        return True


def _known_first(plan: Plan, book: Book, number: int, unknown: int) -> int:
    """The first position of a segment that cannot be read, and has none before it that can."""
    if book.sealed is not None and number == book.sealed.first_segment:
        return book.sealed.first_position
    if number == book.open_segment:
        return book.open_position
    found = plan.kept(book, book.first_kept)
    return found[0].first_position if found is not None and found[0].first_segment == number else unknown


def _oldest(survey: JournalSurvey, end: str) -> str:
    """An offset before everything that is kept. The beginning is the last resort: it never shows what expired."""
    if survey.start == BEGINNING and survey.anchor is not None and survey.anchor <= end:
        return survey.anchor
    return survey.start


def _candidates(
    plan: Plan, book: Book, survey: JournalSurvey, named: Spans, *, adopt: bool
) -> Iterator[_Candidate]:
    """What may have been sent. ``named`` takes the positions that it stands for."""
    resolved_before = book.unresolved_segment
    resolved_skip = book.sealed.first_skip if book.sealed else book.open_skip
    # What an earlier repair opened again may have been sent before, and what somebody else sent is there.
    most = max(book.high_water, max(survey.others, default=0) if adopt else 0)
    previous = None
    for number in book.numbers(max(book.kept_segment, book.own_segment), book.next_segment):
        try:
            row, segment = plan.segment(book, number)
        except JournalDamagedError as error:
            plan.damaged.append(str(error))
            last = plan.position_before(book, number + 1)
            first = previous + 1 if previous is not None else _known_first(plan, book, number, last + 1)
            if number >= book.open_segment and first > most:
                return
            if first <= last:
                named.add(first, last)
            yield _unreadable(plan, book, survey, number, (first, last), resolved=number < resolved_before)
            previous = last
            continue
        if number >= book.open_segment and segment.count and segment.first_position > most:
            return
        resolved = _bounded(number, segment.count, resolved_before, resolved_skip)
        sealed = _bounded(number, segment.count, book.open_segment, book.open_skip)
        missing: list[bytes] = []
        leading = 0
        for at, record in enumerate(segment.elements()):
            position = rows.position_of(record)
            _name(named, position, record)
            there = position in survey.found or _is_theirs(survey, position, record)
            if not there and not (at < resolved and position < survey.kept_from):
                missing.append(record)
            elif not missing:
                leading += 1
        size = len(row) + rows.ROW_OVERHEAD_BYTES
        last = segment.last_position(segment.count - 1) if segment.count else segment.first_position - 1
        found = segment.count - len(missing)
        yield _Candidate(
            number,
            size,
            size,
            segment.first_position,
            last,
            resolved,
            segment.count - sealed,
            found,
            leading,
            missing,
        )
        previous = last


def _bounded(number: int, count: int, segment: int, skip: int) -> int:
    """How many records of a segment lie before a place, given as a segment and records of it."""
    if number < segment:
        return count
    return skip if number == segment else 0


def _is_theirs(survey: JournalSurvey, position: int, record: bytes) -> bool:
    """Whether somebody with our identity has put this very record into the stream."""
    return position in survey.others and survey.others[position] == digest(parse(record))


def _unreadable(
    plan: Plan, book: Book, survey: JournalSurvey, number: int, positions: tuple[int, int], *, resolved: bool
) -> _Candidate:
    """A row that cannot be read: what of it is not in the stream is lost."""
    first, last = positions
    count = max(last - first + 1, 0)
    ranges = survey.found.missing(max(first, survey.kept_from) if resolved else first, last)
    lost = [plan.loss_element(book, "corrupt", each, detail="a row of the journal was damaged") for each in ranges]
    found = count - sum(until - since + 1 for since, until in ranges)
    return _Candidate(number, 0, 0, first, last, count if resolved else 0, 0, found, 0, lost)


def _name(named: Spans, position: int, record: bytes) -> None:
    """A record stands for its position, a loss record for those that it names."""
    named.add(position)
    if LOSS_MARK in record and (loss := named_loss(parse(record))) is not None:
        named.add(*loss.span)


def _lost_again(book: Book, candidates: list[_Candidate], survey: JournalSurvey, named: Spans) -> list[Span]:
    """Positions that an earlier repair found and left out among the candidates, and that are gone since."""
    own = [each for each in candidates if each.number >= book.reborn_segment]
    if not own:
        return []
    for first, last in survey.found:
        named.add(first, last)
    return named.missing(max(own[0].first_position, survey.kept_from), book.high_water)


def _reopen(plan: Plan, book: Book, candidates: Iterable[_Candidate], skip: int) -> None:
    """Write the rows of what is sent again; what was found is left out, but for the first ``skip`` records."""
    for each in candidates:
        stays, skip = skip, 0
        if each.is_readable and each.found == stays:
            continue
        records = each.missing
        if stays:
            records = plan.segment(book, each.number)[1].elements()[:stays] + records
        first = rows.position_of(records[0]) if records else each.first_position
        key = rows.segment_key(book.number, each.number)
        plan.rows[key] = row = rows.encode_segment(key, rows.make_segment(first, records))
        each.size = len(row) + rows.ROW_OVERHEAD_BYTES


def _count(book: Book, candidates: Iterable[_Candidate], first_open: int) -> None:
    for each in candidates:
        book.open_size += (each.size if each.number >= first_open else 0) - (
            each.old_size if each.number >= book.open_segment else 0
        )
        book.resolved_records += each.found - each.was_resolved
        book.open_records += len(each.missing) - each.was_open


def _keep(plan: Plan, book: Book, kept: list[_Candidate], opened: tuple[int, int], end: str) -> None:
    """Make one kept batch of all segments before the first open one that no kept batch has whole.

    ``opened``: the first open segment, and how many records of it are not open. A batch that ends behind that
    place is not kept: its row would prove what is open to be in the stream, should the journal be damaged.
    """
    first_open, _ = opened
    last_whole = book.kept_segment - 1
    unnamed = False
    for number in range(book.next_kept - 1, book.first_kept - 1, -1):
        found = plan.kept(book, number)
        if found is None:
            unnamed = True
        elif found[0].behind <= opened:
            last_whole = found[0].last_whole
            break
        else:
            book.kept_size -= found[0].size
        plan.rows[rows.kept_key(book.number, number)] = None
        book.next_kept = number
    loose = [each for each in kept if each.number > last_whole]
    if loose:
        run = Run(
            seq=0,
            first_segment=loose[0].number,
            last_segment=loose[-1].number,
            first_position=loose[0].first_position,
            count=sum(each.found for each in loose),
            size=sum(each.size for each in loose),
        )
        key = rows.kept_key(book.number, book.next_kept)
        plan.rows[key] = rows.encode_json(key, {**asdict(run), "offset": end})
        book.next_kept += 1
        book.kept_size += run.size
    if unnamed:
        # A batch whose own row is damaged does not tell how much of that it was.
        book.kept_size = plan.weight(book, book.kept_segment, first_open)
    # Offsets from before say nothing about where what was found lies now: they are not to be used any more.
    book.floor_kept = book.next_kept


def _tell_lost(plan: Plan, book: Book, ranges: list[Span]) -> None:
    """The server went back beyond what is kept: say which records it may have lost."""
    told = [[each] for each in ranges[: MAX_LOSS_RECORDS - 1]]
    if rest := ranges[MAX_LOSS_RECORDS - 1 :]:
        told.append(rest)
    now = plan.now_ns()
    for each in told:
        loss = Loss(
            "server_lost",
            certain=False,
            count=sum(last - first + 1 for first, last in each),
            first_ns=now,
            last_ns=now,
            detail="the server went back; these records had been confirmed, and are not kept here any more",
        )
        plan.lose(loss)
        positions = (each[0][0], each[-1][1])
        said = plan.clock_said(book)
        tail = loss_tail(
            loss, gateway=plan.gateway, time_ns=now, positions=positions, clock=said, envelope=plan.envelope
        )
        plan.append(book, tail)


def set_aside(plan: Plan, book: Book, reason: str) -> bool:
    """Put the sealed batch's one record into the quarantine, and what says so in its place.

    False, and nothing is changed, where it is a loss record: what it says must not get lost.
    """
    run = book.sealed
    assert run is not None and run.count == 1, "only a batch of one record is set aside"  # noqa: PT018
    for number in book.numbers(run.first_segment, run.last_segment + 1):
        row, segment = plan.segment(book, number)
        at = run.first_skip if number == run.first_segment else 0
        if segment.count <= at:
            continue
        records = segment.elements()
        position = rows.position_of(records[at])
        if parse(records[at]).get("kind") == "loss":
            return False
        plan.quarantine_record(book, records[at], reason)
        records[at] = plan.loss_element(book, "quarantined", (position, position), detail=reason)
        key = rows.segment_key(book.number, number)
        plan.rows[key] = changed = rows.encode_segment(key, rows.make_segment(segment.first_position, records))
        book.resize(len(changed) - len(row), whole=run.last_end is None)
        plan.touch(book)
        plan.parts.add("B")
        return True
    raise JournalDamagedError(f"the sealed batch of stream {book.name} has no record")
