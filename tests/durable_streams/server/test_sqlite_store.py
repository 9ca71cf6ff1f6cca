"""What only the durable store promises: atomic commits, one fsync for many, survival, and its refusals."""

from __future__ import annotations

import queue
import sqlite3
import stat
import threading
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams.server import (
    Limits,
    ServerThread,
    SqliteStore,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    StreamApp,
    _commands,
    _requests,
    _rows,
)
from durable_streams.server._commands import Moment
from durable_streams.server._database import FILE_NAME, SCHEMA_VERSION
from durable_streams.testing import InProcessTransport
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from durable_streams.server._store import Change, Stream, Transaction

TEXT = {"content-type": "text/plain"}

FIRST_FORMAT = """
CREATE TABLE streams (
    id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL, path TEXT NOT NULL UNIQUE, content_type TEXT NOT NULL,
    ttl_seconds INTEGER, expires_at TEXT, tail INTEGER NOT NULL DEFAULT 0, closed INTEGER NOT NULL DEFAULT 0,
    closed_producer TEXT, closed_epoch INTEGER, closed_seq INTEGER, stream_seq TEXT, deadline REAL
);
CREATE INDEX streams_by_deadline ON streams (deadline) WHERE deadline IS NOT NULL;
CREATE TABLE messages (
    stream_id INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (stream_id, number)
) WITHOUT ROWID;
CREATE TABLE producers (
    stream_id INTEGER NOT NULL, producer_id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (stream_id, producer_id)
) WITHOUT ROWID;
CREATE TABLE trash (stream_id INTEGER PRIMARY KEY);
INSERT INTO streams (uid, path, content_type, tail) VALUES ('abc', '/s', 'text/plain', 2);
INSERT INTO messages VALUES (1, 0, CAST('one' AS BLOB)), (1, 1, CAST('two' AS BLOB));
INSERT INTO producers VALUES (1, 'p', 0, 7);
PRAGMA application_id = 1146319986;
PRAGMA user_version = 1;
"""


@contextmanager
def serving(store: SqliteStore, limits: Limits | None = None) -> Iterator[tuple[ServerThread, httpx.Client]]:
    thread = ServerThread(StreamApp(store, limits=limits))
    thread.start()
    try:
        with httpx.Client(transport=InProcessTransport(thread), base_url="http://streams.test") as client:
            yield thread, client
    finally:
        thread.stop()


@contextmanager
def held(server: ServerThread, store: SqliteStore) -> Iterator[Callable[[], int]]:
    """Keeps the writer busy; gives the number of jobs that wait for it."""
    busy, gate = threading.Event(), threading.Event()

    def hold(_: Transaction) -> bool:
        busy.set()
        return gate.wait(20)

    holding = server.run(store.transact(hold))
    assert busy.wait(20)
    try:
        yield store._jobs.qsize
    finally:
        gate.set()
    assert holding.result(20)


def mark(seq: int, epoch: int = 0) -> dict[str, str]:
    return {**TEXT, "producer-id": "p", "producer-epoch": str(epoch), "producer-seq": str(seq)}


class Onlooker:
    """Looks, before each statement of the writer, at what another connection sees of stream ``/s``."""

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self.seen: list[tuple[int, int, int, int]] = []
        self._connection = sqlite3.connect(path, check_same_thread=False)
        store._connection.set_trace_callback(self._look)

    def _look(self, _statement: str) -> None:
        row = self._connection.execute(
            "SELECT tail, closed, (SELECT count(*) FROM messages WHERE stream_id = id),"
            " (SELECT coalesce(max(seq), -1) FROM producers WHERE stream_id = id)"
            " FROM streams WHERE path = '/s'"
        ).fetchone()
        if row is not None:
            tail, closed, messages, seq = row
            self.seen.append((tail, messages, seq + 1, closed))

    def torn(self) -> list[tuple[int, int, int, int]]:
        """Committed states in which data, producer state and closure do not belong together."""
        return [
            state for state in self.seen if not (state[0] == state[1] == state[2] and state[3] == (state[0] == 5))
        ]

    def close(self) -> None:
        self._connection.close()


class TestOneTransaction:
    @pytest.fixture
    def onlooker(self, tmp_path: Path) -> Onlooker:
        store = SqliteStore(tmp_path)
        with serving(store) as (_, client):
            client.put("/s", headers=TEXT)
            onlooker = Onlooker(store, tmp_path / FILE_NAME)
            for seq in range(4):
                assert client.post("/s", headers=mark(seq), content=b"x").status_code == 200
            closing = {**mark(4), "stream-closed": "true"}
            assert client.post("/s", headers=closing, content=b"x").status_code == 200
            assert client.get("/s").content == b"xxxxx"
        onlooker.close()
        return onlooker

    def test_producer_state_commits_with_the_data(self, onlooker: Onlooker) -> None:
        assert len(set(onlooker.seen)) == 5
        assert onlooker.torn() == []

    @pytest.fixture
    def two_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        apply = _rows.SqliteTransaction.apply

        def apply_in_two_steps(self: _rows.SqliteTransaction, stream: Stream, change: Change) -> None:
            if change.data is not None:
                execute = self._connection.execute
                row = (stream.id, stream.tail, change.data)
                execute("INSERT INTO messages (stream_id, number, data) VALUES (?, ?, ?)", row)
                execute("COMMIT")
                execute("BEGIN IMMEDIATE")
                execute("DELETE FROM messages WHERE stream_id = ? AND number = ?", (stream.id, stream.tail))
            apply(self, stream, change)

        monkeypatch.setattr(_rows.SqliteTransaction, "apply", apply_in_two_steps)

    def test_the_check_finds_a_store_that_commits_twice(self, two_steps: None, onlooker: Onlooker) -> None:
        assert onlooker.torn()


class TestGroupCommit:
    @pytest.fixture
    def store(self, tmp_path: Path) -> SqliteStore:
        return SqliteStore(tmp_path)

    @pytest.fixture
    def server(self, store: SqliteStore) -> Iterator[ServerThread]:
        with serving(store) as (thread, client):
            for stream in range(8):
                client.put(f"/{stream}", headers=TEXT)
            yield thread

    def test_all_that_wait_share_one_commit(self, store: SqliteStore, server: ServerThread) -> None:
        statements: list[str] = []
        with held(server, store) as waiting:
            store._connection.set_trace_callback(statements.append)
            answers = [self._append(server, store, f"/{number % 8}") for number in range(40)]
            wait_until(lambda: waiting() == 40, what="all appends wait")
        assert {answer.result(20).status for answer in answers} == {204}
        assert statements.count("COMMIT") == 2  # that of the job which held the writer, and theirs

    def test_one_failure_harms_no_other(self, store: SqliteStore, server: ServerThread) -> None:
        with held(server, store) as waiting:
            before = self._append(server, store, "/0")
            wait_until(lambda: waiting() == 1, what="the first waits")
            failing: Future[None] = server.run(store.transact(self._fail_after_a_change))
            after = self._append(server, store, "/0")
            wait_until(lambda: waiting() == 3, what="all of them wait")
        with pytest.raises(ZeroDivisionError):
            failing.result(20)
        assert [before.result(20).status, after.result(20).status] == [204, 204]
        page = server.run(store.read("/0", 0, 1000)).result(20)
        assert page is not None
        assert page.messages == (b"x", b"x")

    def test_an_answer_comes_after_its_commit(self, store: SqliteStore, server: ServerThread) -> None:
        answered_before_commit: list[bool] = []
        answers: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

        def look(statement: str) -> None:
            if statement == "COMMIT":
                # The commit begins only when this returns: an answer that did not wait for it arrives here.
                done, _ = wait([answers.get(timeout=20)], timeout=0.2)
                answered_before_commit.append(bool(done))

        store._connection.set_trace_callback(look)
        answer = self._append(server, store, "/0")
        answers.put(answer)
        assert answer.result(20).status == 204
        assert answered_before_commit == [False]

    def test_a_commit_is_on_the_disk(self, store: SqliteStore, server: ServerThread) -> None:
        pragmas = [
            store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
        assert pragmas == ["wal", 2]

    @staticmethod
    def _append(server: ServerThread, store: SqliteStore, path: str) -> Future[Any]:
        request = _requests.AppendRequest("text/plain", close=False, producer=None, stream_seq=None)
        body = _requests.Body(b"x", sent=True)
        return server.run(
            store.transact(partial(_commands.append, path=path, request=request, body=body, moment=Moment(0.0)))
        )

    @staticmethod
    def _fail_after_a_change(transaction: Transaction) -> None:
        stream = transaction.find("/0")
        assert stream is not None
        transaction.delete(stream)
        raise ZeroDivisionError


class TestFull:
    def test_nothing_is_torn_and_all_goes_on_once_there_is_space(self, tmp_path: Path) -> None:
        piece = b"x" * 80_000
        with serving(SqliteStore(tmp_path, max_bytes=1024 * 1024)) as (_, client):
            client.put("/old", headers=TEXT, content=piece * 4)
            client.put("/s", headers=TEXT)
            stored = 0
            while (answer := client.post("/s", headers=mark(stored), content=piece)).status_code == 200:
                stored += 1
            assert (answer.status_code, answer.text) == (507, "no space left: nothing was stored\n")
            assert 3 < stored < 15
            assert client.get("/s").content == piece * stored
            assert client.head("/s").headers["stream-next-offset"] == _requests.offset(stored)
            assert client.delete("/old").status_code == 204
            wait_until(
                lambda: client.post("/s", headers=mark(stored), content=piece).status_code in {200, 204},
                what="the space of the deleted stream is free",
            )
            assert client.get("/s").content == piece * (stored + 1)


class TestRestart:
    def test_everything_is_as_it_was(self, tmp_path: Path) -> None:
        with serving(SqliteStore(tmp_path)) as (_, client):
            client.put("/s", headers={**TEXT, "stream-ttl": "1000"}, content=b"a")
            client.post("/s", headers={**mark(0, epoch=2), "stream-seq": "m"}, content=b"b")
            client.put("/closed", headers=TEXT)
            client.post("/closed", headers={**mark(0), "stream-closed": "true"}, content=b"end")
            tags = [client.get(path).headers["etag"] for path in ("/s", "/closed")]
        with serving(SqliteStore(tmp_path)) as (_, client):
            assert [client.get(path).headers["etag"] for path in ("/s", "/closed")] == tags
            assert client.get("/s").content == b"ab"
            assert client.head("/s").headers["stream-ttl"] == "1000"
            assert client.post("/s", headers=mark(0, epoch=2), content=b"b").status_code == 204
            assert client.post("/s", headers=mark(9, epoch=1), content=b"b").status_code == 403
            assert client.post("/s", headers={**TEXT, "stream-seq": "m"}, content=b"b").status_code == 409
            again = client.post("/closed", headers={**mark(0), "stream-closed": "true"}, content=b"end")
            assert (again.status_code, again.headers["producer-seq"]) == (204, "0")

    def test_a_store_of_the_first_format_is_taken_over(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / FILE_NAME) as connection:
            connection.executescript(FIRST_FORMAT)
        connection.close()
        for _ in range(2):  # the second time there is nothing left to do
            store = SqliteStore(tmp_path)
            with serving(store) as (server, client):
                assert client.get("/s").content == b"onetwo"
                assert client.post("/s", headers=mark(7)).status_code == 400
                assert client.post("/s", headers=mark(7), content=b"two").status_code == 204
                stream = server.run(store.find("/s")).result(20)
                assert stream is not None
                assert (stream.head, stream.tail, stream.size) == (0, 2, 6)
        with serving(SqliteStore(tmp_path), Limits(retain_bytes=5)) as (_, client):
            assert client.post("/s", headers=mark(8), content=b"three").status_code == 200
            assert client.get("/s").content == b"three"

    def test_what_was_left_of_deleted_streams_is_purged(self, tmp_path: Path) -> None:
        with serving(SqliteStore(tmp_path)) as (_, client):
            client.put("/s", headers=TEXT)
            for _ in range(250):
                client.post("/s", headers=TEXT, content=b"x")
        with sqlite3.connect(tmp_path / FILE_NAME) as connection:
            # As if the process had ended right after the deletion.
            connection.execute("INSERT INTO trash SELECT id FROM streams")
            connection.execute("DELETE FROM streams")
        with serving(SqliteStore(tmp_path)):
            wait_until(
                lambda: not connection.execute("SELECT 1 FROM messages UNION SELECT 1 FROM trash").fetchall(),
                what="the messages are gone",
            )
        connection.close()


class TestRefusals:
    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        with serving(SqliteStore(tmp_path)):
            with pytest.raises(StoreLockedError, match="this or another process serves"):
                SqliteStore(tmp_path)
        with serving(SqliteStore(tmp_path)):
            pass  # it is free again

    def test_a_newer_format_is_left_alone(self, tmp_path: Path) -> None:
        with serving(SqliteStore(tmp_path)):
            pass
        with sqlite3.connect(tmp_path / FILE_NAME) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.close()
        before = (tmp_path / FILE_NAME).read_bytes()
        for _ in range(2):  # the second time it would be locked if the first had kept the lock
            with pytest.raises(StoreFormatError, match=f"has format {SCHEMA_VERSION + 1}"):
                SqliteStore(tmp_path)
        assert (tmp_path / FILE_NAME).read_bytes() == before

    def test_another_programs_database_is_left_alone(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / FILE_NAME) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        with pytest.raises(StoreFormatError, match="not a stream store"):
            SqliteStore(tmp_path)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / FILE_NAME).write_bytes(b"nonsense" * 1000)
        with pytest.raises(StoreFormatError, match="damaged or not a store"):
            SqliteStore(tmp_path)

    def test_a_schema_that_cannot_even_be_quoted(self, tmp_path: Path) -> None:
        with serving(SqliteStore(tmp_path)):
            pass
        file = tmp_path / FILE_NAME
        file.write_bytes(file.read_bytes().replace(b"CREATE TABLE", b"CREATE T\xffBLE"))
        with pytest.raises(StoreFormatError, match="is damaged: its schema cannot be read"):
            SqliteStore(tmp_path)

    def test_a_directory_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot create"):
            SqliteStore(tmp_path / "file" / "data")


class TestPrivacy:
    def test_the_files_are_for_their_user_alone_whatever_the_directory(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        with serving(SqliteStore(tmp_path)) as (_, client):
            client.put("/s", headers={"content-type": "text/plain"}, content=b"x")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == dict.fromkeys(("streams.db", "streams.db-wal", "streams.db-shm", "lock"), 0o600)

    @pytest.mark.parametrize(
        ("directory", "file", "told"), [(0o755, 0o644, 1), (0o700, 0o644, 0), (0o755, 0o600, 0)]
    )
    def test_files_that_others_may_open_are_left_so_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, directory: int, file: int, told: int
    ) -> None:
        with serving(SqliteStore(tmp_path)):
            pass
        path = tmp_path / "streams.db"
        path.chmod(file)
        tmp_path.chmod(directory)
        with serving(SqliteStore(tmp_path)):
            assert stat.S_IMODE(path.stat().st_mode) == file
        said = f"store.not_private: other users may open {path}; chmod 600 {path}* shuts them out"
        assert caplog.messages == [said] * told
