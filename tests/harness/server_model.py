"""A stream server in plain Python, written from PROTOCOL.md a second time, to compare real ones with.

It shares no code with them. A position counts bytes, or in JSON streams values; what an offset looks like is the
servers' own affair. Where the protocol leaves a choice, the comment says which one ours is held to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

Units = tuple[object, ...]


@dataclass(frozen=True)
class Put:
    """A request to create. ``expires_at`` is a text and the same instant in seconds."""

    content_type: str
    body: bytes = b""
    closed: bool = False
    ttl: int | None = None
    expires_at: tuple[str, float] | None = None


@dataclass(frozen=True)
class Post:
    """A request to append, to close, or both. A producer is its id, epoch and seq."""

    content_type: str | None
    body: bytes = b""
    close: bool = False
    producer: tuple[str, int, int] | None = None
    stream_seq: str | None = None


@dataclass(frozen=True)
class Expected:
    """An answer: its status, and of the headers below all those that it has."""

    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    position: int | None = None
    """What ``Stream-Next-Offset`` stands for; None: there is none, or the model does not care."""


HEADERS = (
    "stream-closed",
    "stream-up-to-date",
    "stream-ttl",
    "stream-expires-at",
    "producer-epoch",
    "producer-seq",
    "producer-expected-seq",
    "producer-received-seq",
)
"""Compared on every answer; and ``content-type`` where something was found."""


@dataclass
class ModelStream:
    """One stream, from its creation to its deletion."""

    incarnation: int
    put: Put
    last_use: float
    units: Units = ()
    closed: bool = False
    closed_by: tuple[str, int, int] | None = None
    stream_seq: str | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @property
    def tail(self) -> int:
        """The position behind the last unit."""
        return len(self.units)

    @property
    def is_json(self) -> bool:
        """Whether units are values."""
        return bare(self.put.content_type) == "application/json"

    def ended(self, now: float) -> bool:
        """Whether its time is over. Tests keep away from the second in which a server may choose."""
        if self.put.expires_at is not None:
            return now >= self.put.expires_at[1]
        return self.put.ttl is not None and now >= self.last_use + self.put.ttl

    def marks(self) -> dict[str, str]:
        """The header that a closed stream has."""
        return {"stream-closed": "true"} if self.closed else {}


class Model:
    """All streams."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._streams: dict[str, ModelStream] = {}
        self._incarnations = 0

    def stream(self, path: str) -> ModelStream | None:
        """The stream, unless there is none or its time is over."""
        stream = self._streams.get(path)
        return None if stream is None or stream.ended(self.now) else stream

    def create(self, path: str, put: Put) -> Expected:
        """PUT, section 5.1."""
        stream = self.stream(path)
        if stream is not None:
            wanted = (bare(put.content_type), put.ttl, put.expires_at and put.expires_at[1], put.closed)
            there = stream.put
            # Choice: a PUT that finds the stream is neither a read nor a write, and extends nothing.
            if wanted != (
                bare(there.content_type), there.ttl, there.expires_at and there.expires_at[1], stream.closed
            ):  # fmt: skip
                return Expected(409)
            return Expected(200, {"content-type": there.content_type, **stream.marks()}, stream.tail)
        units = parsed(put.content_type, put.body) if put.body else ()
        if units is None:
            return Expected(400)
        self._incarnations += 1
        stream = ModelStream(self._incarnations, put, self.now, units, put.closed)
        self._streams[path] = stream
        return Expected(201, {"content-type": put.content_type, **stream.marks()}, stream.tail)

    def append(self, path: str, post: Post) -> Expected:
        """POST, sections 5.2 and 5.3."""
        # Choice: what is wrong whatever the stream's state is told first.
        if not post.body and not post.close:
            return Expected(400)
        if post.body and post.content_type is None:
            return Expected(400)
        stream = self.stream(path)
        if stream is None:
            return Expected(404)
        if stream.closed:
            return self._append_to_closed(stream, post)
        if post.body and bare(post.content_type) != bare(stream.put.content_type):
            return Expected(409)
        if post.producer is not None:
            refused = self._check_producer(stream, post.producer)
            if refused is not None:
                return refused
        units = parsed(stream.put.content_type, post.body) if post.body else ()
        if units is None or (post.body and not units):
            return Expected(400)
        if post.stream_seq is not None and stream.stream_seq is not None and post.stream_seq <= stream.stream_seq:
            return Expected(409)
        return self._store(stream, post, units)

    def delete(self, path: str) -> Expected:
        """DELETE, section 5.4."""
        stream = self.stream(path)
        if stream is None:
            return Expected(404)
        del self._streams[path]
        return Expected(204)

    def head(self, path: str) -> Expected:
        """HEAD, section 5.5."""
        stream = self.stream(path)
        if stream is None:
            return Expected(404)
        headers = {"content-type": stream.put.content_type, **stream.marks()}
        if stream.put.ttl is not None:
            headers["stream-ttl"] = str(stream.put.ttl)
        if stream.put.expires_at is not None:
            headers["stream-expires-at"] = stream.put.expires_at[0]
        return Expected(200, headers, stream.tail)

    def use(self, path: str) -> None:
        """A read: the time to live begins anew."""
        stream = self.stream(path)
        if stream is not None:
            stream.last_use = self.now

    def page(self, path: str, start: int, length: int) -> tuple[Expected, Units]:
        """GET, section 5.6: the answer whose body holds ``length`` units, and these units."""
        stream = self.stream(path)
        assert stream is not None
        end = start + length
        headers = {"content-type": stream.put.content_type}
        if end == stream.tail:
            headers |= {"stream-up-to-date": "true", **stream.marks()}
        return Expected(200, headers, end), stream.units[start:end]

    def _append_to_closed(self, stream: ModelStream, post: Post) -> Expected:
        if post.producer is not None and post.producer == stream.closed_by:
            _, epoch, seq = post.producer
            return Expected(204, {**stream.marks(), **echo(epoch, seq)}, stream.tail)
        if post.close and not post.body:
            return Expected(204, stream.marks(), stream.tail)
        return Expected(409, stream.marks(), stream.tail)

    def _check_producer(self, stream: ModelStream, offered: tuple[str, int, int]) -> Expected | None:
        name, epoch, seq = offered
        if name not in stream.producers:
            # Choice: an unknown producer may begin with any epoch.
            return None if seq == 0 else gap(0, seq)
        known, last = stream.producers[name]
        if epoch < known:
            return Expected(403, {"producer-epoch": str(known)})
        if epoch > known:
            return None if seq == 0 else Expected(400)
        if seq <= last:
            return Expected(204, echo(known, last))
        return gap(last + 1, seq) if seq > last + 1 else None

    def _store(self, stream: ModelStream, post: Post, units: Units) -> Expected:
        stream.units += units
        stream.closed = post.close
        stream.last_use = self.now
        if post.stream_seq is not None:
            stream.stream_seq = post.stream_seq
        headers = stream.marks()
        if post.producer is not None:
            name, epoch, seq = post.producer
            stream.producers[name] = (epoch, seq)
            headers |= echo(epoch, seq)
            if post.close:
                stream.closed_by = post.producer
        new_data_of_a_producer = post.producer is not None and post.body
        return Expected(200 if new_data_of_a_producer else 204, headers, stream.tail)


def bare(content_type: str | None) -> str:
    """A media type without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def parsed(content_type: str, body: bytes) -> Units | None:
    """The units of a body; None if it is not what its type says."""
    if bare(content_type) != "application/json":
        return tuple(body)
    try:
        value = json.loads(body)
    except ValueError:
        return None
    # As text: Python takes 1, 1.0 and True for the same.
    return tuple(json.dumps(each, sort_keys=True) for each in (value if isinstance(value, list) else [value]))


def echo(epoch: int, seq: int) -> dict[str, str]:
    """What a producer is told of itself."""
    return {"producer-epoch": str(epoch), "producer-seq": str(seq)}


def gap(expected: int, received: int) -> Expected:
    """A batch is missing."""
    return Expected(409, {"producer-expected-seq": str(expected), "producer-received-seq": str(received)})
