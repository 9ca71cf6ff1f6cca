r"""An idempotent producer that keeps its messages in memory, as a pure state machine.

    intake --seal--> READY --send--> FLYING --answer--> settled
                       ^                |
                       +--- try again --+

Rules (PROTOCOL section 5.2.1):

- A batch is sealed when it is full, when it has lingered, or at a flush: never just because a request ended. The
  more are under way, the longer it lingers: who is busy does better with fewer and larger requests.
- Batches are sent in order, several at a time; the first of an epoch flies alone, because the server takes no
  other number before it.
- A number is sent again only with the same bytes. Whether it may have arrived before is remembered.
- "Expected an earlier number" is the end only for a batch that was sent when everything before it was confirmed;
  for any other it means that requests overtook each other.
- A producer that may claim epochs first sends a probe: a number so high that no server takes it, answered with the
  next one it would take. So an epoch that an earlier process used up is never mistaken for a fresh one.
- A new epoch (claimed after a fence, or by `restart`) begins when nothing flies. Then all unconfirmed batches are
  numbered again, from 0, in their order. A `restart` also waits until nothing is left that may have arrived:
  numbered again, that would be stored twice.
- A batch that fails for good takes those behind it along: sending them would reorder the stream.

What an answer means is decided by `_producer.judge`, what to do about it by `_reactions`. This machine keeps the
order. It does no I/O; drivers give messages to its `intake`, call `next_flight`, `wake_at` and
`_reactions.answered`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_streams._answers import in_doubt
from durable_streams._batches import Batch, Flight, Flush, WindowSettings, check_epoch
from durable_streams._intake import Intake, batch_bytes
from durable_streams._messages import body_of
from durable_streams._producer import PROBE_SEQ, Attempt, producer_request
from durable_streams._types import IdempotentAppendResult
from durable_streams._wire import (
    MAX_PRODUCER_INTEGER,
    STREAM_CLOSED,
    Answer,
)
from durable_streams.errors import (
    DurableStreamError,
    ProducerStoppedError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_streams._exchange import RetryPolicy

MAX_CLAIMS: Final = 10
"""Epochs claimed in a row without one confirmed batch: then two producers are fighting, and this one gives in."""

_MAY_BE_STORED: Final = "An attempt at this batch went without an answer: it may have been stored."


class Window:
    """The machine. Not thread-safe: whoever drives it from threads holds a lock."""

    def __init__(self, settings: WindowSettings, policy: RetryPolicy, *, epoch: int) -> None:
        self.settings = settings
        self.epoch = epoch
        self.next_seq = 0
        self.intake = Intake(settings.content_type, settings.max_batch_bytes)
        """Where messages come in."""
        self.in_flight_count = 0
        self.error: DurableStreamError | None = None
        """Why the producer stopped, if it did; only `restart` makes it go on."""
        self.failures: list[DurableStreamError] = []
        """Errors of batches that failed since the driver last emptied this list."""
        self._policy = policy
        self._sealed_count = 0
        self._sealed_bytes = 0
        self._unconfirmed: deque[Batch] = deque()
        self._late: list[Batch] = []
        """Batches that flew when one before them failed: they may arrive all the same."""
        self.epoch_known = not settings.auto_claim
        """False as long as a probe must tell whether an earlier process used this epoch up."""
        self.epoch_chosen = True
        """Whether the caller chose this epoch: then it is his to say what was sent in it before."""
        self.epoch_established = False
        """Whether the server confirmed a number of this epoch: then several batches may fly."""
        self.appended = False
        """Whether a batch was appended in this epoch: then its numbers are ours alone."""
        self.fenced_by = -1
        """The highest epoch that the server has named instead of ours."""
        self._claim: int | None = None
        self._claims = 0
        self._restarting = False
        self._split: tuple[Batch, DurableStreamError] | None = None

    # -- Messages in -------------------------------------------------------------------------------

    @property
    def pending_count(self) -> int:
        """Messages taken and neither confirmed nor failed."""
        return self._sealed_count + self.intake.message_count

    @property
    def pending_bytes(self) -> int:
        """Bytes that were taken and are neither confirmed nor failed, framing included."""
        return self._sealed_bytes + self.intake.size_bytes

    @property
    def idle(self) -> bool:
        """Whether everything taken is confirmed or has failed, and nothing flies."""
        return not self.intake and not self._unconfirmed and self.in_flight_count == 0

    def learn(self, content_type: str) -> None:
        """Take note of the stream's content type: what was taken before is encoded now."""
        self.settings = replace(self.settings, content_type=content_type)
        self.failures += self.intake.encode(content_type)

    def refuse(self, error: DurableStreamError) -> None:
        """Fail everything that is in no batch yet."""
        self.failures.append(error)
        self._fail_intake(error)

    def restart(self) -> None:
        """Begin a new epoch as soon as nothing flies or may have arrived, and forget why the producer stopped.

        Raises ValueError when there is no higher epoch.
        """
        check_epoch(max(self.epoch, self.fenced_by) + 1)
        if self.error is not None:
            self._fail_intake(None)  # taken by a thread that did not know yet
        self._restarting = True
        self._claims = 0
        self.error = None
        self.apply_plans()

    def abandon(self) -> None:
        """Fail all that is not settled, because nobody will send it any more. Nothing may fly."""
        assert self.in_flight_count == 0, "what flies may still be confirmed"
        batches = list(self._unconfirmed)
        self._unconfirmed.clear()
        why = "the producer was closed before this was confirmed"
        for batch in batches:
            self._fail(batch, ProducerStoppedError(why, url=self.settings.url, records=batch.messages))
        self._fail_intake(ProducerStoppedError(why, url=self.settings.url))

    # -- Requests out ------------------------------------------------------------------------------

    def next_flight(self, now: float) -> Flight | None:
        """Return the next request that is due now, or None."""
        self.apply_plans()
        if self.error is not None:
            self._fail_intake(None)  # taken by a thread that did not know yet
        batch = self._first_waiting() or self._sealed(now)
        if batch is None or self._blocked or batch.not_before > now or not self._may_fly(batch):
            return None
        if not self.epoch_known:
            return self._launch_probe(batch)
        in_turn = batch is self._unconfirmed[0]
        return self._launch(batch, in_turn=in_turn) if in_turn or not batch.needs_turn else None

    def wake_at(self, now: float) -> float | None:
        """When `next_flight` is worth asking again without an answer or a message in between; None: never."""
        if self._blocked or not self.settings.content_type:
            return None
        batch = self._first_waiting()
        if batch is not None:
            waits = not self._may_fly(batch) or (batch.needs_turn and batch is not self._unconfirmed[0])
            return None if waits else max(batch.not_before, now)
        first = self.intake.first
        return self._linger_end(first) if isinstance(first, Batch) and not self._restarting else None

    @property
    def _blocked(self) -> bool:
        return self._claim is not None or self._split is not None or self.in_flight_count >= self._width

    def _sealed(self, now: float) -> Batch | None:
        """Seal the first batch of the intake if it is due and may fly at once; until then it goes on growing."""
        if not self.settings.content_type:
            return None
        while (first := self.intake.first) is not None:
            if isinstance(first, Flush):
                self.intake.take_out()
                first.wait_for(self._unsettled)
                continue
            if first.opened_at is None:
                first.opened_at = now
            # It grows no more if something stands behind it.
            due = first.closing or first.full or len(self.intake) > 1 or now >= self._linger_end(first)
            if not due or self._blocked or self._restarting:
                return None
            self.intake.take_out()
            if first.messages or first.closing:  # else whoever began it was interrupted
                return self._seal(first)
        return None

    @property
    def _width(self) -> int:
        return self.settings.max_in_flight if self.epoch_established else 1

    def _first_waiting(self) -> Batch | None:
        return next((batch for batch in self._unconfirmed if not batch.flying), None)

    @property
    def _unsettled(self) -> list[Batch]:
        """Batches of which it is not known yet what becomes of them, but for those in the intake."""
        return [*self._unconfirmed, *self._late]

    def _linger_end(self, batch: Batch) -> float:
        lingers = self.settings.linger_seconds * (1 + self.in_flight_count)
        return -math.inf if batch.opened_at is None else batch.opened_at + lingers

    def _may_fly(self, batch: Batch) -> bool:
        """Whether a batch may go before a restart: if it may have arrived, or one behind it may have."""
        if not self._restarting:
            return True
        for other in reversed(self._unconfirmed):
            if other is batch or other.may_be_stored:
                return other.may_be_stored
        raise AssertionError("the batch is not confirmed")  # pragma: no cover

    def _seal(self, batch: Batch) -> Batch:
        self._number(batch)
        self._unconfirmed.append(batch)
        self._sealed_count += len(batch.messages)
        self._sealed_bytes += batch.size_bytes - self.intake.frame_bytes
        return batch

    def _number(self, batch: Batch) -> None:
        batch.epoch, batch.seq = self.epoch, self.next_seq
        self.next_seq += 1

    def _launch(self, batch: Batch, *, in_turn: bool) -> Flight:
        batch.needs_turn = False
        attempt = Attempt(batch.epoch, batch.seq, repeated=batch.may_be_stored, closes=not batch.messages)
        flight = self._fly(batch, attempt, in_turn=in_turn)
        return _closing(flight) if batch.closing else flight

    def _launch_probe(self, batch: Batch) -> Flight:
        # With the batch's own body: a server that takes any number stores nothing that nobody appended.
        flight = self._fly(
            batch, Attempt(self.epoch, PROBE_SEQ, closes=not batch.messages), in_turn=False, probe=True
        )
        return flight if batch.messages else _closing(flight)

    def _fly(self, batch: Batch, attempt: Attempt, *, in_turn: bool, probe: bool = False) -> Flight:
        settings = self.settings
        batch.flying = True
        self.in_flight_count += 1
        body = body_of(batch.messages, settings.content_type) if batch.messages else b""
        request = producer_request(
            settings.url, settings.producer_id, attempt, body, content_type=settings.content_type
        )
        return Flight(batch, attempt, request, in_turn, probe)

    # -- What comes of a flight; decided by `_reactions` --------------------------------------------

    def land(self, flight: Flight) -> None:
        """Take note that a flight has its answer, whatever it says."""
        flight.batch.flying = False
        self.in_flight_count -= 1

    def counts(self, batch: Batch) -> bool:
        """Whether a batch is still to be confirmed, as opposed to stopped by the failure of one before it."""
        return batch in self._unconfirmed

    def confirm(self, batch: Batch, result: IdempotentAppendResult) -> None:
        """The batch is in the stream."""
        if batch in self._unconfirmed:
            self._unconfirmed.remove(batch)
            self.epoch_established = True
            self._claims = 0
            for other in self._unconfirmed:
                other.needs_turn = False  # the server has moved on, so a gap may have closed
            if not result.duplicate:
                self.appended = True
                self._confirm_those_before(batch)
        self._settle(batch, result)

    def _confirm_those_before(self, appended: Batch) -> None:
        # The server takes a number only after all before it: what may have arrived has.
        for other in [other for other in self._unconfirmed if other.seq < appended.seq]:
            if other.may_be_stored and not other.flying:
                self._unconfirmed.remove(other)
                self._settle(other, IdempotentAppendResult(None, duplicate=True))

    def postpone(self, batch: Batch, answer: Answer, now: float) -> bool:
        """Send the batch again later. False: it was sent often enough."""
        batch.attempts += 1
        if batch.attempts >= self.settings.max_attempts:
            return False
        batch.not_before = now + self._policy.delay(batch.attempts - 1, answer)
        return True

    def plan_claim(self, epoch: int) -> bool:
        """Claim an epoch as soon as nothing flies. False: enough were claimed in vain."""
        self.epoch_known = True
        if self._claim is None:
            self._claims += 1
        if self._claims > MAX_CLAIMS or epoch > MAX_PRODUCER_INTEGER:
            return False
        self._claim = max(self._claim or 0, epoch)
        return True

    def plan_split(self, batch: Batch, error: DurableStreamError) -> None:
        """Halve a batch that is too large as soon as nothing flies; if that cannot be, it fails with ``error``."""
        self._split = batch, error

    def stop(self, failed: Batch, error: DurableStreamError) -> None:
        """The batch has failed for good: so have all behind it, but for those that fly and may yet arrive."""
        if failed not in self._unconfirmed:
            self._fail(failed, self.stopped(failed.messages))
            return
        behind = list(self._unconfirmed)[self._unconfirmed.index(failed) + 1 :]
        for _ in range(len(behind) + 1):
            self._unconfirmed.pop()
        self.error = error
        error.records = tuple(failed.messages)
        self._fail(failed, error)
        for batch in behind:
            if batch.flying:
                self._late.append(batch)
            else:
                self._fail(batch, self.stopped(batch.messages))
        self._fail_intake(None)

    def stopped(self, messages: Sequence[bytes]) -> ProducerStoppedError:
        """The error of messages behind a failed batch."""
        cause = self.error
        stopped = ProducerStoppedError(
            f"a batch before this one failed: {cause}" if cause else "a batch before this one failed",
            status=cause.status if cause else None,
            url=self.settings.url,
            records=messages,
        )
        stopped.__cause__ = cause
        return stopped

    def apply_plans(self) -> None:
        """Do what waited for the last flight to land."""
        if self.in_flight_count > 0:
            return
        if self._restarting and not any(batch.may_be_stored for batch in self._unconfirmed):
            # Above the epoch that fenced this one: in that one the numbers are somebody else's.
            self._claim = max(self._claim or 0, self.epoch + 1, self.fenced_by + 1)
            self.epoch_known = not self.settings.auto_claim  # an earlier process may have had this one, too
        if self._claim is not None:
            self.epoch, self.next_seq, self._claim = self._claim, 0, None
            self.epoch_established = self.epoch_chosen = self.appended = self._restarting = False
            self._renumber(self._unconfirmed)
        if self._split is not None:
            (batch, error), self._split = self._split, None
            if batch in self._unconfirmed:  # else it failed, or was confirmed, while others landed
                self._halve(batch, error)

    def _fail(self, batch: Batch, error: DurableStreamError) -> None:
        if batch.doubtful:
            in_doubt(error, _MAY_BE_STORED)
        self._settle(batch, error)

    def _settle(self, batch: Batch, outcome: IdempotentAppendResult | DurableStreamError) -> None:
        if isinstance(outcome, DurableStreamError):
            batch.error = outcome
            self.failures.append(outcome)
        else:
            batch.result = outcome
        if batch in self._late:
            self._late.remove(batch)
        self._sealed_count -= len(batch.messages)
        self._sealed_bytes -= batch.size_bytes - self.intake.frame_bytes
        batch.messages = []  # whoever keeps an acknowledgement does not keep the messages

    def _fail_intake(self, error: DurableStreamError | None) -> None:
        """Fail what is not sealed yet: with an error, or because the producer has stopped."""
        failed: list[Batch] = []
        while self.intake:
            entry = self.intake.take_out()
            if isinstance(entry, Flush):
                entry.wait_for(self._unsettled)
            else:
                failed.append(entry)
        if not failed:
            return
        records = tuple(bytes(message) for batch in failed for message in batch.messages)
        if error is None:
            error = self.stopped(records)
        if records:
            error.records = records
            if error not in self.failures:
                self.failures.append(error)
        for batch in failed:
            batch.error, batch.messages = error, []

    def _halve(self, batch: Batch, error: DurableStreamError) -> None:
        position = self._unconfirmed.index(batch)
        behind = list(self._unconfirmed)[position:]
        # The numbers from here on are given out anew; a doubtful one may still arrive late with its old bytes.
        if len(batch.messages) < 2 or any(each.doubtful for each in behind):
            self.stop(batch, error)
            return
        half = len(batch.messages) // 2
        rest = Batch(
            batch.messages[half:],
            opened_at=batch.opened_at,
            closing=batch.closing,
            split_at=max(0, batch.split_at - half),
            rest=batch.rest,
        )
        del batch.messages[half:]
        batch.closing, batch.split_at, batch.rest = False, half, rest
        for each in (batch, rest):
            each.size_bytes = batch_bytes(each.messages, self.intake.frame_bytes)
        self._unconfirmed.insert(position + 1, rest)
        self.next_seq = batch.seq
        self._renumber(list(self._unconfirmed)[position:])

    def _renumber(self, batches: Sequence[Batch] | deque[Batch]) -> None:
        for batch in batches:
            self._number(batch)
            batch.doubtful = batch.turned_back = batch.needs_turn = False
            batch.attempts, batch.not_before = 0, 0.0


def _closing(flight: Flight) -> Flight:
    headers = {**flight.request.headers, STREAM_CLOSED: "true"}
    return replace(flight, request=replace(flight.request, headers=headers))
