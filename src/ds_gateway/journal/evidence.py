"""What the readable rows of a damaged journal prove, and what they leave open. Pure.

A stream's records are sent again from the first segment on that no row proves to be in the stream. That is exact
where the stream's own row is readable and up to date. Otherwise what was in the stream may come twice; that is
told, and so is what is certain to be missing, and what may be (`losses`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.book import Book, Run
from ds_gateway.journal.names import Names
from ds_gateway.journal.state import another_gateways, check_meta
from ds_gateway.records import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_NAMED: Final = 10
"""Streams and rows that one text names."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is to be sent again of one stream."""

    number: int
    name: str
    first_segment: int
    """The first that is not proved to be in the stream."""
    skip: int
    """Records of it that are."""
    last_segment: int | None
    """The last that there ever was; None where only the segments themselves tell."""
    records: int | None
    """How many records these segments had; None when that is not known."""
    doubtful_segment: int | None
    """Up to here records may be in the stream already; None: all of them."""
    id_prefixes: tuple[str, ...]
    """What the old ids of its records begin with, one for each incarnation; empty where nobody knows."""
    without: tuple[int, int] | None = None
    """First and last of segments that were exported, and need not be deleted yet."""

    @property
    def is_known(self) -> bool:
        """Whether the stream's own row is there and up to date."""
        return self.records is not None


@dataclass(slots=True)
class StreamOutcome:
    """What became of one stream."""

    span: Span
    salvaged: int = 0
    missing: int = 0
    """Records that were not readable, as far as what is readable tells."""
    doubtful: int = 0
    """Salvaged records that may be in the stream already."""
    doubtful_ids: tuple[str, str] = ("", "")
    """The first and the last of their old ids."""


@dataclass(slots=True)
class Evidence:
    """Collects the small rows of a damaged journal."""

    gateway: str
    names: Names = field(default_factory=Names)
    meta: dict[str, Any] | None = None
    commit: int | None = None
    books: dict[int, Book] = field(default_factory=dict)
    gates: dict[str, dict[str, bytes]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    """Keys of rows whose checksum does not match."""
    _resolved: dict[int, tuple[int, int]] = field(default_factory=dict)
    """For each stream the first segment that no kept batch proves to be in it, and how much of it one does."""
    _last: dict[int, int] = field(default_factory=dict)
    """For each stream the last readable segment."""

    def take(self, key: str, row: bytes) -> rows.Segment | None:
        """Look at a row; return its segment if it is one.

        Raises `JournalFormatError` or `JournalIdentityError` for a journal that is not ours to touch.
        """
        try:
            return self._take(key, row)
        except (JournalDamagedError, ValueError, TypeError, KeyError):
            self.damaged.append(key)
            return None

    def _take(self, key: str, row: bytes) -> rows.Segment | None:
        kind, _, rest = key.partition("/")
        match kind:
            case "a" if key == rows.META:
                meta = rows.decode_json(key, row)
                check_meta(meta, self.gateway)
                self.meta = meta
            case "c":
                self.commit = max(self.commit or 0, int(rows.decode_json(key, row)["commit"]))
            case "g":
                source, _, name = rest.partition("/")
                self.gates.setdefault(source, {})[name] = rows.unprotect(key, row)
            case "k":
                self._take_book(Book.from_row(rows.decode_json(key, row)))
            case "r":
                kept = rows.decode_json(key, row)
                kept.pop("offset")
                run, stream = Run(**kept), int(rest[:6])
                self._resolved[stream] = max(self._resolved.get(stream, (1, 0)), run.behind)
            case "s":
                segment = rows.decode_segment(key, row)
                stream, number = rows.segment_of(key)
                self._last[stream] = max(self._last.get(stream, 0), number)
                return segment
            case _:  # of the others nothing is needed, but for the quarantine, which its reader checks
                rows.unprotect(key, row)
        return None

    def _take_book(self, book: Book) -> None:
        known = self.books.get(book.number)
        if known is None or _age(book) > _age(known):
            self.books[book.number] = book

    @property
    def _own(self) -> list[Book]:
        """Those whose producers are this journal's."""
        return [book for book in self.books.values() if not book.imported]

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all could be read."""
        return self.meta is None and self.commit is None and not (self.books or self._last or self._resolved)

    @property
    def is_complete(self) -> bool:
        """Whether the first row is there, and something of every stream that is known of."""
        return self.meta is not None and self._stream_names.keys() <= {*self.books, *self._last, *self._resolved}

    @property
    def first_install(self) -> str:
        """The install that brokers know our sessions by; empty where nothing tells it."""
        if self.meta is not None:
            return str(self.meta.get("first_install") or self.meta["install"])
        if self.names.gateway == self.gateway:
            return self.names.first_install or self.names.install
        return next((book.producer_id.rpartition("-")[2] for book in self._own), "")

    def check_owner(self) -> None:
        """Raise `JournalIdentityError` for another gateway's; the first row has been looked at before."""
        if self.meta is None and self.names.gateway != self.gateway:
            for book in self._own:
                if not book.producer_id.startswith(f"{self.gateway}-"):
                    raise another_gateways(_owner(book), self.gateway)
        # Where only the file beside the database says whose it is:
        if self.meta is None and not self.books and self.names.gateway not in {"", self.gateway}:
            raise another_gateways(self.names.gateway, self.gateway)

    @property
    def first_gateway(self) -> str:
        """The gateway id that brokers know our sessions by, where it is not this one; empty otherwise."""
        if self.meta is not None:
            return str(self.meta.get("first_gateway", ""))
        return next((name for name in map(_owner, self._own) if name != self.gateway), "")

    @property
    def _stream_names(self) -> Mapping[int, str]:
        """What is kept beside the database, unless it belongs to another one."""
        is_ours = self.meta is None or self.meta["install"] == self.names.install
        return self.names.streams if is_ours else {}

    def gates_hold(self, outcomes: list[StreamOutcome]) -> bool:
        """Whether the sources' gates are as they were committed, and so are all records that they stand for.

        A gate that knows of a record that is lost would drop the copy that a broker still has.
        """
        return (
            self.commit is not None
            and not any(key[:1] in "acgs" for key in self.damaged)
            and not any(outcome.missing for outcome in outcomes)
        )

    def spans(self) -> list[Span]:
        """What is to be sent again."""
        # What was not imported whole is on its stick still, and nothing of it was sent.
        numbers = {*self.books, *self._last} - {book.number for book in self.books.values() if book.importing}
        return [self._span(number) for number in sorted(numbers)]

    def _span(self, number: int) -> Span:
        book = self.books.get(number)
        first, skip = self._resolved.get(number, (1, 0))
        if book is None:
            name = self._stream_names.get(number) or f"salvaged/{self.gateway}/{number}"
            return Span(number, name, first, skip, None, None, None, ())
        install = book.install or book.producer_id.rpartition("-")[2][:8]
        incarnations = [*(str(each[0]) for each in book.past), book.incarnation]
        prefixes = tuple(f"{install}.{incarnation}." for incarnation in incarnations)
        own = (
            (book.sealed.first_segment, book.sealed.first_skip)
            if book.sealed
            else (book.open_segment, book.open_skip)
        )
        if self._last.get(number, 0) >= book.next_segment or (first, skip) > own:
            # An old copy of the stream's row: there is more than it knows of.
            first, skip = max((first, skip), own)
            return Span(number, book.name, first, skip, None, None, None, prefixes)
        records, doubtful = book.unresolved_records, book.sealed.last_segment if book.sealed else 0
        moving, without = book.exporting, None
        if moving is not None and moving.written:
            without = (moving.first_segment, moving.last_segment)
        elif moving is not None:
            # Nobody knows here whether its file was finished: rather twice, and told, than not at all.
            own = min(own, (moving.first_segment, 0))
            records, doubtful = records + moving.records, moving.last_segment
        return Span(number, book.name, *own, book.next_segment - 1, records, doubtful, prefixes, without)


def _owner(book: Book) -> str:
    """The gateway id in a stream's producer id."""
    return book.producer_id.rpartition("-")[0]


def _age(book: Book) -> tuple[int, ...]:
    """Sorts copies of one stream's row: none of these ever goes back."""
    return book.epoch, book.next_position, book.resolved_records, book.high_water


def losses(
    outcomes: list[StreamOutcome], *, reason: str, set_aside: str, gates_kept: bool, is_whole: bool, now_ns: int
) -> list[Loss]:
    """What the loss ledger says. ``is_whole``: no page is missing, so that nothing unknown can be."""
    entries = [
        Loss(
            cause="corrupt",
            certain=outcome.span.is_known,
            count=outcome.missing,
            first_ns=now_ns,
            last_ns=now_ns,
            detail=f"stream {outcome.span.name}: not readable in the damaged journal, kept in {set_aside}",
        )
        for outcome in outcomes
        if outcome.missing
    ]
    words = [f"the journal was damaged ({reason}); it is kept in {set_aside}"]
    if not is_whole:
        words.append("records that nothing readable names may be missing")
    open_starts = [outcome.span.name for outcome in outcomes if not outcome.span.is_known]
    if open_starts:
        words.append(f"the state of these streams was not readable: {_listed(open_starts)}")
    doubtful = [_doubt(outcome) for outcome in outcomes if outcome.doubtful]
    if doubtful:
        words.append(f"possible duplicates: {_listed(doubtful)}")
    if not gates_kept:
        words.append("what brokers deliver again cannot be told from what is new")
    entries.append(
        Loss(
            cause="corrupt",
            certain=False,
            count=None,
            first_ns=now_ns,
            last_ns=now_ns,
            detail="; ".join(words),
        )
    )
    return entries


def _doubt(outcome: StreamOutcome) -> str:
    first, last = outcome.doubtful_ids
    return f"{outcome.doubtful} records of {outcome.span.name} (old ids {first} to {last})"


def _listed(texts: list[str]) -> str:
    more = len(texts) - _MAX_NAMED
    return ", ".join(texts[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
