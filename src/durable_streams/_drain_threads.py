"""Drains a store in a thread: the engine of `SyncIdempotentProducer` with a store.

Starting, restarting and closing happen one at a time, each `undisturbed`. A caller's own thread only hands
messages over and waits.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from durable_streams import _http, _operations, _pull
from durable_streams._acknowledgements import SyncAcknowledgement
from durable_streams._drain import Ask, Confirm, Drain, Effect, Load, Pause, Seal
from durable_streams._drain_status import (
    MISSING_AFTER,
    DrainStatus,
    Intake,
    as_producer_error,
    error_of,
    opening_error,
    stopped,
)
from durable_streams._ended import STREAM_CLOSED
from durable_streams._outcome import Outcome, undisturbed
from durable_streams._push_async import report
from durable_streams.errors import ProducerFullError, ProducerStoppedError

if TYPE_CHECKING:
    from durable_streams._http_sync import SyncCarrier
    from durable_streams._sqlite_store import SqliteProducerStore
    from durable_streams._store import SealedBatch
    from durable_streams._store_calls import StoreCalls
    from durable_streams._store_writer import Group
    from durable_streams._types import CloseResult, IdempotentAppendResult, ProducerErrorHandler
    from durable_streams.errors import DurableStreamError


class StoredSyncAcknowledgement(SyncAcknowledgement):
    """The server's confirmation of a stored message.

    When the producer stops first, `result` raises why; the message is in the store all the same.
    """

    __slots__ = ("_calls", "_group", "_index")

    def __init__(self, calls: StoreCalls, group: Group, index: int) -> None:
        self._calls = calls
        self._group = group
        self._index = index

    @property
    def settled(self) -> bool:
        """Whether the message is confirmed, or waiting for that is in vain."""
        return self._calls.confirmations.settled(self._group.span, self._group.first + self._index)

    def result(self, timeout_seconds: float | None = None) -> IdempotentAppendResult:
        """Wait for the confirmation. Raises what went wrong, and TimeoutError when it takes too long."""
        try:
            return self._calls.confirmed(self._group, self._index).result(timeout_seconds)
        except TimeoutError:
            raise TimeoutError(f"no confirmation within {timeout_seconds} s") from None


class _Run:
    """One thread's work, from start to end."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.thread_id: int | None = None
        self.demand: Outcome[SealedBatch] | None = None
        self.ended: Outcome[DurableStreamError | None] = Outcome()
        """What stopped it, if something did. Then it touches nothing more; its thread still tells the handler."""
        self.told: Outcome[None] = Outcome()
        """The handler, ``on_error``, has returned."""

    def stop(self) -> None:
        """Ask it to end."""
        self.stopping.set()
        if self.demand is not None:
            self.demand.cancel()

    def wait_until_told(self) -> None:
        """Wait until ``on_error`` was told, unless it is ``on_error`` that waits."""
        if self.thread_id != threading.get_ident():
            self.told.wait()


class ThreadedStoreEngine:
    """Messages from callers into the store, and a thread that drains it."""

    def __init__(
        self,
        url: str,
        producer_id: str,
        store: SqliteProducerStore,
        carrier: SyncCarrier,
        *,
        epoch: int,
        max_batch_bytes: int,
        on_error: ProducerErrorHandler | None,
    ) -> None:
        self._url = url
        self._producer_id = producer_id
        self._first_epoch = epoch
        self._calls = store.calls
        self._carrier = carrier
        self._on_error = on_error
        self._status = DrainStatus(url)
        self._intake = Intake(store.calls, url, max_batch_bytes)
        self._drain = Drain(
            url=url,
            store=store.calls,
            policy=_pull.Policy(),
            max_batch_bytes=max_batch_bytes,
            retry=_http.default_policy(),
            observe=self._status.observe,
            missing_after=MISSING_AFTER,
        )
        self._name = f"producer {producer_id}"
        self._changing = threading.Lock()
        """Held while the engine starts, restarts or closes."""
        self._opened: Outcome[None] | None = None
        self._run: _Run | None = None
        """There is one from the moment the store is open; also after something stopped it, until `restart`."""

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        state = self._calls.state
        return self._first_epoch if state is None else state.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch; 0 before the store was read."""
        state = self._calls.state
        return 0 if state is None else state.sealed_seq + 1

    @property
    def pending_count(self) -> int:
        """Messages in the store that are not confirmed."""
        return self._calls.pending_count

    @property
    def in_flight_count(self) -> int:
        """Requests with a batch under way: none or one."""
        return self._status.in_flight_count

    def start(self) -> None:
        """Open the store and begin to drain; nothing happens when that was done."""
        self._check()
        if self._run is None:
            undisturbed(self._start, name=self._name)

    def append(self, data: Any, *, wait: bool) -> StoredSyncAcknowledgement:
        """Take a message; it is on the disk when this returns."""
        self.start()
        group, index = self._intake.take(data, wait=wait)
        group.stored.result()
        return StoredSyncAcknowledgement(self._calls, group, index)

    def flush(self) -> None:
        """Wait until everything appended so far is confirmed; raise what stopped the producer."""
        self.start()
        self._calls.all_stored().wait()
        self._calls.all_confirmed().result()

    def restart(self) -> None:
        """Look again at everything, after what stopped the producer was put right."""
        self._check()
        run = self._run
        undisturbed(self._restart, name=self._name)
        if run is not None:
            run.wait_until_told()

    def close_stream(self, data: Any) -> CloseResult:
        """Append a last message if one is given, flush, then close the stream."""
        if data is not None:
            self.append(data, wait=True)
        self.flush()
        self._intake.ended = STREAM_CLOSED
        flow = _operations.close(self._url, _http.default_policy(), None, content_type=None)
        return undisturbed(lambda: self._carrier.run(flow), name=self._name)

    def close(self) -> None:
        """Stop and close the store; raise what had stopped the producer before.

        Waits for a request that is on its way, and for nothing else. Does nothing in a forked process.
        """
        self._intake.close()
        if self._calls.forked:
            return
        run = self._run
        error = undisturbed(self._close, name=self._name)
        if run is not None:
            run.wait_until_told()
        if error is not None:
            raise stopped(error, self._url)

    def _check(self) -> None:
        self._intake.check()
        self._calls.check_process()

    # -- One at a time, undisturbed ----------------------------------------------------------------

    def _start(self) -> None:
        with self._changing:
            self._begin()

    def _restart(self) -> None:
        with self._changing:
            self._intake.check()
            self._stop()
            if self._calls.failed:
                self._close_store()
            self._calls.resume()
            self._begin()

    def _close(self) -> DurableStreamError | None:
        with self._changing:
            error = self._stop()
            if self._opened is not None:
                error = error or opening_error(self._opened)
                self._close_store()
                self._calls.confirmations.stop(
                    ProducerStoppedError("the producer is closed; the message is in its store", url=self._url)
                )
            self._carrier.close()
            return error

    def _begin(self) -> None:
        self._intake.check()
        if self._opened is None:
            self._opened = self._calls.open(self._producer_id, self._url, epoch=self._first_epoch)
        self._opened.result()
        if self._run is None:
            run = _Run()
            name = f"drain-{self._producer_id}"
            threading.Thread(target=self._work, args=(run,), name=name, daemon=True).start()
            self._run = run

    def _close_store(self) -> None:
        self._opened = None
        self._calls.close().result()
        self._calls.join()

    def _stop(self) -> DurableStreamError | None:
        """End the run; return what had ended it before. Until it has ended it is the only one."""
        run = self._run
        if run is None:
            return None
        run.stop()
        self._calls.hurry()
        error = run.ended.result()
        self._run = None
        return error

    # -- The thread --------------------------------------------------------------------------------

    def _work(self, run: _Run) -> None:
        run.thread_id = threading.get_ident()
        error = self._drain_until_stopped(run)
        if error is not None:
            self._calls.stop(error)
        run.ended.set_result(error)
        try:
            if error is not None:
                report(self._on_error, error)  # which may call any method of the producer
        finally:
            run.told.set_result(None)

    def _drain_until_stopped(self, run: _Run) -> DurableStreamError | None:
        """Drain; return what stopped that, or None if `_stop` did."""
        flow = self._drain.flow()
        outcome = None
        try:
            while not run.stopping.is_set():
                try:
                    effect = flow.send(outcome)
                except StopIteration as done:
                    return error_of(done.value, self._url)
                outcome = self._perform(run, effect)
        except CancelledError:
            pass  # the demand was taken back
        # Supervision boundary: a caller's header callable may raise anything, also to end its thread, and whoever
        # appends, flushes or closes waits for this one.
        except BaseException as raised:  # noqa: BLE001
            given_up = run.stopping.is_set() and isinstance(raised, ProducerFullError)
            if not given_up:  # else the next run commits it
                return as_producer_error(raised, self._url)
        finally:
            flow.close()
        return None

    def _perform(self, run: _Run, effect: Effect) -> Any:
        calls = self._calls
        match effect:
            case Ask(request, max_reply_bytes, seconds):
                return self._carrier.exchange_bounded(request, max_reply_bytes=max_reply_bytes, seconds=seconds)
            case Pause(seconds):
                return run.stopping.wait(seconds)
            case Load():
                return calls.load().result()
            case Seal(max_bytes):
                return self._next_batch(run, max_bytes)
            case Confirm():
                return False  # nothing else of this server is known
            case _pull.Resolve(batch, offset):
                return calls.resolve(batch, offset).result()
            case _pull.SaveAnchor(offset):
                return calls.save_anchor(offset).result()
            case _pull.SaveEpoch(epoch):
                return calls.save_epoch(epoch).result()
            case _pull.SaveClaim(epoch):
                return calls.save_claim(epoch).result()
            case _:
                raise _pull.IllegalEventError(f"{effect} is for a store that can repair")

    def _next_batch(self, run: _Run, max_bytes: int) -> SealedBatch:
        run.demand = self._calls.next_batch(max_bytes)
        if run.stopping.is_set():  # set before `stop` could see the demand
            run.demand.cancel()
        return run.demand.result()
