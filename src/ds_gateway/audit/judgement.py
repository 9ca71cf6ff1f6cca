"""Compares a stream with its journal, and says what that means. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ds_gateway.spans import Spans, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.audit.contents import Comparison, Reading, Tally
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.reading import StreamView

Severity = Literal["failed", "doubt", "info"]
"""``failed``: it is not as promised. ``doubt``: nobody can know yet. ``info``: good to know."""

JOURNAL_CAUSE: Final = "corrupt"
QUARANTINE_CAUSE: Final = "quarantined"
"""Cause of what a salvage tells outside of the streams that lost it: no source noticed that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is to be told, and what to do about it."""

    stream: str
    kind: str
    severity: Severity
    count: int
    spans: Spans
    text: str


@dataclass(slots=True)
class StreamAudit:
    """One stream, proved or not. Every accepted position is in exactly one of the counts."""

    name: str
    url: str
    accepted: int = 0
    appended: int = 0
    in_journal: int = 0
    ledgered: int = 0
    expired: int = 0
    exported: int = 0
    """Moved away by an export, and not in the stream yet."""
    missing: int = 0
    in_doubt: int = 0
    """Of those in the journal and in the ledger: they may be in the stream as well."""
    twice: int = 0
    foreign: int = 0
    out_of_order: int = 0
    since: int = 0
    """Accepted after the journal was looked at, and in the stream already."""
    records: int = 0
    """All records that were read."""
    ledger: dict[str, int] = field(default_factory=dict)
    """For each cause, positions that loss records stand for."""
    was_read: bool = True
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_proven(self) -> bool:
        """Whether every position is accounted for, and none is there more than once."""
        return self.was_read and not any(finding.severity == "failed" for finding in self.findings)

    def tell(self, kind: str, severity: Severity, text: str, spans: Spans | None = None, count: int = 0) -> None:
        """Add a finding, if there is something to tell: positions, or a count of something else."""
        spans = Spans() if spans is None else spans
        count = count or spans.count
        if count:
            self.findings.append(Finding(self.name, kind, severity, count, spans, text))


def unread(view: StreamView, url: str, why: str) -> StreamAudit:
    """A stream that could not be read: nothing is known about what is in it."""
    book = view.book
    audit = StreamAudit(book.title, url, accepted=book.next_position - book.begins, was_read=False)
    audit.in_journal = view.waiting.count
    audit.tell("unread", "failed", f"the stream could not be read: {why}", count=1)
    return audit


def judge(
    view: StreamView,
    later: Book,
    reading: Reading,
    *,
    install: str,
    url: str,
    ends_behind_anchor: bool,
    comparison: Comparison | None = None,
) -> StreamAudit:
    """Compare a stream with its journal.

    ``later`` is the stream's book after the reading. ``ends_behind_anchor``: the stream reaches as far as the
    server has confirmed, so a beginning that is not there was there once.
    """
    book = view.book
    # The later book knows all incarnations, unless it is another journal's by now.
    names = later if book.incarnation in {later.incarnation, *(name for name, _ in later.past)} else book
    prefixes = [f"{install}.{name}" for name in (*(name for name, _ in names.past), names.incarnation)]
    tally, strangers = _own(names, prefixes, reading)
    audit = StreamAudit(book.title, url, accepted=book.next_position - book.begins, records=reading.records)
    all_accepted = Spans([(book.begins, book.next_position - 1)] if audit.accepted else [])
    pending = Spans([loss.span for loss in view.losses])
    unsure = tally.doubtful | Spans([loss.span for loss in view.losses if not loss.certain])

    appended = tally.seen & all_accepted
    ledgered = ((tally.named | pending) & all_accepted) - appended
    in_journal = (view.waiting & all_accepted) - appended - ledgered
    rest = all_accepted - appended - ledgered - in_journal
    exported = rest & book.moved
    rest -= exported
    expired = _expired(view, tally, rest, ends_behind_anchor=ends_behind_anchor)
    missing = rest - expired
    audit.appended, audit.ledgered, audit.in_journal = appended.count, ledgered.count, in_journal.count
    audit.expired, audit.exported, audit.missing = expired.count, exported.count, missing.count
    causes = {cause: Spans(spans) for cause, spans in tally.causes.items()}
    for loss in view.losses:
        # One that has arrived may still wait here for the answer.
        causes.setdefault(loss.cause, Spans()).add(*loss.span)
    audit.ledger = {cause: spans.count for cause, spans in sorted(causes.items())}

    _tell_missing(audit, missing, view)
    _tell_order(audit, prefixes, tally, comparison)
    if not book.imported:
        _tell_beyond(audit, tally, view, later)
    _tell_doubt(audit, in_journal & view.sealed, ledgered & unsure)
    _tell_ledger(audit, reading, appended & (tally.named - unsure))
    audit.tell(
        "expired",
        "info",
        f"the stream begins behind positions {written(expired)}: they were confirmed, and the server keeps them "
        "no longer, or they went to another server before server.url was changed; read them there if you need "
        "them",
        expired,
    )
    audit.tell(
        "used_by_another",
        "info",
        f"positions {written(strangers)} of an earlier incarnation are in the stream and were written by somebody "
        "else, a copy of this gateway; the journal knows, and counts on under another name",
        strangers,
    )
    audit.tell(
        "exported",
        "doubt",
        f"positions {written(exported)} were exported, and are not in this stream yet: whoever imports them sends "
        "them; keep the file until then",
        exported,
    )
    if not book.imported:
        _tell_journals(audit, reading, install, prefixes, comparison)
    for row in view.damaged:
        told = (
            "what it held and is not in the stream is told as missing until a loss record (corrupt) takes its "
            "place: a running gateway does that by itself, and sends the rest"
        )
        audit.tell("damaged", "failed", f"{row}; {told}", count=1)
    for row in view.damaged_copies:
        audit.tell("damaged_copy", "doubt", f"{row}; it is a copy of what the server has confirmed", count=1)
    return audit


def _own(book: Book, prefixes: Sequence[str], reading: Reading) -> tuple[Tally, Spans]:
    """What the journal's incarnations counted, each its own range, and what others did under their names."""
    joined: Tally | None = None
    strangers = Spans()
    first = 1
    for prefix, last in zip(prefixes, [*(int(last) for _, last in book.past), None], strict=True):
        tally = reading.tallies.get(prefix)
        if tally is not None:
            end = max(tally.seen.last, tally.named.last) if last is None else last
            part = tally.part(first, end)
            strangers |= (tally.seen | tally.named) - part.seen - part.named
            if joined is None:
                joined = part
            else:
                joined.join(part)
        first = first if last is None else last + 1
    if joined is None:
        return reading.new_tally(), strangers
    joined.name_late_losses()
    return joined, strangers


def _expired(view: StreamView, tally: Tally, rest: Spans, *, ends_behind_anchor: bool) -> Spans:
    """The missing beginning, where a server's retention or a move explains it.

    Not where the birth of the producer stands before the first record: then the server has everything from there
    on.
    """
    if tally.after_first_birth or rest.first != view.book.begins:
        return Spans()
    if not tally.seen and not tally.named and not ends_behind_anchor:
        return Spans()
    settled = Spans([(1, view.settled)] if view.settled else [])
    return Spans([next(iter(rest))]) & settled


def _tell_missing(audit: StreamAudit, missing: Spans, view: StreamView) -> None:
    with_copy = missing & view.kept
    audit.tell(
        "missing",
        "failed",
        f"positions {written(missing - with_copy)} are neither in the stream, nor in the journal, nor named by "
        "a loss record: these records are lost; keep data_dir as it is, and look for the cause in the logs of "
        "the server",
        missing - with_copy,
    )
    audit.tell(
        "missing_copy_kept",
        "failed",
        f"positions {written(with_copy)} were confirmed by the server and are not in the stream any more; the "
        "journal still has copies of them: send or wait for one more record of that stream, restart the gateway, "
        f"or `ds-gateway resolve {audit.name} --retry`: it then repairs by itself",
        with_copy,
    )


def _tell_order(audit: StreamAudit, prefixes: Sequence[str], tally: Tally, comparison: Comparison | None) -> None:
    audit.twice, audit.out_of_order = tally.twice.count, tally.out_of_order
    audit.tell("twice", "failed", _twice(tally, prefixes, comparison), tally.twice)
    pairs = ", ".join(f"{low} behind {high}" for high, low in tally.pairs[:3])
    audit.tell(
        "out_of_order",
        "failed",
        f"records stand behind later ones ({pairs}): readers that rely on the order see old values as new ones; "
        "somebody else writes to this stream, or the server changed it",
        count=tally.out_of_order,
    )


def _twice(tally: Tally, prefixes: Sequence[str], comparison: Comparison | None) -> str:
    different = Spans()
    if comparison is not None:
        for prefix in prefixes:
            different |= comparison.different(prefix) & tally.twice
    if comparison is None:
        same = "their contents were not compared"
    elif different:
        same = f"those of {written(different)} differ from one another: somebody changed them"
    else:
        same = "the contents are the same each time"
    return (
        f"positions {written(tally.twice)} are in the stream more than once ({tally.copies} records too many); "
        f"{same}; readers should keep one of each id; look for a second writer, or for a copy of data_dir that ran"
    )


def _tell_beyond(audit: StreamAudit, tally: Tally, view: StreamView, later: Book) -> None:
    """Positions that the journal had not given out when it was looked at first."""
    there = tally.seen | tally.named
    known = later.next_position - 1
    if later.incarnation != view.book.incarnation and not later.past:
        known = max(
            audit.accepted, there.last
        )  # another journal by now: the old count's end is not known any more
    audit.since = (there & Spans([(audit.accepted + 1, known)] if known > audit.accepted else [])).count
    foreign = there - Spans([(1, known)] if known else [])
    audit.foreign = foreign.count
    audit.tell(
        "foreign",
        "failed",
        f"positions {written(foreign)} are in the stream, and this journal never gave them out: it is older "
        "than what was sent (data_dir was restored from a copy), or a copy of it runs elsewhere; stop one of "
        "the two",
        foreign,
    )


def _tell_doubt(audit: StreamAudit, on_their_way: Spans, unsure: Spans) -> None:
    audit.in_doubt = on_their_way.count + unsure.count
    audit.tell(
        "on_their_way",
        "doubt",
        f"positions {written(on_their_way)} are in the journal and on their way, without an answer yet: a running "
        "gateway settles this by itself; nothing to do",
        on_their_way,
    )
    audit.tell(
        "loss_in_doubt",
        "doubt",
        f"positions {written(unsure)} are named by loss records that are not certain: they are not in this "
        "stream; nobody can know whether they were, or are elsewhere",
        unsure,
    )


def _tell_ledger(audit: StreamAudit, reading: Reading, there_after_all: Spans) -> None:
    audit.tell(
        "ledgered",
        "info",
        "loss records stand for positions that are lost for good, and say why: "
        + ", ".join(f"{cause} {count}" for cause, count in audit.ledger.items()),
        count=sum(audit.ledger.values()),
    )
    audit.tell(
        "there_after_all",
        "info",
        f"positions {written(there_after_all)} are in the stream although a loss record names them: nothing is "
        "lost",
        there_after_all,
    )
    of_journal = {JOURNAL_CAUSE, QUARANTINE_CAUSE}
    sources = {cause: told for cause, told in reading.source_losses.items() if cause not in of_journal}
    audit.tell(
        "source_losses",
        "info",
        "sources have told of losses before the journal: "
        + ", ".join(f"{cause} {count} in {entries} entries" for cause, (entries, count) in sources.items()),
        count=sum(entries for entries, _ in sources.values()),
    )
    entries, count = reading.source_losses.get(QUARANTINE_CAUSE, (0, 0))
    audit.tell(
        "quarantine_losses",
        "info",
        f"the quarantine was full, and {count} of the refused payloads in it were deleted, the oldest first "
        f"({QUARANTINE_CAUSE}, {entries} entries)",
        count=entries,
    )
    entries, count = reading.source_losses.get(JOURNAL_CAUSE, (0, 0))
    audit.tell(
        "journal_losses",
        "info",
        f"the journal itself lost ({JOURNAL_CAUSE}) {count} records that could be counted, in {entries} entries: "
        "it was damaged, and what was readable was salvaged; the loss records in this stream say more",
        count=entries,
    )


def _tell_journals(
    audit: StreamAudit, reading: Reading, install: str, prefixes: Sequence[str], comparison: Comparison | None
) -> None:
    """What other journals than this stream's present one have written: an earlier one, or another gateway's."""
    for other, tally in reading.tallies.items():
        if other in prefixes:
            continue
        whose = "an earlier journal" if other.startswith(f"{install}.") else "another journal"
        there = tally.seen | tally.named
        audit.tell(
            "other_journal",
            "info",
            f"{there.count} positions of {whose} ({other}) are in the stream, {there.first} to {there.last}",
            count=there.count,
        )
        audit.tell(
            "gaps_of_other_journal",
            "failed",
            f"of {whose} ({other}) positions {written(tally.gaps)} are missing between its first and its last; "
            "only a copy of that journal, or another server that was used meanwhile, can have them",
            tally.gaps,
        )
        audit.tell(
            "twice_of_other_journal",
            "failed",
            f"of {whose} ({other}): {_twice(tally, [other], comparison)}",
            tally.twice,
        )
        audit.tell(
            "out_of_order_of_other_journal",
            "failed",
            f"of {whose} ({other}) records stand behind later ones: "
            + ", ".join(f"{low} behind {high}" for high, low in tally.pairs[:3]),
            count=tally.out_of_order,
        )
    audit.tell(
        "other_records",
        "info",
        f"{reading.others} records are not a journal's: something else writes to this stream, too",
        count=reading.others,
    )
