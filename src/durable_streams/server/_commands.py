"""The writing requests as transactions: look up, let the rules decide, change.

Each function runs inside `Store.transact`: it may be run again, in another thread, and does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_streams.server import _rules
from durable_streams.server._rules import NOT_FOUND, Answer

if TYPE_CHECKING:
    from durable_streams.server._requests import AppendRequest, Body, CreateRequest
    from durable_streams.server._store import Change, Stream, Transaction


def create(transaction: Transaction, path: str, request: CreateRequest, body: Body, *, now: float) -> Answer:
    """PUT: create a stream, or confirm that it is there as wanted."""
    ruling = _rules.rule_create(request, body, _living(transaction, path, now))
    if ruling.change is not None:
        deadline = _rules.sliding_deadline(request.settings.ttl_seconds, now)
        stream = transaction.create(
            path, request.settings, request.expires_at_seconds if deadline is None else deadline
        )
        transaction.apply(stream, ruling.change)
    return ruling.answer


def append(transaction: Transaction, path: str, request: AppendRequest, body: Body, *, now: float) -> Answer:
    """POST: append, close, or both."""
    stream = _living(transaction, path, now)
    if stream is None:
        return NOT_FOUND
    known = None
    if request.producer is not None:
        known = transaction.producer(stream, request.producer.producer_id)
    ruling = _rules.rule_append(request, body, stream, known, now)
    if ruling.change is not None:
        transaction.apply(stream, ruling.change)
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


def sweep(transaction: Transaction, *, now: float) -> None:
    """Delete streams that have expired."""
    for stream in transaction.expired(now):
        transaction.delete(stream)


def _living(transaction: Transaction, path: str, now: float) -> Stream | None:
    stream = transaction.find(path)
    if stream is not None and _rules.expired(stream, now):
        transaction.delete(stream)
        return None
    return stream
