"""Random operations on both stores at once and on a model of the protocol: all three say the same, always.

The stores are also compared with each other, header by header and byte by byte; the model knows only what the
protocol says. Offsets and entity tags are opaque: they are noted with what they stand for, and must keep to it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from durable_streams.server import Limits, MemoryStore, ServerThread, SqliteStore, StreamApp, _rows, _rules
from durable_streams.testing import InProcessTransport
from harness.clock import Clock
from harness.server_model import HEADERS, Expected, Model, Post, Put, Units, parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_streams.server._rules import Ruling
    from durable_streams.server._store import Change, ProducerMark, Stream


def seldom(times: int) -> st.SearchStrategy[bool]:
    """True once in so many times. (Of a range of integers, the ends come more often.)"""
    return st.sampled_from([True] + [False] * (times - 1))


# The clock moves by multiples of ten and all deadlines end in five: a server may let a stream live a second longer
# than asked for, and nobody looks in that second.
STEPS = st.sampled_from([10, 10, 20, 50, 100])
TTLS = st.sampled_from([None, None, None, 15, 45, 105])
EXPIRIES = st.sampled_from([None, None, 35, 95])

PAGE_BYTES = 300
PATHS = st.sampled_from(["/a", "/a", "/b"])
JSON = "application/json"
TYPES = st.sampled_from(["text/plain", JSON, "application/octet-stream"])
SPELLINGS = {"text/plain": "Text/Plain; charset=utf-8", JSON: "application/JSON ; x=y"}
PADS = st.sampled_from(["", "", "", "é" * 90, "x" * 400])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3), PADS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


def spaced(value: object, before: str, after: str, *, compact: bool) -> bytes:
    separators = (",", ":") if compact else (" ,\n", " : ")
    return f"{before}{json.dumps(value, separators=separators)}{after}".encode()


SPACE = st.sampled_from(["", "", " ", "\n\t "])
JSON_BODIES = st.builds(
    spaced, st.lists(VALUES, min_size=1, max_size=4) | VALUES, SPACE, SPACE, compact=st.booleans()
)
WRONG_JSON = st.sampled_from([b"[", b"nonsense", b"[1,]", b"{}{}", b"\xff", b"[]", b" [ ] "])
PLAIN_BODIES = st.binary(min_size=1, max_size=8) | PADS.filter(bool).map(str.encode)


# A producer, and how far its epoch and its seq are from what was accepted last; a seq of None is 0.
MARKS = st.tuples(
    st.sampled_from("pppq"),
    st.sampled_from([0, 0, 0, 0, 1, -1, 2]),
    st.sampled_from([1, 1, 1, 1, 1, 0, -1, 2, 9, None]),
)


@dataclass
class Side:
    """A server under test, and what its offsets and entity tags stood for so far."""

    name: str
    store: Callable[[], MemoryStore | SqliteStore]
    clock: Clock
    offsets: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    """By incarnation of a stream and position."""
    tags: dict[tuple[int, int, int, bool], str] = field(default_factory=dict[tuple[int, int, int, bool], str])
    """By incarnation, start, end, and whether the stream ends there."""

    def start(self) -> None:
        limits = Limits(page_bytes=PAGE_BYTES, long_poll_timeout_seconds=20)
        self._thread = ServerThread(StreamApp(self.store(), limits=limits, clock=self.clock))
        self._thread.start()
        self._client = httpx.Client(transport=InProcessTransport(self._thread), base_url="http://streams.test")

    def stop(self) -> None:
        self._client.close()
        self._thread.stop()

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> httpx.Response:
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        return self._client.request(method, path, headers=encoded, content=body)

    def note_offset(self, incarnation: int, position: int, offset: str) -> None:
        assert self.offsets.setdefault((incarnation, position), offset) == offset, f"{self.name}: {position}"
        known = sorted((where, token) for (which, where), token in self.offsets.items() if which == incarnation)
        tokens = [token for _, token in known]
        assert tokens == sorted(set(tokens)), f"{self.name}: offsets are not in the order of positions: {known}"

    def note_tag(self, what: tuple[int, int, int, bool], tag: str) -> None:
        assert self.tags.setdefault(what, tag) == tag, f"{self.name}: {what} has another tag"
        assert len(set(self.tags.values())) == len(self.tags), f"{self.name}: {tag} stands for two things"


def check(name: str, answer: httpx.Response, expected: Expected) -> None:
    """What the model says of an answer's status and headers."""
    compared = HEADERS if answer.status_code >= 400 or answer.status_code == 204 else (*HEADERS, "content-type")
    headers = {header: answer.headers[header] for header in compared if header in answer.headers}
    shown = (answer.status_code, headers)
    assert shown == (expected.status, expected.headers), f"{name}: {answer.text[:200]}"


def alike(memory: httpx.Response, sqlite: httpx.Response) -> None:
    """Two servers' answers to the same request; entity tags name the server's own streams."""
    shown = [
        (
            answer.status_code,
            sorted((name, value) for name, value in answer.headers.items() if name != "etag"),
            answer.content,
        )
        for answer in (memory, sqlite)
    ]
    assert shown[0] == shown[1]


class Servers(RuleBasedStateMachine):
    """Two servers and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = Model(self.clock())
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name) / "streams"
        self.memory = Side("memory", MemoryStore, self.clock)
        self.sqlite = Side("sqlite", lambda: SqliteStore(folder), self.clock)
        self.both = (self.memory, self.sqlite)
        self.last_batch: tuple[str, Post] | None = None
        for side in self.both:
            side.start()

    def teardown(self) -> None:
        for side in self.both:
            side.stop()
        self._folder.cleanup()

    # -- writing

    @initialize(types=st.tuples(TYPES, TYPES), ttl=TTLS)
    def begin(self, types: tuple[str, str], ttl: int | None) -> None:
        for path, content_type in zip(("/a", "/b"), types, strict=True):
            self._create(path, Put(content_type, ttl=ttl))

    @rule(
        path=PATHS, content_type=TYPES, ttl=TTLS, expiry=EXPIRIES, closed=seldom(6),
        data=st.data(),
    )  # fmt: skip
    def create(
        self,
        path: str,
        content_type: str,
        ttl: int | None,
        expiry: int | None,
        data: st.DataObject,
        *,
        closed: bool,
    ) -> None:
        instant = None
        if expiry is not None and ttl is None:
            seconds = self.clock() + expiry
            instant = (datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), seconds)
        body = b"" if data.draw(st.booleans()) else self._body(data, content_type)
        self._create(path, Put(content_type, body, closed, ttl, instant))

    @precondition(lambda self: self.streams())
    @rule(path=PATHS, closed=st.booleans())
    def create_again(self, path: str, *, closed: bool) -> None:
        stream = self.model.stream(path)
        if stream is not None:
            there = stream.put
            spelling = SPELLINGS.get(there.content_type, there.content_type)
            self._create(path, Put(spelling, b"1", closed, there.ttl, there.expires_at))

    def _create(self, path: str, put: Put) -> None:
        headers = {"content-type": put.content_type}
        if put.closed:
            headers["stream-closed"] = "true"
        if put.ttl is not None:
            headers["stream-ttl"] = str(put.ttl)
        if put.expires_at is not None:
            headers["stream-expires-at"] = put.expires_at[0]
        self._ask_both("PUT", path, headers, put.body, lambda: self.model.create(path, put))

    @rule(
        path=PATHS, data=st.data(), close=seldom(8), empty=seldom(8),
        seq=st.sampled_from([None, None, None, "1", "2", "10", "\xe4"]),
    )  # fmt: skip
    def append(self, path: str, data: st.DataObject, seq: str | None, *, close: bool, empty: bool) -> None:
        content_type, body = (None, b"") if empty else self._content(path, data)
        self._append(path, Post(content_type, body, close, stream_seq=seq))

    @rule(path=PATHS, data=st.data(), name=st.sampled_from("pppq"))
    def produce(self, path: str, data: st.DataObject, name: str) -> None:
        self._produce(path, Post(*self._content(path, data)), (name, 0, 1))

    @rule(path=PATHS, data=st.data(), mark=MARKS, seq=st.sampled_from([None, None, "5"]), close=seldom(4))
    def produce_anything(
        self, path: str, data: st.DataObject, mark: tuple[str, int, int | None], seq: str | None, *, close: bool
    ) -> None:
        content_type, body = self._content(path, data)
        body = b"" if close and data.draw(st.booleans()) else body
        self._produce(path, Post(content_type, body, close, stream_seq=seq), mark)

    def _produce(self, path: str, post: Post, mark: tuple[str, int, int | None]) -> None:
        stream = self.model.stream(path)
        name, epochs_on, seqs_on = mark
        known, last = (0, -1) if stream is None else stream.producers.get(name, (0, -1))
        producer = (name, max(0, known + epochs_on), 0 if seqs_on is None else max(0, last + seqs_on))
        self.last_batch = (path, replace(post, producer=producer))
        self._append(*self.last_batch)

    @precondition(lambda self: self.last_batch)
    @rule()
    def send_again(self) -> None:
        assert self.last_batch is not None
        self._append(*self.last_batch)

    @precondition(lambda self: any(stream.closed_by for stream in self.streams()))
    @rule(path=PATHS, body=st.sampled_from([b"", b"1"]), seq=st.sampled_from([0, 0, 1, -1]))
    def close_once_more(self, path: str, body: bytes, seq: int) -> None:
        stream = self.model.stream(path)
        if stream is not None and stream.closed_by is not None:
            name, epoch, last = stream.closed_by
            mark = (name, epoch, max(0, last + seq))
            self._append(path, Post(stream.put.content_type, body, close=True, producer=mark))

    def _append(self, path: str, post: Post) -> None:
        headers: list[tuple[str, str]] = []
        if post.content_type is not None:
            headers.append(("content-type", post.content_type))
        if post.close:
            headers.append(("stream-closed", "true"))
        if post.producer is not None:
            names = ("producer-id", "producer-epoch", "producer-seq")
            headers += [(name, str(value)) for name, value in zip(names, post.producer, strict=True)]
        if post.stream_seq is not None:
            headers.append(("stream-seq", post.stream_seq))
        self._ask_both("POST", path, dict(headers), post.body, lambda: self.model.append(path, post))

    @rule(path=PATHS, really=seldom(4))
    def delete(self, path: str, *, really: bool) -> None:
        if really:
            self._ask_both("DELETE", path, {}, b"", lambda: self.model.delete(path))

    # -- reading

    @rule(path=PATHS)
    def head(self, path: str) -> None:
        self._ask_both("HEAD", path, {}, b"", lambda: self.model.head(path))

    @rule(path=PATHS, data=st.data(), live=st.booleans())
    def read(self, path: str, data: st.DataObject, *, live: bool) -> None:
        stream = self.model.stream(path)
        start = self._known_position(path, data)
        # A long-poll that has nothing to tell would wait.
        live = live and stream is not None and start is not None and (start < stream.tail or stream.closed)
        self._read(path, start, "&live=long-poll" if live else "")

    @rule(path=PATHS)
    def read_all(self, path: str) -> None:
        stream = self.model.stream(path)
        position = self._read(path, 0)
        while stream is not None and position is not None and position < stream.tail:
            position = self._read(path, position)

    @rule(path=PATHS, data=st.data())
    def read_what_another_stream_called_so(self, path: str, data: st.DataObject) -> None:
        """An offset of a stream that was deleted, or of the other one: whatever it means, both take it alike."""
        if self.memory.offsets:
            which = data.draw(st.sampled_from(sorted(self.memory.offsets)))
            answers = [side.ask("GET", f"{path}?offset={side.offsets[which]}") for side in self.both]
            alike(*answers)
            if answers[0].status_code == 200:
                self.model.use(path)

    @rule(path=PATHS)
    def read_now(self, path: str) -> None:
        stream = self.model.stream(path)
        answers = [side.ask("GET", f"{path}?offset=now") for side in self.both]
        alike(*answers)
        for side, answer in zip(self.both, answers, strict=True):
            if stream is None:
                assert answer.status_code == 404
            else:
                self._check_page(side, path, stream.tail, answer)
                assert "etag" not in answer.headers
        self.model.use(path)

    @rule(path=PATHS, data=st.data())
    def revalidate(self, path: str, data: st.DataObject) -> None:
        start = self._known_position(path, data)
        if start is None or not self.memory.tags or self._read(path, start) is None:
            return
        stream = self.model.stream(path)
        assert stream is not None
        which = data.draw(st.sampled_from(sorted(self.memory.tags)))
        answers: list[httpx.Response] = []
        for side in self.both:
            url = f"{path}?offset={self._token(side, stream.incarnation, start)}"
            whole = side.ask("GET", url)
            given = side.tags[which]
            answer = side.ask("GET", url, {"if-none-match": given})
            same = whole.headers["etag"] == given
            assert (answer.status_code, answer.content) == ((304, b"") if same else (200, whole.content))
            for header in ("etag", "stream-next-offset", "stream-up-to-date", "stream-closed"):
                assert answer.headers.get(header) == whole.headers.get(header)
            answers.append(answer)
        alike(*answers)

    # -- the world

    @rule(seconds=STEPS)
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock()

    @rule()
    def restart(self) -> None:
        self.sqlite.stop()
        self.sqlite.start()

    # -- how it is done

    def streams(self) -> list[object]:
        return [stream for path in ("/a", "/b") if (stream := self.model.stream(path)) is not None]

    def _content(self, path: str, data: st.DataObject) -> tuple[str, bytes]:
        """Mostly of the type that the stream has, now and then in another spelling, or of another one."""
        stream = self.model.stream(path)
        choice = data.draw(st.sampled_from(range(12)))
        if stream is None or choice == 0:
            content_type = data.draw(TYPES)
        else:
            there = stream.put.content_type
            content_type = SPELLINGS.get(there, there) if choice == 1 else there
        return content_type, self._body(data, content_type)

    @staticmethod
    def _body(data: st.DataObject, content_type: str) -> bytes:
        if JSON not in content_type.lower():
            return data.draw(PLAIN_BODIES)
        return data.draw(WRONG_JSON if data.draw(seldom(8)) else JSON_BODIES)

    def _ask_both(
        self, method: str, path: str, headers: dict[str, str], body: bytes, model: Callable[[], Expected]
    ) -> None:
        answers = [side.ask(method, path, headers, body) for side in self.both]
        expected = model()
        stream = self.model.stream(path)
        for side, answer in zip(self.both, answers, strict=True):
            check(f"{side.name}: {method} {path}", answer, expected)
            offset = answer.headers.get("stream-next-offset")
            if expected.position is not None:
                assert offset is not None
            if offset is not None:
                # A refusal need not tell where the stream ends; if it does, it is the truth.
                assert stream is not None
                position = stream.tail if expected.position is None else expected.position
                side.note_offset(stream.incarnation, position, offset)
        alike(*answers)

    def _known_position(self, path: str, data: st.DataObject) -> int | None:
        """A position of the stream that has been seen in an offset, or its start; None without a stream."""
        stream = self.model.stream(path)
        if stream is None:
            return None
        seen = {position for which, position in self.memory.offsets if which == stream.incarnation}
        return data.draw(st.sampled_from(sorted({0} | seen)))

    @staticmethod
    def _token(side: Side, incarnation: int, position: int) -> str:
        return side.offsets.get((incarnation, position), "-1")

    def _read(self, path: str, start: int | None, more: str = "") -> int | None:
        """Read a page of both and check it; returns where it ends, or None without a stream."""
        stream = self.model.stream(path)
        incarnation = 0 if stream is None else stream.incarnation
        answers = [
            side.ask("GET", f"{path}?offset={self._token(side, incarnation, start or 0)}{more}")
            for side in self.both
        ]
        alike(*answers)
        if stream is None:
            assert answers[0].status_code == 404
            return None
        self.model.use(path)
        ends = [
            self._check_page(side, path, start or 0, answer)
            for side, answer in zip(self.both, answers, strict=True)
        ]
        assert ends[0] == ends[1]
        return ends[0]

    def _check_page(self, side: Side, path: str, start: int, answer: httpx.Response) -> int:
        stream = self.model.stream(path)
        assert stream is not None
        if answer.status_code == 204:
            assert start == stream.tail
            check(side.name, answer, Expected(204, {"stream-up-to-date": "true", "stream-closed": "true"}))
            side.note_offset(stream.incarnation, start, answer.headers["stream-next-offset"])
            return start
        got: Units | None = parsed(stream.put.content_type, answer.content)
        assert got is not None
        assert got or start == stream.tail, f"{side.name}: an empty page before the end"
        expected, units = self.model.page(path, start, len(got))
        assert got == units
        check(side.name, answer, expected)
        end = start + len(got)
        side.note_offset(stream.incarnation, end, answer.headers["stream-next-offset"])
        if "etag" in answer.headers:
            final = stream.closed and end == stream.tail
            side.note_tag((stream.incarnation, start, end, final), answer.headers["etag"])
        return end


def run(examples: int, **more: Any) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    run_state_machine_as_test(Servers, settings=chosen)


def test_the_stores_and_the_model_say_the_same() -> None:
    run(examples=15)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_so_they_do_in_very_many_stories() -> None:
    run(examples=1500)


class TestTheMachine:
    """It finds a rule that is wrong in both stores, and a store that forgets what the other one keeps."""

    @staticmethod
    def find() -> None:
        # The same stories each time; the first that fails is as good as the shortest one.
        run(examples=100, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False)

    def test_it_finds_a_duplicate_that_is_taken_for_new(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule_on_producer = _rules._rule_on_producer

        def off_by_one(offered: ProducerMark, known: ProducerMark | None, stream: Stream) -> Ruling | None:
            return None if offered == known else rule_on_producer(offered, known, stream)

        monkeypatch.setattr(_rules, "_rule_on_producer", off_by_one)
        with pytest.raises(AssertionError, match=r"memory: POST"):
            self.find()

    def test_it_finds_a_closure_that_is_not_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        apply = _rows.SqliteTransaction.apply

        def apply_without_closure(transaction: _rows.SqliteTransaction, stream: Stream, change: Change) -> None:
            apply(transaction, stream, replace(change, close=False))

        monkeypatch.setattr(_rows.SqliteTransaction, "apply", apply_without_closure)
        with pytest.raises(AssertionError, match="sqlite: "):
            self.find()
