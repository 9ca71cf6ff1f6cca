"""Makes a new journal of what is readable in a damaged one, and sets that aside.

    build    journal.salvaging/journal   a new install, the records that are not proved to be in their streams
    move     journal          -> journal.damaged-<UTC time>
    move     journal.salvaging/journal -> journal

Each step is on the disk before the next begins, and a start after a crash anywhere goes on or begins again: the
damaged journal is only read until the new one is complete, and never deleted.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError, JournalError
from ds_gateway.journal import clocks, rows
from ds_gateway.journal.access import explain, sync_folder
from ds_gateway.journal.checkup import is_whole
from ds_gateway.journal.disk import BALLAST, FOLDER, SUSPECT, Disk, DiskFullError, translated
from ds_gateway.journal.evidence import Evidence, StreamOutcome, losses
from ds_gateway.journal.files import JournalFiles
from ds_gateway.journal.pages import Carver, Place
from ds_gateway.journal.plan import Plan
from ds_gateway.journal.sqlite_file import DAMAGE
from ds_gateway.journal.state import Identity, State, begin, new_identity
from ds_gateway.journal.transaction import QUARANTINE_MAX_BYTES
from ds_gateway.logs import event, logger
from ds_gateway.records import Item, Record, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.evidence import Span
    from ds_gateway.journal.names import Names
    from ds_gateway.records import Loss

_log = logger("journal")

STAGING: Final = "journal.salvaging"
COMPLETE: Final = "complete"
DAMAGED_PREFIX: Final = "journal.damaged-"
GROUP_MAX_BYTES: Final = 1024 * 1024
_ID_START: Final = b'{"id":"'
_INDEX_CACHE_KIB: Final = 4096


@dataclass(frozen=True, slots=True)
class SalvageSettings:
    """Whose journal it is, and what the new one is made by."""

    gateway: str
    url: str
    segment_max_bytes: int
    now_ns: Callable[[], int]
    on_step: Callable[[str], None]
    """Called after each step."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged journal."""

    set_aside: str
    """Name of the directory that it is in now."""
    outcomes: list[StreamOutcome]
    losses: list[Loss]
    quarantined: int
    gates_kept: bool
    damaged: int
    """Pages and rows that could not be read."""


def set_aside(directory: Path) -> tuple[str, ...]:
    """Names of the damaged journals in a data directory, the oldest first. Raises OSError: it cannot be listed."""
    return tuple(sorted(path.name for path in directory.iterdir() if path.name.startswith(DAMAGED_PREFIX)))


def finish_interrupted(directory: Path) -> None:
    """Go on where a crash ended an earlier salvage. Raises OSError."""
    staging = directory / STAGING
    if not staging.exists():
        return
    if not _is_there(directory / FOLDER) and (staging / COMPLETE).exists() and (staging / FOLDER).exists():
        _move(staging / FOLDER, directory / FOLDER)
        (directory / SUSPECT).unlink(missing_ok=True)
    shutil.rmtree(staging)


def salvage(directory: Path, names: Names, reason: str, settings: SalvageSettings) -> Salvage:
    """Put a new journal in the place of a damaged one.

    Raises `JournalFormatError` or `JournalIdentityError` for one that is not ours to touch, `JournalError` where
    the disk has no room, or reads nothing at all; the damaged journal is unchanged then.
    """
    staging = directory / STAGING
    try:
        aside = _free_name(directory, settings.now_ns())
        try:
            done = _build(directory, names, reason, settings, aside)
        except DiskFullError:
            (directory / BALLAST).unlink(missing_ok=True)
            done = _build(directory, names, reason, settings, aside)
        settings.on_step("built")
        (staging / COMPLETE).touch()
        sync_folder(staging)
        settings.on_step("complete")
        if _is_there(directory / FOLDER):
            _move(directory / FOLDER, directory / aside)
        settings.on_step("set aside")
        _move(staging / FOLDER, directory / FOLDER)
        settings.on_step("moved")
        (directory / SUSPECT).unlink(missing_ok=True)
        shutil.rmtree(staging)
    except DiskFullError as error:
        raise JournalError(_no_room(directory, reason)) from error
    except OSError as error:
        raise JournalError(
            f"the journal in {directory} is damaged ({reason}), and cannot be salvaged: "
            f"{explain(directory, error)}"
        ) from error
    _tell(done, reason)
    return done


def _no_reading(directory: Path, reason: str) -> str:
    return (
        f"nothing of the journal in {directory} can be read: the disk answers with errors ({reason}); see dmesg, "
        f"replace the disk, and set data_dir to a good one; or move {directory / FOLDER} away to begin without "
        "what was in it"
    )


def _no_room(directory: Path, reason: str) -> str:
    folder = directory / FOLDER
    mebibytes = sum(file.stat().st_size for file in folder.glob("*")) // 1024**2 + 1
    return (
        f"the journal in {directory} is damaged ({reason}), and there is no room to salvage it: make up to "
        f"{mebibytes} MiB free on that file system, or move {folder} to another one to begin without it: "
        "nothing was changed"
    )


def _tell(done: Salvage, reason: str) -> None:
    event(
        _log,
        "error",
        "journal.salvaged",
        reason=reason,
        set_aside=done.set_aside,
        records=sum(outcome.salvaged for outcome in done.outcomes),
        missing=sum(outcome.missing for outcome in done.outcomes),
        possible_duplicates=sum(outcome.doubtful for outcome in done.outcomes),
        streams=len(done.outcomes),
        quarantined=done.quarantined,
        gates_kept=done.gates_kept,
        damaged=done.damaged,
    )


def _build(directory: Path, names: Names, reason: str, settings: SalvageSettings, aside: str) -> Salvage:
    """Make the new journal beside the damaged one; leave nothing behind if that cannot be done."""
    staging = directory / STAGING
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(mode=0o750)
    index_file = staging / "index"
    try:
        with JournalFiles(directory / FOLDER) as files, closing(sqlite3.connect(index_file)) as index:
            found = _Found(files, Carver(files), Evidence(settings.gateway, names), index)
            _collect(found.carver, found.evidence, index)
            done = _fill(directory, found, reason, settings, aside)
        index_file.unlink()
        sync_folder(staging / FOLDER)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, DAMAGE):
            raise translated(directory, error) from error
        raise
    return done


@dataclass(frozen=True, slots=True)
class _Found:
    """What could be read, and where the rest of it is."""

    files: JournalFiles
    carver: Carver
    evidence: Evidence
    index: sqlite3.Connection


def _fill(directory: Path, found: _Found, reason: str, settings: SalvageSettings, aside: str) -> Salvage:
    """Write the new journal."""
    files, carver, evidence = found.files, found.carver, found.evidence
    evidence.check_owner()
    if evidence.is_empty and files.failed_reads:
        raise JournalError(_no_reading(directory, reason))
    damaged = carver.damaged + len(evidence.damaged) + files.is_short
    fresh = new_identity(settings.gateway).install
    new = Identity(settings.gateway, fresh, evidence.first_install, evidence.first_gateway)
    disk = Disk(directory / STAGING)
    try:
        writing = _Writing(disk, begin(disk, new), settings)
        outcomes = [writing.stream(span, _segments(carver, found.index, span)) for span in evidence.spans()]
        quarantined = writing.quarantine(_quarantined(carver, found.index))
        nothing_missing = carver.damaged == 0 and evidence.is_complete and is_whole(directory)
        gates_kept = nothing_missing and evidence.gates_hold(outcomes)
        entries = losses(
            outcomes,
            reason=reason,
            set_aside=aside,
            gates_kept=gates_kept,
            is_whole=nothing_missing,
            now_ns=settings.now_ns(),
        )
        writing.finish(entries, evidence, gates_kept=gates_kept)
    finally:
        disk.close()
    return Salvage(aside, outcomes, entries, quarantined, gates_kept, damaged)


def _collect(carver: Carver, evidence: Evidence, index: sqlite3.Connection) -> None:
    """Read everything once: small rows into the evidence, where the large ones are into the index on disk."""
    index.executescript(
        f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{_INDEX_CACHE_KIB};"
        "CREATE TABLE segment (stream INT, position INT, number INT, page INT, cell INT);"
        "CREATE TABLE quarantined (number INT PRIMARY KEY, page INT, cell INT);"
    )
    for row in carver.rows():
        segment = evidence.take(row.key, row.value)
        place = row.place
        if segment is not None and segment.count:
            stream, number = rows.segment_of(row.key)
            index.execute(
                "INSERT INTO segment VALUES (?, ?, ?, ?, ?)",
                (stream, segment.first_position, number, place.page, place.cell),
            )
        elif row.key.startswith("q/") and row.key not in evidence.damaged[-1:]:
            number = int(row.key.partition("/")[2])
            index.execute("INSERT OR REPLACE INTO quarantined VALUES (?, ?, ?)", (number, place.page, place.cell))
    index.execute("CREATE INDEX by_position ON segment (stream, position)")
    index.commit()


def _segments(carver: Carver, index: sqlite3.Connection, span: Span) -> Iterator[tuple[int, rows.Segment]]:
    """The stream's segments from the first unproved one on, in the order of their positions."""
    first = index.execute(
        "SELECT min(position) FROM segment WHERE stream = ? AND number = ?", (span.number, span.first_segment)
    ).fetchone()[0]
    last = span.last_segment if span.last_segment is not None else 2**62
    places = index.execute(
        "SELECT number, page, cell FROM segment WHERE stream = ? AND position >= ? AND number BETWEEN ? AND ? "
        "ORDER BY position",
        (span.number, first or 0, span.first_segment, last),
    )
    for number, page, cell in places:
        row = carver.row(Place(page, cell))
        if row is not None:
            with suppress(JournalDamagedError):
                yield number, rows.decode_segment(row.key, row.value)


def _quarantined(carver: Carver, index: sqlite3.Connection) -> Iterator[Rejected]:
    for page, cell in index.execute("SELECT page, cell FROM quarantined ORDER BY number"):
        row = carver.row(Place(page, cell))
        with suppress(JournalDamagedError, KeyError, ValueError, TypeError):
            if row is not None:
                fields = rows.decode_json(row.key, row.value)
                fields["raw"] = bytes.fromhex(fields["raw"])
                yield Rejected(**fields)


class _Writing:
    """Fills the new journal, as its writer would: transactions of bounded size."""

    def __init__(self, disk: Disk, state: State, settings: SalvageSettings) -> None:
        self.state = state
        self._disk = disk
        self._settings = settings
        self._items: list[Item] = []
        self._bytes = 0

    def stream(self, span: Span, segments: Iterator[tuple[int, rows.Segment]]) -> StreamOutcome:
        """Take one stream's records over, under new ids."""
        outcome = StreamOutcome(span)
        starts = tuple(_ID_START + prefix.encode() for prefix in span.id_prefixes) or (_ID_START,)
        following_position = 0
        for number, segment in segments:
            if span.without is not None and span.without[0] <= number <= span.without[1]:
                continue
            if segment.first_position < following_position:
                continue  # an old copy of one that was read already
            elements = segment.elements()
            if not all(each.startswith(starts) for each in elements):
                continue  # another stream's, under a key that is damaged
            if following_position:
                outcome.missing += segment.first_position - following_position
            # A loss record at the end stands for more positions than its own.
            following_position = segment.last_position(segment.count - 1) + 1
            kept = elements[span.skip if number == span.first_segment else 0 :]
            if kept and (span.doubtful_segment is None or number <= span.doubtful_segment):
                outcome.doubtful += len(kept)
                outcome.doubtful_ids = (outcome.doubtful_ids[0] or _old_id(kept[0]), _old_id(kept[-1]))
            outcome.salvaged += len(kept)
            for each in kept:
                tail = each[each.index(b'",') + 2 :]
                self._add(Record(span.name, "", tail, clock=clocks.stamped(tail)), len(each))
        if span.records is not None:
            outcome.missing = max(span.records - outcome.salvaged, 0)
        self._commit()
        return outcome

    def quarantine(self, found: Iterator[Rejected]) -> int:
        """Take over what is in the quarantine; return how much that is."""
        count = 0
        for rejected in found:
            count += 1
            self._add(rejected, len(rejected.raw))
        self._commit()
        return count

    def finish(self, entries: list[Loss], evidence: Evidence, *, gates_kept: bool) -> None:
        """Enter the losses, note what was not told of the clock, and take the gates over if they hold."""
        # As high as what the marks beside the journal name: nothing that was acknowledged counts as never so.
        self.state.counters.commit = max(self.state.counters.commit, evidence.commit or 0)
        self._items += [Item(entry) for entry in entries]
        owing = [book for book in evidence.books.values() if book.unsynced]
        self._commit(evidence.gates if gates_kept else {}, owing)

    def _add(self, payload: Record | Rejected, size: int) -> None:
        self._items.append(Item(payload))
        self._bytes += size
        if self._bytes >= GROUP_MAX_BYTES:
            self._commit()

    def _commit(self, gates: dict[str, dict[str, bytes]] | None = None, owing: Iterable[Book] = ()) -> None:
        if not self._items:
            return
        plan = Plan(
            self.state,
            self._disk.read,
            url=self._settings.url,
            segment_max_bytes=self._settings.segment_max_bytes,
            quarantine_max_bytes=QUARANTINE_MAX_BYTES,
            now_ns=self._settings.now_ns,
        )
        plan.accept(self._items)
        for source, changes in (gates or {}).items():
            plan.gate(source, changes)
        for book in owing:
            plan.owe_clock(book)
        with self._disk.transaction():
            for key, row in plan.finish().items():
                if row is None:
                    self._disk.delete(key)
                else:
                    self._disk.write(key, row)
        self._items.clear()
        self._bytes = 0


def _old_id(element: bytes) -> str:
    return element[len(_ID_START) : element.index(b'",')].decode("ascii", "replace")


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _free_name(directory: Path, now_ns: int) -> str:
    moment = datetime.fromtimestamp(now_ns // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
    name, more = f"{DAMAGED_PREFIX}{moment}", 1
    while _is_there(directory / name):
        more += 1
        name = f"{DAMAGED_PREFIX}{moment}-{more}"
    return name


def _move(source: Path, target: Path) -> None:
    source.rename(target)
    sync_folder(source.parent)
    sync_folder(target.parent)
