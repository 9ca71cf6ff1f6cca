"""The journal as the rest of the gateway sees it: open, take records in, hand streams out, tell how it is."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalDamagedError, JournalError, JournalUnreadableError
from ds_gateway.journal.access import explain
from ds_gateway.journal.checkup import examine
from ds_gateway.journal.disk import SUSPECT, DirectoryLock, Disk
from ds_gateway.journal.intake import Gate, Intake
from ds_gateway.journal.mover import Mover
from ds_gateway.journal.names import Names, check_names, read_names, write_names
from ds_gateway.journal.salvage import SalvageSettings, finish_interrupted, salvage, set_aside
from ds_gateway.journal.settings import WriterSettings
from ds_gateway.journal.snapshot import JournalSnapshot
from ds_gateway.journal.state import Identity, State, begin_stream, load, move_streams
from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.journal.writer import Writer
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.journal.ages import BootClock
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.upkeep import WhenFull
    from ds_gateway.records import Envelope, Item
    from ds_gateway.timekeeping import WallClock

DEFAULT_MAX_BYTES: Final = 2 * 1024**3
INTAKE_MAX_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How big the journal and its transactions may be."""

    max_bytes: int | None = None
    """None: 2 GiB or a tenth of the file system, whichever is smaller."""
    min_free_bytes: int = 256 * 1024 * 1024
    retain_bytes: int = 64 * 1024 * 1024
    batch_max_bytes: int = 512 * 1024
    max_delay_seconds: float = 0.05
    commit_interval_seconds: float | None = None
    when_full: WhenFull = "backpressure"
    max_age_seconds: float | None = None
    receipts: str = ""
    """Name of the stream of receipts, which has a reserve of its own; empty: there is none.

    It is there from the start, so that it can be claimed before its first record.
    """
    envelope: Envelope = "plain"
    """What stands around the records that the journal adds."""


def _ignore_point(_when: str, _parts: frozenset[str]) -> None:
    """No commit point is of interest."""


class Journal:
    """An open journal. `open` locks its directory; `start` lets the writer run; `stop` commits the rest."""

    def __init__(self, directory: Path, lock: DirectoryLock, disk: Disk, writer: Writer) -> None:
        self._directory = directory
        self._lock = lock
        self._disk = disk
        self._writer = writer
        self.commit_at_open = writer.state.counters.commit
        """Number of the last commit that was there when it was opened."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        gateway: str,
        url: str,
        limits: JournalLimits | None = None,
        on_stream: Callable[[Book], None] = lambda _book: None,
        on_point: Callable[[str, frozenset[str]], None] = _ignore_point,
        on_confirmed: Callable[[int], None] = lambda _stream: None,
        boot_clock: BootClock | None = None,
        wall_clock: WallClock = UNWATCHED,
    ) -> Journal:
        """Open or create the journal in ``directory``.

        ``url`` is the stream server's base URL: streams of another server begin a new epoch here, unless a batch
        is unresolved there. ``on_stream`` is called in the writer thread when a stream gets its first record;
        ``on_point`` before and after each commit with the parts (A, B, C) that it carries. ``on_confirmed`` is
        called in any thread with a stream's number when a batch of it is known to be in the stream.
        ``boot_clock``: the machine's, unless a test has another. ``wall_clock`` says what is known of the clock.

        A damaged journal is salvaged, and a new one is in its place (`salvage`).

        Raises `JournalError`: locked, newer format, another gateway's, no permission, a disk that does not work.
        """
        limits = limits or JournalLimits()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = DirectoryLock(directory / "lock")
            lock.acquire()
        except OSError as error:
            raise JournalError(f"the journal's directory: {explain(directory, error)}") from error
        try:
            disk, state = _load_or_salvage(
                directory,
                SalvageSettings(
                    gateway=gateway,
                    url=url,
                    segment_max_bytes=limits.batch_max_bytes,
                    now_ns=time.time_ns,
                    on_step=lambda step: on_point("after", frozenset({f"salvage: {step}"})),
                ),
            )
            state.envelope = limits.envelope
            move_streams(disk, state, url)
            if limits.receipts:
                begin_stream(disk, state, limits.receipts, url)
                with suppress(OSError):
                    write_names(directory, Names.of(state))
            disk.load_ballast()
            settings = WriterSettings(
                gateway=gateway,
                url=url,
                max_bytes=limits.max_bytes or _default_max_bytes(directory),
                min_free_bytes=limits.min_free_bytes,
                retain_bytes=limits.retain_bytes,
                batch_max_bytes=limits.batch_max_bytes,
                max_delay_seconds=limits.max_delay_seconds,
                commit_interval_seconds=limits.commit_interval_seconds or 0.0,
                when_full=limits.when_full,
                max_age_seconds=limits.max_age_seconds,
                receipts=limits.receipts,
            )
            writer = Writer(
                disk,
                state,
                settings,
                on_stream=_keep_names(directory, state, on_stream),
                on_point=on_point,
                on_confirmed=on_confirmed,
                boot_clock=boot_clock,
                wall_clock=wall_clock,
            )
        except BaseException:
            lock.release()
            raise
        disk.close()  # this thread's connection; the writer opens its own
        return cls(directory, lock, disk, writer)

    @property
    def identity(self) -> Identity:
        """Who the journal belongs to."""
        return self._writer.state.identity

    @property
    def alive_at(self) -> float:
        """When the writer last turned (monotonic seconds). It turns at least once a second."""
        return self._writer.alive_at

    @property
    def failure(self) -> BaseException | None:
        """What ended the writer; None while it is well."""
        return self._writer.failure

    @property
    def running(self) -> bool:
        """Whether the writer runs."""
        return self._writer.running

    @property
    def full(self) -> bool:
        """Whether there is no room for more records now."""
        return self._writer.upkeep.full

    def on_clock(self) -> None:
        """Something has changed about the clock. Any thread."""
        self._writer.wake()

    def set_stopped(self, stream: int, reason: str) -> None:
        """A stream's uplink has stopped for this reason, or goes on (empty). Any thread.

        All stopped streams together keep at most half of the journal, so that the others go on.
        """
        self._writer.set_stopped(stream, reason)

    def start(self) -> None:
        """Let the writer run."""
        self._writer.start()

    def stop(self, timeout_seconds: float = 10.0) -> bool:
        """Commit what is queued, end the writer, release the lock. False when that took too long."""
        ended = self._writer.stop(timeout_seconds) if self._writer.running else True
        self._lock.release()
        return ended

    def intake(
        self,
        source: str,
        *,
        max_items: int,
        max_bytes: int = INTAKE_MAX_BYTES,
        gate: Gate | None = None,
        on_committed: Callable[[Sequence[Item], int], None] | None = None,
        uses_reserve: bool = False,
    ) -> Intake:
        """Return the way in for one source. ``uses_reserve``: for receipts, which have room of their own."""
        intake = Intake(
            source,
            max_items=max_items,
            max_bytes=max_bytes,
            wake=self._writer.wake,
            gate=gate,
            on_committed=on_committed,
            uses_reserve=uses_reserve,
        )
        self._writer.add_intake(intake)
        return intake

    def accepted(self, stream: str) -> int:
        """The last position of a stream that is committed; 0 before the first. Any thread."""
        committed = self._writer.committed.by_name(stream)
        return 0 if committed is None else committed.accepted

    def confirmed(self, stream: str) -> int:
        """All positions up to this one are in the stream, as the server has said. Any thread."""
        committed = self._writer.committed
        found = committed.by_name(stream)
        return 0 if found is None else max(found.confirmed, committed.confirmed.get(found.number, 0))

    def anchor(self, stream: str) -> tuple[int, str] | None:
        """The epoch under which a stream is claimed, and an offset before which all was there under this claim.

        None if the journal knows of no claim. Before the stream's uplink has begun.
        """
        book = self._writer.state.by_name.get(stream)
        if book is None or not book.claimed or book.anchor is None:
            return None
        return book.epoch, book.anchor

    @property
    def receipt_room(self) -> int:
        """Bytes that are free in the receipts' reserve, as of the last commit. Any thread."""
        return self._writer.committed.receipt_room

    @property
    def mover(self) -> Mover:
        """What moves records out of this journal, and into it."""
        return Mover(self._writer)

    def streams(self) -> list[tuple[int, str, str]]:
        """Number, title (its name, unless it was imported) and server URL of every stream."""
        books = list(self._writer.state.books.values())
        return [(book.number, book.title, book.url) for book in books if not book.importing]

    def store(self, stream: int, *, birth: Mapping[str, object]) -> StreamStore:
        """Return the store that the stream's uplink pulls from. ``birth`` is told with each claim."""
        return StreamStore(self._writer, stream, birth=birth)

    def snapshot(self) -> JournalSnapshot:
        """How full it is, and what is committed in it. Any thread; streams may be a commit apart."""
        state = self._writer.state
        return JournalSnapshot(
            bytes=state.size,
            max_bytes=self._writer.settings.max_bytes,
            free_bytes=self._disk.free_bytes(),
            full=self._writer.upkeep.full,
            why_full=self._writer.upkeep.why_full,
            shedding=self._writer.settings.when_full if self._writer.upkeep.shedding else "",
            quarantined=self._writer.committed.quarantined,
            losses=self._writer.committed.losses,
            # An import that was given up is as good as never begun.
            streams=tuple(
                each for each in self._writer.committed.streams.values() if each.in_journal or not each.importing
            ),
            set_aside=self._set_aside(),
        )

    def _set_aside(self) -> tuple[str, ...]:
        # A folder that may not be listed hides nothing from the journal itself; an audit says so.
        with suppress(OSError):
            return set_aside(self._directory)
        return ()


def _load_or_salvage(directory: Path, settings: SalvageSettings) -> tuple[Disk, State]:
    """Open what is there, or make the best of it."""
    try:
        finish_interrupted(directory)
    except OSError as error:
        raise JournalError(f"an interrupted salvage: {explain(directory, error)}") from error
    names = read_names(directory)
    is_second_look = (directory / SUSPECT).exists()
    try:
        return _load(directory, names, settings.gateway)
    except JournalUnreadableError as error:
        reason = error.reason
    except JournalDamagedError as error:
        reason, is_second_look = str(error), True
    if not is_second_look:
        # A disk that answered once with an error may be well again: now all of it is looked at.
        try:
            return _load(directory, names, settings.gateway)
        except JournalUnreadableError as error:
            reason = error.reason
        except JournalDamagedError as error:
            reason = str(error)
    salvage(directory, names, reason, settings)
    return _load(directory, Names(), settings.gateway)


def _load(directory: Path, names: Names, gateway: str) -> tuple[Disk, State]:
    """Open a journal that is as it was written, or begin one."""
    is_suspect = (directory / SUSPECT).exists()
    examine(directory, names)
    disk = Disk(directory, was_looked_at=is_suspect)
    try:
        if is_suspect:
            disk.try_writing()
        state = load(disk, gateway)
        check_names(names, state)
    except BaseException:
        disk.close()
        raise
    with suppress(OSError):
        if Names.of(state) != names:
            write_names(directory, Names.of(state))
        (directory / SUSPECT).unlink(missing_ok=True)
    return disk, state


def _keep_names(directory: Path, state: State, on_stream: Callable[[Book], None]) -> Callable[[Book], None]:
    """Tell of a new stream, and write its name down beside the database."""
    names = dict(Names.of(state).streams)

    def keep(book: Book) -> None:
        on_stream(book)
        names[book.number] = book.name
        # Without room for it there is one thing less to salvage by; the next start tries again.
        with suppress(OSError):
            write_names(directory, replace(Names.of(state), streams=names))

    return keep


def _default_max_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return min(DEFAULT_MAX_BYTES, status.f_blocks * status.f_frsize // 10)
