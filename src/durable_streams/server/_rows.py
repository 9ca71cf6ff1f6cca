"""Streams as rows: the statements of the SQLite store, for reading and within a transaction."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from durable_streams.server._store import Change, Page, ProducerMark, Stream, StreamSettings

if TYPE_CHECKING:
    import sqlite3

_COLUMNS: Final = (
    "id, uid, path, content_type, ttl_seconds, expires_at, tail, closed,"
    " closed_producer, closed_epoch, closed_seq, stream_seq, deadline"
)
_BY_PATH: Final = f"SELECT {_COLUMNS} FROM streams WHERE path = ?"  # noqa: S608 - constants only
_BY_DEADLINE: Final = f"SELECT {_COLUMNS} FROM streams WHERE deadline <= ? LIMIT 100"  # noqa: S608 - same
_MESSAGES: Final = "SELECT data FROM messages WHERE stream_id = ? AND number >= ? ORDER BY number"
_PRODUCER: Final = "SELECT epoch, seq FROM producers WHERE stream_id = ? AND producer_id = ?"
_SET_PRODUCER: Final = (
    "INSERT INTO producers VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq"
)
_SET_STREAM: Final = (
    "UPDATE streams SET tail = ?, closed = ?, closed_producer = ?, closed_epoch = ?, closed_seq = ?,"
    " stream_seq = ?, deadline = ? WHERE id = ?"
)
_PURGED_MESSAGES_AT_ONCE: Final = 100


def find(connection: sqlite3.Connection, path: str) -> Stream | None:
    """The stream of this path, expired or not."""
    row = connection.execute(_BY_PATH, (path,)).fetchone()
    return None if row is None else _stream(row)


def read(connection: sqlite3.Connection, path: str, start: int | None, max_bytes: int) -> Page | None:
    """See `Store.read`; state and messages are of the same instant."""
    connection.execute("BEGIN")
    try:
        stream = find(connection, path)
        if stream is None:
            return None
        first = stream.tail if start is None else start
        return Page(stream, first, _messages(connection, stream, first, max_bytes))
    finally:
        connection.execute("COMMIT")


def purge(connection: sqlite3.Connection) -> bool:
    """Delete some messages of deleted streams; False when there are none left."""
    row = connection.execute("SELECT stream_id FROM trash LIMIT 1").fetchone()
    if row is None:
        return False
    (stream_id,) = row
    deleted = connection.execute(
        "DELETE FROM messages WHERE stream_id = ?1 AND number <"
        " (SELECT min(number) + ?2 FROM messages WHERE stream_id = ?1)",
        (stream_id, _PURGED_MESSAGES_AT_ONCE),
    ).rowcount
    if deleted < _PURGED_MESSAGES_AT_ONCE:
        connection.execute("DELETE FROM producers WHERE stream_id = ?", (stream_id,))
        connection.execute("DELETE FROM trash WHERE stream_id = ?", (stream_id,))
    return True


class SqliteTransaction:
    """The running transaction of the writer's connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changed: set[int] = set()
        """Streams that live readers must look at again."""
        self.deleted = False
        """Whether there is something to purge now."""

    def find(self, path: str) -> Stream | None:
        """See `Transaction.find`."""
        return find(self._connection, path)

    def producer(self, stream: Stream, producer_id: str) -> ProducerMark | None:
        """See `Transaction.producer`."""
        row = self._connection.execute(_PRODUCER, (stream.id, producer_id)).fetchone()
        return None if row is None else ProducerMark(producer_id, epoch=row[0], seq=row[1])

    def create(self, path: str, settings: StreamSettings, deadline: float | None) -> Stream:
        """See `Transaction.create`."""
        uid = secrets.token_hex(6)
        stream_id = self._connection.execute(
            "INSERT INTO streams (uid, path, content_type, ttl_seconds, expires_at, deadline)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (uid, path, settings.content_type, settings.ttl_seconds, settings.expires_at, deadline),
        ).lastrowid
        assert stream_id is not None
        return Stream(stream_id, uid, path, settings, deadline=deadline)

    def apply(self, stream: Stream, change: Change) -> None:
        """See `Transaction.apply`."""
        execute = self._connection.execute
        after = stream.after(change)
        if change.data is not None:
            execute("INSERT INTO messages VALUES (?, ?, ?)", (stream.id, stream.tail, change.data))
        if change.producer is not None:
            mark = change.producer
            execute(_SET_PRODUCER, (stream.id, mark.producer_id, mark.epoch, mark.seq))
        by = after.closed_by
        closed_by = (None, None, None) if by is None else (by.producer_id, by.epoch, by.seq)
        execute(
            _SET_STREAM,
            (after.tail, after.closed, *closed_by, after.stream_seq, after.deadline, stream.id),
        )
        if change.data is not None or change.close:
            self.changed.add(stream.id)

    def delete(self, stream: Stream) -> None:
        """See `Transaction.delete`. The messages follow later, a few at a time."""
        self._connection.execute("DELETE FROM streams WHERE id = ?", (stream.id,))
        self._connection.execute("INSERT INTO trash VALUES (?)", (stream.id,))
        self.changed.add(stream.id)
        self.deleted = True

    def expired(self, now: float) -> list[Stream]:
        """See `Transaction.expired`."""
        return [_stream(row) for row in self._connection.execute(_BY_DEADLINE, (now,))]


def _messages(connection: sqlite3.Connection, stream: Stream, first: int, max_bytes: int) -> tuple[bytes, ...]:
    if first >= stream.tail:
        return ()
    messages: list[bytes] = []
    size = 0
    cursor = connection.execute(_MESSAGES, (stream.id, first))
    for (data,) in cursor:
        size += len(data)
        if messages and size > max_bytes:
            break
        messages.append(data)
    cursor.close()
    return tuple(messages)


def _stream(row: tuple[Any, ...]) -> Stream:
    (
        stream_id,
        uid,
        path,
        content_type,
        ttl_seconds,
        expires_at,
        tail,
        closed,
        producer_id,
        epoch,
        seq,
        stream_seq,
        deadline,
    ) = row
    return Stream(
        id=stream_id,
        uid=uid,
        path=path,
        settings=StreamSettings(content_type, ttl_seconds, expires_at),
        tail=tail,
        closed=bool(closed),
        closed_by=None if producer_id is None else ProducerMark(producer_id, epoch, seq),
        stream_seq=stream_seq,
        deadline=deadline,
    )
