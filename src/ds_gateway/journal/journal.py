"""The journal as the rest of the gateway sees it: open, take records in, hand streams out, tell how it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.errors import JournalError
from ds_gateway.journal.disk import DirectoryLock, Disk
from ds_gateway.journal.intake import Gate, Intake
from ds_gateway.journal.snapshot import JournalSnapshot
from ds_gateway.journal.state import Identity, load, move_streams
from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.journal.writer import Writer, WriterSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.journal.ages import BootClock
    from ds_gateway.journal.book import Book
    from ds_gateway.journal.upkeep import WhenFull
    from ds_gateway.records import Item

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


def _ignore_point(_when: str, _parts: frozenset[str]) -> None:
    """No commit point is of interest."""


class Journal:
    """An open journal. `open` locks its directory; `start` lets the writer run; `stop` commits the rest."""

    def __init__(self, directory: Path, lock: DirectoryLock, disk: Disk, writer: Writer) -> None:
        self._directory = directory
        self._lock = lock
        self._disk = disk
        self._writer = writer

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
        boot_clock: BootClock | None = None,
    ) -> Journal:
        """Open or create the journal in ``directory``.

        ``url`` is the stream server's base URL: streams of another server begin a new epoch here, unless a batch
        is unresolved there. ``on_stream`` is called in the writer thread when a stream gets its first record;
        ``on_point`` before and after each commit with the parts (A, B, C) that it carries. ``boot_clock``: the
        machine's, unless a test has another.

        Raises `JournalError`: locked, newer format, another gateway's, damaged, or no permission.
        """
        limits = limits or JournalLimits()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = DirectoryLock(directory / "lock")
            lock.acquire()
        except OSError as error:
            raise JournalError(
                f"the journal's directory {directory} cannot be used: {error.strerror}; give it to the user that "
                "the gateway runs as, or set data_dir"
            ) from error
        try:
            disk = Disk(directory)
            state = load(disk, gateway)
            move_streams(disk, state, url)
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
            )
            writer = Writer(disk, state, settings, on_stream=on_stream, on_point=on_point, boot_clock=boot_clock)
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
    ) -> Intake:
        """Return the way in for one source."""
        intake = Intake(
            source,
            max_items=max_items,
            max_bytes=max_bytes,
            wake=self._writer.wake,
            gate=gate,
            on_committed=on_committed,
        )
        self._writer.add_intake(intake)
        return intake

    def streams(self) -> list[tuple[int, str, str]]:
        """Number, name and server URL of every stream that ever got a record."""
        return [(book.number, book.name, book.url) for book in list(self._writer.state.books.values())]

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
            shedding=self._writer.settings.when_full if self._writer.upkeep.shedding else "",
            quarantined=self._writer.committed_quarantined,
            losses=self._writer.committed_losses,
            streams=tuple(self._writer.committed.values()),
        )


def _default_max_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return min(DEFAULT_MAX_BYTES, status.f_blocks * status.f_frsize // 10)
