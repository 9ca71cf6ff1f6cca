"""What both durable producers know of their drain: where it is, and what stopped it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from durable_streams._ended import PRODUCER_CLOSED, nothing_taken
from durable_streams._pull import Halt, PostBatch, Resolve, Stop, Wait
from durable_streams._store_calls import bare
from durable_streams._wire import JSON_CONTENT_TYPE, is_json
from durable_streams.errors import (
    ContentTypeMismatchError,
    DurableStreamError,
    MessageError,
    PayloadTooLargeError,
    ProducerError,
    ProducerStoppedError,
    RetentionGoneError,
    SequenceGapError,
    StaleEpochError,
    StreamClosedError,
    StreamNotFoundError,
)

if TYPE_CHECKING:
    from typing import Any

    from durable_streams._outcome import Outcome
    from durable_streams._pull import Command, Pull
    from durable_streams._store_calls import StoreCalls
    from durable_streams._store_writer import Group

_log = logging.getLogger("durable_streams.producer")

_ERRORS: dict[Stop, type[DurableStreamError]] = {
    Stop.FENCED: StaleEpochError,
    Stop.SERVER_AHEAD: SequenceGapError,
    Stop.SERVER_BEHIND: SequenceGapError,
    Stop.FORGOTTEN: SequenceGapError,
    Stop.CONTENT_TYPE: ContentTypeMismatchError,
    Stop.MISSING: StreamNotFoundError,
    Stop.TOO_LARGE: PayloadTooLargeError,
    Stop.CLOSED: StreamClosedError,
    Stop.GONE: RetentionGoneError,
}


MISSING_AFTER: Final = 9
"""404s in a row until the stream counts as gone: with the usual back-off 20 seconds. Stopping is safe, it only
needs somebody to look; a proxy that is being restarted must not call for that."""


def check_json(content_type: str | None) -> None:
    """Refuse a content type whose messages cannot be recognised when they are read back."""
    if content_type and not is_json(content_type):
        raise ValueError(
            f"a SqliteProducerStore takes {JSON_CONTENT_TYPE} streams only, not {content_type}: bytes without "
            "boundaries cannot be recognised when they are read back. Wrap them in JSON, or do without the store"
        )


def error_of(halt: Halt, url: str) -> DurableStreamError:
    """Return the error that says why a producer stopped."""
    error = _ERRORS.get(halt.stop, ProducerError)(halt.reason, url=url)
    error.add_note("What is not confirmed is kept in the store.")
    return error


def as_producer_error(error: BaseException, url: str) -> DurableStreamError:
    """Return what callers are told when draining raised."""
    if isinstance(error, DurableStreamError):
        return error
    wrapped = ProducerError(f"the store could not be drained: {error!r}", url=url)
    wrapped.__cause__ = error
    return wrapped


def stopped(error: DurableStreamError, url: str) -> ProducerStoppedError:
    """Return what `close` raises after something stopped the producer."""
    stop = ProducerStoppedError(str(error), url=url)
    stop.__cause__ = error
    return stop


def opening_error(opened: Outcome[None]) -> DurableStreamError | None:
    """Return why a store could not be opened, if that is so."""
    error = opened.exception()
    return error if isinstance(error, DurableStreamError) else None


class DrainStatus:
    """Follows a drain."""

    def __init__(self, url: str) -> None:
        self._url = bare(url)
        self._state: Pull | None = None
        self.in_flight_count = 0

    def observe(self, state: Pull, command: Command) -> None:
        """Take note of a state and its next command."""
        self._state = state
        self.in_flight_count = 1 if isinstance(command, PostBatch) else 0
        match command:
            case Wait(failures=0):
                _log.warning("producer.waiting url=%s reason=%s", self._url, state.trouble)
            case Resolve(batch=batch):
                _log.debug("producer.batch.acked url=%s seq=%d records=%d", self._url, batch.seq, batch.count)
            case Halt(reason=reason):
                _log.error("producer.stopped url=%s reason=%s", self._url, reason)
            case _:
                pass

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; 0 before the store was read."""
        return 0 if self._state is None else self._state.stored.epoch

    @property
    def next_seq(self) -> int:
        """The sequence number of the next batch; 0 before the store was read."""
        return 0 if self._state is None else self._state.stored.sealed_seq + 1


class Intake:
    """The way of a message into a store, for one producer."""

    def __init__(self, calls: StoreCalls, url: str, max_batch_bytes: int) -> None:
        self._calls = calls
        self._url = url
        self._max_batch_bytes = max_batch_bytes
        self.ended: str | None = None
        """Why nothing more is taken."""
        self.closed = False

    def check(self) -> None:
        """Refuse to go on after the producer was closed."""
        if self.closed:
            raise nothing_taken(self.ended or PRODUCER_CLOSED, self._url)

    def close(self) -> None:
        """Take nothing more."""
        self.ended = self.ended or PRODUCER_CLOSED
        self.closed = True

    def take(self, data: Any, *, wait: bool) -> tuple[Group, int]:
        """Encode a message and hand it to the store; return its group and its place in it."""
        if self.ended is not None:
            raise nothing_taken(self.ended, self._url)
        message = self._calls.encode(data)
        if self._calls.size(message) + 2 > self._max_batch_bytes:
            raise MessageError(
                f"a message of {len(message)} bytes is larger than max_batch_bytes={self._max_batch_bytes}",
                url=self._url,
            )
        return self._calls.append(message, wait=wait)
