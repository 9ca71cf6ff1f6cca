"""An input of any size through an idempotent producer, and what became of its messages."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from durable_streams import DurableStreamError, MessageError, SyncIdempotentProducer
from durable_streams._wire import is_json
from durable_streams.cli.ending import INTERRUPTED, InputError, in_words, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durable_streams import DurableStream, SyncAcknowledgement

DEFAULT_MAX_BATCH_BYTES: Final = 1024 * 1024
_LINGER_MS: Final = 5.0
_MAX_IN_FLIGHT: Final = 5
_NO_LINGER_LIMIT_MS: Final = 30 * 86_400_000.0
"""With an epoch to be repeated, batches are cut by their size only: the same input makes the same batches."""


@dataclass(frozen=True)
class Producer:
    """The idempotent producer that the options ask for; without an id it is one for this run alone."""

    id: str | None
    epoch: int | None
    auto_claim: bool
    max_batch_bytes: int

    def send(self, handle: DurableStream, messages: Iterable[tuple[str, bytes]]) -> str:
        """Append all; return the offset behind the last one. Raises `InputError`, saying how many are stored."""
        repeatable = self.id is not None and self.epoch is not None and not self.auto_claim
        producer = SyncIdempotentProducer(
            handle,
            self.id or f"durable-streams-append-{uuid.uuid4()}",
            epoch=self.epoch or 0,
            # Without an epoch every run is a new one: the numbers of an earlier run would swallow this one's.
            auto_claim=self.id is not None and not repeatable,
            content_type=handle.content_type,
            max_batch_bytes=self.max_batch_bytes,
            # One at a time, so that the numbers that the earlier run used come before any new one.
            max_in_flight=1 if repeatable else _MAX_IN_FLIGHT,
            linger_ms=_NO_LINGER_LIMIT_MS if repeatable else _LINGER_MS,
        )
        tally = _Tally()
        wrong = None
        try:
            wrong = _feed(producer, messages, tally)
            producer.close()
        except DurableStreamError as error:
            with contextlib.suppress(DurableStreamError):  # the same one: there is nothing to wait for
                producer.close()
            tally.settle()
            raise InputError(f"{in_words(error)}; {tally.stored} of {tally.taken} messages are stored") from error
        except KeyboardInterrupt:
            # The producer is not closed: in an outage that would wait for minutes. Its threads end with us.
            say(f"interrupted: {producer.pending_count} of {tally.taken} messages are not confirmed")
            logging.getLogger("durable_streams.producer").disabled = True  # which would only say it once more
            raise typer.Exit(INTERRUPTED) from None
        tally.settle()
        if wrong is not None:
            raise InputError(f"{wrong}; {takes(handle)}; the {tally.taken} messages before it are stored")
        if tally.repeated:
            say(f"{tally.repeated} of {tally.taken} messages were there already: an earlier run had this epoch")
        return tally.offset or handle.head().offset


class _Tally:
    """What became of the messages. Holds only those that are not settled, so a file of any size fits."""

    def __init__(self) -> None:
        self.taken = 0
        self.stored = 0
        self.repeated = 0
        self.offset: str | None = None
        self._waiting: deque[SyncAcknowledgement] = deque()

    def take(self, acknowledgement: SyncAcknowledgement) -> None:
        """Count one more message."""
        self.taken += 1
        self._waiting.append(acknowledgement)
        self.settle()

    def settle(self) -> None:
        """Count what has become of the oldest messages."""
        while self._waiting and self._waiting[0].settled:
            try:
                result = self._waiting.popleft().result()
            except DurableStreamError:
                continue
            self.stored += 1
            self.repeated += result.duplicate
            self.offset = result.offset


def _feed(producer: SyncIdempotentProducer, messages: Iterable[tuple[str, bytes]], tally: _Tally) -> str | None:
    """Hand over all messages; return what is wrong with the one that it stopped at, if it did."""
    try:
        for where, message in messages:
            try:
                tally.take(producer.append(message))
            except MessageError as error:
                return f"{where}: {error}"
    except InputError as error:
        return str(error)
    return None


def takes(handle: DurableStream) -> str:
    """Return what the stream takes, for those who offered something else."""
    if is_json(handle.content_type):
        return "this stream takes JSON, where a text is written '\"text\"'"
    return "this stream takes bytes, at least one"
