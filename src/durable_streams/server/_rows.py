"""Streams as rows: the statements of the SQLite store, for reading and within a transaction."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from durable_streams.server._store import (
    EARLIEST,
    MAX_PAGE_MESSAGES,
    Change,
    Kept,
    Page,
    ProducerMark,
    Stream,
    StreamSettings,
)

if TYPE_CHECKING:
    import sqlite3

    from durable_streams.server._room import Room

_COLUMNS: Final = (
    "id, uid, path, content_type, ttl_seconds, expires_at, tail, closed,"
    " closed_producer, closed_epoch, closed_seq, stream_seq, deadline, head, size"
)
_BY_PATH: Final = f"SELECT {_COLUMNS} FROM streams WHERE path = ?"  # noqa: S608 - constants only
_BY_DEADLINE: Final = f"SELECT {_COLUMNS} FROM streams WHERE deadline <= ? LIMIT 100"  # noqa: S608 - same
_OVERFULL: Final = (
    f"SELECT {_COLUMNS} FROM streams WHERE (size > ? AND tail - head > 1)"  # noqa: S608 - same
    " OR (head < tail AND (SELECT at FROM messages WHERE stream_id = id AND number = head) < ?) LIMIT 100"
)
_OLDEST: Final = (
    "SELECT length(data), at FROM messages WHERE stream_id = ? AND number >= ? ORDER BY number LIMIT ?"
)
_MESSAGES: Final = "SELECT data FROM messages WHERE stream_id = ? AND number >= ? ORDER BY number LIMIT ?"
_PRODUCER: Final = "SELECT epoch, seq FROM producers WHERE stream_id = ? AND producer_id = ?"
_SET_PRODUCER: Final = (
    "INSERT INTO producers VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq"
)
_SET_STREAM: Final = (
    "UPDATE streams SET tail = ?, size = ?, closed = ?, closed_producer = ?, closed_epoch = ?, closed_seq = ?,"
    " stream_seq = ?, deadline = ? WHERE id = ?"
)
_PURGED_MESSAGES_AT_ONCE: Final = 100
_KEPT_TIME_SECONDS: Final = 3600.0


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
        first = stream.tail if start is None else stream.head if start == EARLIEST else start
        return Page(stream, first, _messages(connection, stream, first, max_bytes))
    finally:
        connection.execute("COMMIT")


def served_seconds(connection: sqlite3.Connection) -> float:
    """See `Store.served_seconds`."""
    (seconds,) = connection.execute("SELECT seconds FROM served").fetchone()
    return float(seconds)


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

    def __init__(self, connection: sqlite3.Connection, room: Room) -> None:
        self._connection = connection
        self._room = room
        self._latest_at = 0.0
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
        self._room.take(len(path))
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
            self._room.take(len(change.data))
            row = (stream.id, stream.tail, change.at, change.data)
            execute("INSERT INTO messages (stream_id, number, at, data) VALUES (?, ?, ?, ?)", row)
            self._latest_at = max(self._latest_at, change.at)
        if change.producer is not None:
            mark = change.producer
            execute(_SET_PRODUCER, (stream.id, mark.producer_id, mark.epoch, mark.seq))
        by = after.closed_by
        closed_by = (None, None, None) if by is None else (by.producer_id, by.epoch, by.seq)
        execute(
            _SET_STREAM,
            (after.tail, after.size, after.closed, *closed_by, after.stream_seq, after.deadline, stream.id),
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

    def count(self) -> int:
        """See `Transaction.count`."""
        (count,) = self._connection.execute("SELECT count(*) FROM streams").fetchone()
        return int(count)

    def oldest(self, stream: Stream, count: int) -> list[Kept]:
        """See `Transaction.oldest`."""
        return [Kept(*row) for row in self._connection.execute(_OLDEST, (stream.id, stream.head, count))]

    def trim(self, stream: Stream, messages: int, size: int) -> Stream:
        """See `Transaction.trim`."""
        trimmed = replace(stream, head=stream.head + messages, size=stream.size - size)
        execute = self._connection.execute
        execute("DELETE FROM messages WHERE stream_id = ? AND number < ?", (stream.id, trimmed.head))
        execute("UPDATE streams SET head = ?, size = ? WHERE id = ?", (trimmed.head, trimmed.size, stream.id))
        return trimmed

    def overfull(self, max_bytes: int | None, before: float | None) -> list[Stream]:
        """See `Transaction.overfull`."""
        # A comparison with NULL is never true: no limit.
        return [_stream(row) for row in self._connection.execute(_OVERFULL, (max_bytes, before))]

    def keep_time(self, at: float) -> None:
        """See `Transaction.keep_time`. Seldom enough not to wear out a memory card."""
        if at >= served_seconds(self._connection) + _KEPT_TIME_SECONDS:
            self._latest_at = at

    def finish(self) -> None:
        """Write down what all changes of the transaction have in common, before it is committed."""
        if self._latest_at > served_seconds(self._connection):
            self._connection.execute("UPDATE served SET seconds = ?", (self._latest_at,))


def _messages(connection: sqlite3.Connection, stream: Stream, first: int, max_bytes: int) -> tuple[bytes, ...]:
    if not stream.head <= first < stream.tail:
        return ()
    messages: list[bytes] = []
    size = 0
    cursor = connection.execute(_MESSAGES, (stream.id, first, MAX_PAGE_MESSAGES))
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
        head,
        size,
    ) = row
    return Stream(
        id=stream_id,
        uid=uid,
        path=path,
        settings=StreamSettings(content_type, ttl_seconds, expires_at),
        tail=tail,
        head=head,
        size=size,
        closed=bool(closed),
        closed_by=None if producer_id is None else ProducerMark(producer_id, epoch, seq),
        stream_seq=stream_seq,
        deadline=deadline,
    )
