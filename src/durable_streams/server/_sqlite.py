"""A store in one SQLite file that forgets nothing it has confirmed.

One thread writes. It takes all requests that wait, runs them one after the other in one transaction, commits
(one fsync for all of them, whatever their streams) and only then gives back the results. Readers have
connections of their own and never wait for the writer. One process at a time serves a directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from durable_streams.server import _rows
from durable_streams.server._database import (
    FILE_NAME,
    DirectoryLock,
    connect_reader,
    connect_writer,
    identity,
    make_directory,
    space,
    translated,
)
from durable_streams.server._errors import StoreError, StoreFullError
from durable_streams.server._room import Room, SpaceLimits
from durable_streams.server._watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from durable_streams.server._room import Space
    from durable_streams.server._store import Page, Result, Stream, Transaction

logger = logging.getLogger("durable_streams.server")

_READER_THREADS: Final = 4
_MAX_JOBS_PER_COMMIT: Final = 256


@dataclass(frozen=True, slots=True)
class _Job:
    """Work for the writer and where its result goes."""

    work: Callable[[Transaction], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Done:
    job: _Job
    result: Any = None
    error: BaseException | None = None


class SqliteStore:
    """Streams in ``directory``, which is created if need be.

    ``max_bytes`` limits the file, ``min_free_bytes`` stay free on the disk; beyond either, what adds data raises
    `StoreFullError`, and reading, closing and deleting go on. Raises `StoreLockedError`, `StoreFormatError` and
    `StoreError` when the directory cannot be served.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int | None = None, min_free_bytes: int | None = None
    ) -> None:
        self._path = directory / FILE_NAME
        self._space_limits = SpaceLimits(max_bytes, min_free_bytes)
        make_directory(directory)
        self._lock = DirectoryLock(directory)
        try:
            self._connection = connect_writer(self._path, max_bytes)
        except StoreError:
            self._lock.release()
            raise
        self._readers: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(_READER_THREADS, thread_name_prefix="stream-store-reader")
        self._finder = ThreadPoolExecutor(1, thread_name_prefix="stream-store-finder")
        self._watchers = Watchers()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_until_closed, name="stream-store-writer", daemon=True)
        self._identity = identity(self._path)
        self._closed = False
        self._purge_failed = False
        self._writer.start()

    async def find(self, path: str) -> Stream | None:
        """See `Store.find`."""
        # In a thread of its own: it must not stand in a queue behind large reads.
        return await self._in_reader(lambda connection: _rows.find(connection, path), self._finder)

    async def read(self, path: str, start: int | None, max_bytes: int) -> Page | None:
        """See `Store.read`."""
        return await self._in_reader(lambda connection: _rows.read(connection, path, start, max_bytes))

    async def served_seconds(self) -> float:
        """See `Store.served_seconds`."""
        return await self._in_reader(_rows.served_seconds)

    async def space(self) -> Space:
        """What the store takes on the disk, and what is left."""
        return await self._in_reader(lambda connection: space(connection, self._path))

    async def transact(self, work: Callable[[Transaction], Result]) -> Result:
        """See `Store.transact`."""
        if self._closed:
            raise StoreError("the store is closed")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, future))
        return await future

    def watch(self, stream_id: int) -> AbstractContextManager[asyncio.Event]:
        """See `Store.watch`."""
        return self._watchers.watch(stream_id)

    def stop_waiting(self) -> None:
        """See `Store.stop_waiting`."""
        self._watchers.stop()

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        self._watchers.stop()
        self._jobs.put(None)
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._writer.join()
        self._pool.shutdown()
        self._finder.shutdown()
        for connection in self._readers:
            connection.close()
        self._connection.close()
        self._lock.release()

    # --- Reading: in the threads of the pool -----------------------------------------------------------

    async def _in_reader(
        self, work: Callable[[sqlite3.Connection], Result], pool: ThreadPoolExecutor | None = None
    ) -> Result:
        if self._closed:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, self._with_reader, work)

    def _with_reader(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            connection = self._idle_reader()
            try:
                return work(connection)
            finally:
                self._readers.append(connection)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    def _idle_reader(self) -> sqlite3.Connection:
        try:
            # list.pop and list.append are atomic: a connection is never in two threads at a time.
            return self._readers.pop()
        except IndexError:
            return connect_reader(self._path)

    # --- Writing: in the writer's thread ---------------------------------------------------------------

    def _write_until_closed(self) -> None:
        purging = True
        while True:
            group, more = self._next_group(wait=not purging)
            if group:
                purging = self._commit(group) or purging or self._purge_failed
            elif purging and more:
                purging = self._purge()
            if not more:
                return

    def _next_group(self, *, wait: bool) -> tuple[list[_Job], bool]:
        """All that waits, and whether more may come; empty if there is nothing and ``wait`` is false."""
        group: list[_Job] = []
        try:
            while len(group) < _MAX_JOBS_PER_COMMIT:
                job = self._jobs.get(block=wait and not group)
                if job is None:
                    return group, False
                group.append(job)
        except queue.Empty:
            pass
        return group, True

    def _commit(self, group: Sequence[_Job]) -> bool:
        """Run a group in one transaction; True when it left something to purge."""
        try:
            self._check_place()
            self._connection.execute("BEGIN IMMEDIATE")
            transaction = _rows.SqliteTransaction(self._connection, self._room())
            done = [_Done(job, job.work(transaction)) for job in group]
            transaction.finish()
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - supervision boundary: the writer outlives a failed job
            self._roll_back()
            if len(group) > 1:
                # One of them is too large, or wrong: the others must not suffer for it.
                left_something = [self._commit([job]) for job in group]
                return any(left_something)
            self._deliver([_Done(group[0], error=self._explained(error))], set())
            return False
        self._deliver(done, transaction.changed)
        return transaction.deleted

    def _check_place(self) -> None:
        # What is written to a file that has lost its name is gone with the process.
        if identity(self._path) != self._identity:
            raise StoreError(
                f"{self._path} was removed or replaced while it was served: nothing more is stored; stop the "
                "server, put the right directory there, and start it again"
            )

    def _room(self) -> Room:
        if self._space_limits == SpaceLimits():
            return Room(None)
        now = space(self._connection, self._path)
        why = partial(now.why_full, self._space_limits, self._path.parent)
        return Room(now.left(self._space_limits), why)

    def _roll_back(self) -> None:
        # SQLite has already rolled back by itself after some errors, a full disk among them.
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("store.rollback_failed")

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        explained = translated(error, self._path)
        if isinstance(explained, StoreFullError):
            with contextlib.suppress(StoreError, sqlite3.Error):  # then it is said in fewer words
                now = space(self._connection, self._path)
                return StoreFullError(f"no room: {now.why_full(self._space_limits, self._path.parent)}")
        return explained

    def _deliver(self, done: Sequence[_Done], changed: set[int]) -> None:
        try:
            done[0].job.future.get_loop().call_soon_threadsafe(self._give_back, done, changed)
        except RuntimeError:
            logger.warning("store.answers_lost: the event loop ended before %d answers", len(done))

    def _give_back(self, done: Sequence[_Done], changed: set[int]) -> None:
        self._watchers.changed(changed)
        for item in done:
            if item.job.future.done():
                continue  # its request was cancelled; what it changed is stored all the same
            if item.error is None:
                item.job.future.set_result(item.result)
            else:
                item.job.future.set_exception(item.error)

    def _purge(self) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            more = _rows.purge(self._connection)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            logger.warning("store.purge_failed: %s", error)
            self._purge_failed = True  # tried again with what is written next, a sweep at the latest
            return False
        self._purge_failed = False
        return more
