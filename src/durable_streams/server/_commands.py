"""The writing requests as transactions: look up, let the rules decide, change.

Each function runs inside `Store.transact`: it may be run again, in another thread, and does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from durable_streams.server import _rules
from durable_streams.server._retention import Retention
from durable_streams.server._rules import NOT_FOUND, Answer

if TYPE_CHECKING:
    from durable_streams.server._requests import AppendRequest, Body, CreateRequest
    from durable_streams.server._store import Change, Stream, Transaction

KEEP_ALL: Final = Retention()
_TRIMMED_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happens: in seconds since 1970, and in seconds that the store has been served."""

    now: float
    at: float = 0.0


def create(
    transaction: Transaction,
    path: str,
    request: CreateRequest,
    body: Body,
    moment: Moment,
    *,
    max_streams: int | None = None,
) -> Answer:
    """PUT: create a stream, or confirm that it is there as wanted."""
    ruling = _rules.rule_create(request, body, _living(transaction, path, moment.now), moment.at)
    if ruling.change is not None:
        if max_streams is not None and transaction.count() >= max_streams:
            return _rules.too_many_streams(max_streams)
        deadline = _rules.sliding_deadline(request.settings.ttl_seconds, moment.now)
        stream = transaction.create(
            path, request.settings, request.expires_at_seconds if deadline is None else deadline
        )
        transaction.apply(stream, ruling.change)
    return ruling.answer


def append(
    transaction: Transaction,
    path: str,
    request: AppendRequest,
    body: Body,
    moment: Moment,
    *,
    retention: Retention = KEEP_ALL,
) -> Answer:
    """POST: append, close, or both."""
    stream = _living(transaction, path, moment.now)
    if stream is None:
        return NOT_FOUND
    known = None
    if request.producer is not None:
        known = transaction.producer(stream, request.producer.producer_id)
    ruling = _rules.rule_append(request, body, stream, known, now=moment.now, at=moment.at)
    if ruling.change is not None:
        transaction.apply(stream, ruling.change)
        # What is too old waits for the sweep.
        if retention.max_bytes is not None:
            after = stream.after(ruling.change)
            if after.size > retention.max_bytes:
                _trim(transaction, after, retention, moment.at)
    return ruling.answer


def delete(transaction: Transaction, path: str, *, now: float) -> Answer:
    """DELETE: the stream and all that belongs to it."""
    stream = _living(transaction, path, now)
    if stream is None:
        return NOT_FOUND
    transaction.delete(stream)
    return Answer(204)


def renew(transaction: Transaction, path: str, stream_id: int, change: Change) -> None:
    """Store the later deadline of a stream that was read."""
    stream = transaction.find(path)
    if stream is not None and stream.id == stream_id:
        transaction.apply(stream, change)


def sweep(transaction: Transaction, moment: Moment, *, retention: Retention = KEEP_ALL) -> bool:
    """Delete some of what has expired, streams and messages; True when there may be more."""
    expired = transaction.expired(moment.now)
    for stream in expired:
        transaction.delete(stream)
    trimmed = 0
    if retention != KEEP_ALL:
        for stream in transaction.overfull(retention.max_bytes, retention.oldest_at(moment.at)):
            trimmed += _trim(transaction, stream, retention, moment.at)
    if retention.max_age_seconds is not None:
        transaction.keep_time(moment.at)
    return bool(expired or trimmed)


def _trim(transaction: Transaction, stream: Stream, retention: Retention, at: float) -> int:
    """Drop some of the messages that are to go; return how many."""
    messages, size = retention.surplus(stream, transaction.oldest(stream, _TRIMMED_AT_ONCE), at)
    if messages:
        transaction.trim(stream, messages, size)
    return messages


def _living(transaction: Transaction, path: str, now: float) -> Stream | None:
    stream = transaction.find(path)
    if stream is not None and _rules.expired(stream, now):
        transaction.delete(stream)
        return None
    return stream
