"""The one writer of a message store: a thread that commits whatever waits for it, together.

    append --> group, group ... --+
    commits of the producer ------+--> one transaction --> outcomes
    a demand for a batch ---------+

Appends beyond ``max_bytes`` wait in memory until the server has confirmed enough; that is the back-pressure. When
the disk is full, appends fail: all that wait, so that none overtakes another. What the producer must commit is
tried until it can be. Any other error ends the thread: what is in the file is known again once it is opened anew.

A caller may be interrupted (Ctrl-C) between any two steps; the thread never is. So a caller wakes the thread
before it changes something, not after: at worst for nothing. And its last step is the one that counts.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from durable_streams._confirmations import Confirmations
from durable_streams._outcome import Outcome
from durable_streams._store_file import StoreFile
from durable_streams._store_rows import StoreRows, StoreState, stored_size
from durable_streams.errors import MessageError, ProducerFullError, ProducerStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from durable_streams._confirmations import Span
    from durable_streams._store import SealedBatch
    from durable_streams._store_messages import Messages
    from durable_streams._store_rows import Binding

T = TypeVar("T")

_log = logging.getLogger("durable_streams.producer")

GROUP_BYTES: Final = 256 * 1024
TRANSACTION_BYTES: Final = 4 * 1024 * 1024
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Appends that nobody awaits may take so much memory; then they raise."""
FULL_DISK_SECONDS: Final = 1.0
"""How often a full disk is looked at again."""


class Group:
    """Messages that are stored together. ``stored`` tells when they are on the disk."""

    __slots__ = ("first", "messages", "size_bytes", "span", "stored")

    def __init__(self, span: Span) -> None:
        self.messages: list[bytes] = []
        self.size_bytes: int = 0
        """At least what the messages count."""
        self.first: int = 0
        """Position of the first message, once they are stored."""
        self.span: Span = span
        self.stored: Outcome[None] = Outcome()


@dataclass(slots=True)
class _Call:
    apply: Callable[[StoreRows], Any]
    done: Outcome[Any]


@dataclass(slots=True)
class _Demand:
    max_bytes: int
    batch: Outcome[SealedBatch]


@dataclass(slots=True)
class _Work:
    """What goes into one transaction."""

    calls: Sequence[_Call] = ()
    groups: list[Group] = field(default_factory=list)
    demand: _Demand | None = None
    refused: Sequence[Group] = ()
    """Groups that will never have room, because the producer has stopped."""

    def __bool__(self) -> bool:
        return bool(self.calls or self.groups or self.demand or self.refused)


class StoreWriter:
    """The thread, and the way in. Every method may be called from any thread and returns at once."""

    def __init__(self, path: Path, messages: Messages, *, max_bytes: int) -> None:
        self.confirmations: Confirmations = Confirmations()
        self._path = path
        self._messages = messages
        self._max_bytes = max_bytes
        self._group_bytes = min(GROUP_BYTES, max_bytes // 4)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        """Only the thread waits for it. `with` on the lock itself is one step, on this it is several."""
        self._thread: threading.Thread | None = None
        self._process = 0
        self._state: StoreState | None = None
        self._failure: ProducerStoreError | ProducerFullError | None = None
        self._queue: deque[Group] = deque()
        self._queued_count = 0
        self._queued_bytes = 0
        self._calls: deque[_Call] = deque()
        self._demand: _Demand | None = None
        self._underway = _Work()
        """What was taken from the queues and is not settled yet."""
        self._disk_full = False
        self._impatient = False
        self._stalled = False
        self._closing = False
        self._ended: Outcome[None] = Outcome()
        self._ended.set_result(None)

    # -- The way in --------------------------------------------------------------------------------

    @property
    def state(self) -> StoreState | None:
        """What is committed; None before the file was opened. Stays when it is closed."""
        return self._state

    @property
    def pending_count(self) -> int:
        """Messages taken and not confirmed."""
        state = self._state
        return self._queued_count + (0 if state is None else state.pending_count)

    @property
    def is_open(self) -> bool:
        """Whether `open` was called, and `close` was not."""
        return self._thread is not None and not self._closing

    @property
    def failed(self) -> bool:
        """Whether nothing can be stored until the file is opened again."""
        return self._failure is not None

    def open(self, binding: Binding) -> Outcome[None]:
        """Open the file in the thread; appends may begin at once."""
        self.check_process()
        opened: Outcome[None] = Outcome()
        # A daemon: a process that ends without closing the store is a process that was killed.
        thread = threading.Thread(
            target=self._run, args=(binding, opened), name=f"store {self._path.name}", daemon=True
        )
        with self._lock:
            if self._thread is not None:
                raise ProducerStoreError(f"{self._path} has a producer already: give each one a store of its own")
            self._failure = None
            self._closing = self._disk_full = self._impatient = self._stalled = False
            self._ended = Outcome()
            self._process = os.getpid()
            self.confirmations.resume()
            try:
                thread.start()
            except RuntimeError:  # no thread is left: nothing was opened
                self._ended.set_result(None)
                raise
            self._thread = thread
        return opened

    def append(self, message: bytes, *, wait: bool) -> tuple[Group, int]:
        """Take an encoded message; return its group and its place in it.

        ``wait``: it may wait for room, in memory. Raises `ProducerFullError` when there is none even there.
        """
        size = stored_size(message) + self._messages.id_bytes
        if size > self._max_bytes:
            raise MessageError(f"a message of {len(message)} bytes does not fit into a store of {self._max_bytes}")
        self.check_process()
        with self._lock:
            self._check_usable()
            if wait and self._queued_bytes + size > MAX_WAITING_BYTES:
                raise self._full(message, f"{self._queued_bytes} bytes wait to be stored: await append()")
            stored = 0 if self._state is None else self._state.pending_bytes
            if not (wait and not self._stalled) and stored + self._queued_bytes + size > self._max_bytes:
                raise self._full(message, f"{self._path} holds {stored} bytes of {self._max_bytes}")
            group = self._queue[-1] if self._queue else None
            if group is None or group.size_bytes + size > self._group_bytes:
                self._changed.notify_all()
                group = Group(self.confirmations.open_span)
                self._queue.append(group)
            group.size_bytes += size
            self._queued_count += 1
            self._queued_bytes += size
            index = len(group.messages)
            group.messages.append(message)
            return group, index

    def call(self, apply: Callable[[StoreRows], T]) -> Outcome[T]:
        """Have a change committed."""
        done: Outcome[T] = Outcome()
        self.check_process()
        with self._lock:
            self._check_usable()
            self._changed.notify_all()
            self._calls.append(_Call(apply, done))
        return done

    def demand(self, max_bytes: int) -> Outcome[SealedBatch]:
        """Have a batch sealed as soon as there are messages. A later demand replaces it; it may be cancelled."""
        batch: Outcome[SealedBatch] = Outcome()
        self.check_process()
        with self._lock:
            self._check_usable()
            self._changed.notify_all()
            if self._demand is not None:
                self._demand.batch.cancel()
            self._demand = _Demand(max_bytes, batch)
        return batch

    def last_group(self) -> Group | None:
        """The last group that is not stored yet, if there is one."""
        self.check_process()
        with self._lock:
            groups = self._queue or self._underway.groups
            return groups[-1] if groups else None

    def stall(self, *, stalled: bool) -> None:
        """Say whether the producer has stopped: then no room will be made, and nobody may wait for it."""
        with self._lock:
            self._changed.notify_all()
            self._stalled = stalled
            self._impatient = False

    def hurry(self) -> None:
        """Let what the producer must commit fail while the disk is full; the next one looks again."""
        with self._lock:
            self._changed.notify_all()
            self._impatient = True

    def close(self) -> Outcome[None]:
        """Store what waits and has room, then close the file. Appends without room fail.

        In a process that was forked meanwhile nothing is done: file and thread are its parent's.
        """
        if self.forked:
            ended: Outcome[None] = Outcome()
            ended.set_result(None)
            return ended
        with self._lock:
            self._changed.notify_all()
            self._closing = True
            return self._ended

    def join(self) -> None:
        """Wait until the thread is gone, after `close`; then the store can be opened again."""
        thread = self._thread
        if thread is not None and not self.forked:
            thread.join()
            if self._thread is thread:  # nobody else who waited has opened it again
                self._thread = None

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that opened the file. Its locks may be locked for ever."""
        return self._thread is not None and os.getpid() != self._process

    def check_process(self) -> None:
        """Raise `ProducerStoreError` when another process has opened the file."""
        if self.forked:
            raise ProducerStoreError(
                f"the store {self._path} was opened in process {self._process}: a forked process opens its own"
            )

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is None or self._closing:
            raise ProducerStoreError(f"the store {self._path} is not open: a producer opens it, and closes it")

    def _full(self, message: bytes, why: str) -> ProducerFullError:
        return ProducerFullError(f"there is no room: {why}", records=(message,))

    # -- The thread --------------------------------------------------------------------------------

    def _run(self, binding: Binding, opened: Outcome[None]) -> None:
        file: StoreFile | None = None
        try:
            file = StoreFile(self._path)
            rows = StoreRows(file, self._messages, binding)
            self.confirmations.begin(rows.state.resolved_position)
            self._state = rows.state
            opened.set_result(None)
            while (work := self._next_work()) is not None:
                self._commit(file, rows, work)
            self._give_up_waiting()
        except (ProducerStoreError, ProducerFullError) as error:
            self._break_off(error, opened)
        # Supervision boundary: whoever waits for this thread must not wait for ever for a defect in it.
        except BaseException as error:  # noqa: BLE001
            defect = ProducerStoreError(f"the store {self._path} failed: {error!r}")
            defect.__cause__ = error
            self._break_off(defect, opened)
        finally:
            try:
                if file is not None:
                    file.close()
            finally:
                self._ended.set_result(None)

    def _next_work(self) -> _Work | None:
        """Wait for something to commit; None when the store is closed and nothing more can be."""
        with self._lock:
            if self._disk_full and not self._closing and not self._impatient:
                self._changed.wait(FULL_DISK_SECONDS)
            while not (work := self._take_work()):
                if self._closing:
                    return None
                self._changed.wait()
            self._underway = work
            self._count()
            return work

    def _count(self) -> None:
        """Count what is queued anew: an append that was interrupted may have counted for nothing."""
        groups = (*self._underway.groups, *self._queue)
        self._queued_count = sum(len(group.messages) for group in groups)
        self._queued_bytes = sum(group.size_bytes for group in groups)

    def _take_work(self) -> _Work:
        assert self._state is not None, "the file is open"
        groups: list[Group] = []
        size, stored = 0, self._state.pending_bytes
        while self._queue and size < TRANSACTION_BYTES:
            if stored + size + self._queue[0].size_bytes > self._max_bytes:
                break
            group = self._queue.popleft()
            size += group.size_bytes
            groups.append(group)
        refused: list[Group] = []
        if self._stalled and size < TRANSACTION_BYTES:  # the loop ended for want of room
            refused.extend(self._queue)
            self._queue.clear()
        calls = list(self._calls)
        self._calls.clear()
        # A group of an interrupted append may be empty: there is nothing to seal then.
        due = bool(self._state.pending_count or any(group.messages for group in groups)) and not self._closing
        demand = self._demand if due else None
        if demand is not None:
            self._demand = None
        return _Work(calls, groups, demand, refused)

    def _commit(self, file: StoreFile, rows: StoreRows, work: _Work) -> None:
        full = f"the producer has stopped, and {self._path} has no room: the message was not stored"
        _fail_groups(work.refused, ProducerFullError(full))
        state, batch = rows.state, rows.batch
        results: list[Any] = []
        sealed: SealedBatch | None = None
        try:
            with file.transaction():
                results = [call.apply(rows) for call in work.calls]
                for group in work.groups:
                    group.first = rows.append(group.messages) - len(group.messages) + 1
                if work.demand is not None and not work.demand.batch.cancelled():
                    sealed = rows.seal(work.demand.max_bytes)
        except ProducerFullError as error:
            rows.restore(state, batch)
            self._no_room(work, error)
            return
        with self._lock:
            self._state, self._underway, self._disk_full = rows.state, _Work(), False
            self._count()
        if rows.state.resolved_position > state.resolved_position:
            moved = rows.state.anchor != state.anchor  # else nobody could read where the batch ends
            self.confirmations.resolved(rows.state.resolved_position, rows.state.anchor if moved else None)
        for group in work.groups:
            group.messages.clear()
            group.stored.set_result(None)
        for call, result in zip(work.calls, results, strict=True):
            call.done.set_result(result)
        if work.demand is not None and sealed is not None:
            work.demand.batch.set_result(sealed)  # cancelled meanwhile: the next demand gets the same batch

    def _no_room(self, work: _Work, error: ProducerFullError) -> None:
        """The disk is full: appends fail, what the producer needs is tried again."""
        if not self._disk_full:
            _log.warning("producer.store.full %s", error)
        with self._lock:
            groups = [*work.groups, *self._queue]
            self._queue.clear()
            self._underway = _Work()
            self._count()
            self._calls.extendleft(reversed(work.calls))
            self._demand = self._demand or work.demand
            self._disk_full = True
            given_up = list(self._calls) if self._closing or self._impatient else []
            if given_up:
                self._calls.clear()
                self._demand = None
        _fail_groups(groups, error)
        for call in given_up:
            call.done.set_exception(error)

    def _give_up_waiting(self) -> None:
        """The store is being closed: what has no room was never stored."""
        with self._lock:
            groups, demand = list(self._queue), self._demand
            self._queue.clear()
            self._demand = None
            self._count()
        _fail_groups(groups, ProducerFullError(f"closed before {self._path} had room: the message was not stored"))
        if demand is not None:
            demand.batch.cancel()

    def _break_off(self, error: ProducerStoreError | ProducerFullError, opened: Outcome[None]) -> None:
        """Fail everything that waits, and whatever will be asked for until the store is opened again."""
        with self._lock:
            self._failure = error
            work, self._underway = self._underway, _Work()
            groups, calls = [*work.groups, *self._queue], [*work.calls, *self._calls]
            demands = [demand for demand in (work.demand, self._demand) if demand is not None]
            self._queue.clear()
            self._calls.clear()
            self._demand = None
            self._count()
        opened.set_exception(error)  # unless it was opened
        _fail_groups(groups, error)
        for call in calls:
            call.done.set_exception(error)
        for demand in demands:
            demand.batch.set_exception(error)


def _fail_groups(groups: Sequence[Group], error: ProducerStoreError | ProducerFullError) -> None:
    for group in groups:
        failed = type(error)(str(error), records=tuple(group.messages))
        failed.__cause__ = error
        group.stored.set_exception(failed)
