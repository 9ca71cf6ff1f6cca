"""The SQLite store's own promises: one file, one producer at a time, bounded, and clear about what is wrong."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest

from durable_streams import (
    MessageError,
    ProducerFullError,
    ProducerStoreDamagedError,
    ProducerStoreError,
    ProducerStoreLockedError,
    SqliteProducerStore,
    is_control_message,
)
from durable_streams import _store_writer as store_writer
from durable_streams._store_file import StoreFile, translated
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from durable_streams import SealedBatch

URL = "http://streams.test/v1/s"
ROOM = 1 << 20
NOTES = b"notes of last week" * 100

OPEN_IT = """
import anyio, sys
from durable_streams import ProducerStoreError, SqliteProducerStore
async def main():
    try:
        await SqliteProducerStore(sys.argv[1]).open("p", sys.argv[2])
    except ProducerStoreError as error:
        print(type(error).__name__, error)
anyio.run(main)
"""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@asynccontextmanager
async def opened(
    path: Path, producer_id: str = "p", url: str = URL, **options: Any
) -> AsyncIterator[SqliteProducerStore]:
    store = SqliteProducerStore(path, **options)
    try:
        await store.open(producer_id, url)
        yield store
    finally:
        await store.aclose()


async def fill(path: Path, *messages: Any, **options: Any) -> None:
    """Leave a store with these messages behind."""
    async with opened(path, **options) as store:
        for message in messages:
            await store.append(message)


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def open_in_another_process(path: Path) -> str:
    argv = [sys.executable, "-c", OPEN_IT, str(path), URL]
    run = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    return run.stdout


def content(path: Path) -> bytes:
    return path.read_bytes()


def replace(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


def overwrite(path: Path, at: int, content: bytes) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.mark.anyio
class TestMessages:
    async def test_what_was_appended_is_on_the_disk_in_its_order(self, path: Path) -> None:
        async with opened(path) as store:
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(store.append, {"n": number})
            await store.append('  "text" ')
            await store.append(b"[1,  2]")
            batch = await store.next_batch(ROOM)
        stored = orjson.loads(batch.body)
        assert sorted(message["n"] for message in stored[:50]) == list(range(50))
        assert stored[50:] == ["text", [1, 2]]

    async def test_appends_that_come_together_share_a_commit(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commits = 0
        usual = StoreFile.transaction

        def counted(file: StoreFile) -> Any:
            nonlocal commits
            commits += 1
            return usual(file)

        async with opened(path) as store:
            monkeypatch.setattr(StoreFile, "transaction", counted)
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(store.append, number)
        assert commits < 20

    @pytest.mark.parametrize("message", ["not JSON", float("nan"), object(), b"\xff", "", '"\\ud800"'])
    async def test_what_is_no_json_is_refused_alone(self, path: Path, message: object) -> None:
        async with opened(path) as store:
            with pytest.raises(MessageError):
                await store.append(message)
            await store.append(1)
            assert (await store.next_batch(ROOM)).body == b"[1]"

    @pytest.mark.parametrize(
        "message",
        [
            {"$producer": {"kind": "claim", "id": "x", "epoch": 1}},
            '{"\\u0024producer": {"kind": "probe"}}',
        ],
    )
    async def test_what_readers_would_drop_is_refused(self, path: Path, message: object) -> None:
        async with opened(path) as store:
            with pytest.raises(MessageError, match="wrap it"):
                await store.append(message)
            await store.append({"$producer": {"kind": "lathe"}, "n": 1})

    async def test_the_claim_says_whose_it_is_and_is_recognised(self, path: Path) -> None:
        async with opened(path) as store:
            (claim,) = orjson.loads(store.claim_body(3))
            (probe,) = orjson.loads(store.probe_body())
        assert claim == {"$producer": {"kind": "claim", "id": "p", "epoch": 3}}
        assert is_control_message(claim)
        assert is_control_message(probe)

    async def test_ids_are_put_into_objects_and_nothing_else_changes(self, path: Path) -> None:
        async with opened(path, id_member="id") as store:
            await store.append({"a": [1]})
            await store.append("{ }")
            for wrong in ({"id": 1}, [1], "7"):
                with pytest.raises(MessageError, match="'id'"):
                    await store.append(wrong)
            first, second = orjson.loads((await store.next_batch(ROOM)).body)
        lineage = first["id"].partition(".")[0]
        assert first == {"id": f"{lineage}.1", "a": [1]}
        assert second == {"id": f"{lineage}.2"}


@pytest.mark.anyio
class TestRoom:
    async def test_an_append_waits_until_the_server_has_taken_enough(self, path: Path) -> None:
        async with opened(path, max_bytes=4096) as store:
            appended = []

            async def append() -> None:
                for number in range(8):
                    await store.append(orjson.dumps("x" * 1000))
                    appended.append(number)

            await store.save_claim(0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append)
                await await_room(appended, 3)
                batch = await store.next_batch(2100)
                assert batch.count == 2
                await store.resolve(batch, "b")
                await await_room(appended, 5)
                tasks.cancel_scope.cancel()

    async def test_a_message_that_can_never_fit_is_refused(self, path: Path) -> None:
        async with opened(path, max_bytes=4096) as store:
            with pytest.raises(MessageError, match="does not fit into a store of 4096"):
                await store.append(orjson.dumps("x" * 4096))

    async def test_what_nobody_awaits_is_bounded_in_memory(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_writer, "MAX_WAITING_BYTES", 10_000)
        async with opened(path, max_bytes=4096) as store:
            with pytest.raises(ProducerFullError, match="await append") as raised:
                append_often(store, wait=True)
            assert raised.value.records == (b"1" * 100,)

    async def test_without_waiting_a_full_store_is_an_error(self, path: Path) -> None:
        async with opened(path, max_bytes=4096) as store:
            with pytest.raises(ProducerFullError, match="of 4096"):
                append_often(store, wait=False)

    async def test_a_full_disk_refuses_messages_and_lets_the_producer_go_on(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_writer, "FULL_DISK_SECONDS", 0.01)
        async with opened(path) as store:
            await store.save_claim(0)
            await store.append(0)
            await limit(store, "max_page_count = 1")  # SQLite makes it what the file has now
            with pytest.raises(ProducerFullError, match=r"no space left for .*outbox.db"):
                await append_until_full(store)
            batch = await store.next_batch(ROOM)
            assert batch.count == store.pending_count > 1
            await store.resolve(batch, "b")
            await limit(store, "max_page_count = 100000")
            await store.append(1)
            assert (await store.next_batch(ROOM)).body == b"[1]"

    async def test_what_the_producer_must_commit_waits_for_a_full_disk(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_writer, "FULL_DISK_SECONDS", 0.01)
        refusals = 3
        usual = StoreFile.transaction

        def full_at_first(file: StoreFile) -> Any:
            nonlocal refusals
            refusals -= 1
            return _full(file) if refusals >= 0 else usual(file)

        async with opened(path) as store:
            monkeypatch.setattr(StoreFile, "transaction", full_at_first)
            await store.save_anchor("a")
            assert refusals < 0
            assert (await store.load()).anchor == "a"

    async def test_closing_with_a_full_disk_does_not_wait_for_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_writer, "FULL_DISK_SECONDS", 60)
        async with opened(path) as store:
            monkeypatch.setattr(StoreFile, "transaction", _full)
            waiting = store.calls.save_anchor("a")
            group, _ = store.calls.append(b"1", wait=True)
            await store.aclose()
            assert isinstance(waiting.exception(), ProducerFullError)
            assert isinstance(group.stored.exception(), ProducerFullError)
            monkeypatch.undo()


def append_often(store: SqliteProducerStore, *, wait: bool) -> None:
    for _ in range(1000):
        store.calls.append(b"1" * 100, wait=wait)


async def append_until_full(store: SqliteProducerStore) -> None:
    for _ in range(100):
        await store.append(orjson.dumps("x" * 1000))


def _full(file: StoreFile) -> Any:
    """A transaction that finds no room."""
    return _FullTransaction(file)


class _FullTransaction:
    def __init__(self, file: StoreFile) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        with translated(self._file.path):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error


async def limit(store: SqliteProducerStore, pragma: str) -> None:
    """Have the store's own connection execute a PRAGMA."""
    done = store.calls._writer.call(lambda rows: rows._execute(f"PRAGMA {pragma}").fetchall())
    await await_until(done.done, what="the PRAGMA is executed")
    done.result()


async def await_room(appended: list[int], count: int) -> None:
    await await_until(lambda: len(appended) >= count, what=f"{count} messages are stored")
    assert len(appended) == count


@pytest.mark.anyio
class TestTheFile:
    async def test_a_commit_is_on_the_disk_when_it_returns(self, path: Path) -> None:
        file = StoreFile(path)
        try:
            assert file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
        finally:
            file.close()

    async def test_it_has_one_producer_at_a_time(self, path: Path) -> None:
        async with opened(path) as store:
            with pytest.raises(ProducerStoreError, match="has a producer already"):
                await store.open("p", URL)
            with pytest.raises(ProducerStoreLockedError, match=r"outbox.db is in use"):
                async with opened(path):
                    pass
            answer = open_in_another_process(path)
            assert answer.startswith("ProducerStoreLockedError")
            assert str(path) in answer
            await store.append(1)
        await fill(path, 2)

    async def test_it_belongs_to_one_producer_and_one_stream(self, path: Path) -> None:
        await fill(path, 1)
        with pytest.raises(ProducerStoreError, match="the store of producer 'p', not of 'q'"):
            await fill(path, 2, producer_id="q")
        with pytest.raises(ProducerStoreError, match=r"messages for http://streams.test/v1/s, not for .*/other"):
            await fill(path, 2, url="http://streams.test/v1/other")
        with pytest.raises(ProducerStoreError, match="id_member=None, not 'id'"):
            await fill(path, 2, id_member="id")
        await fill(path, 2, url=f"http://user:secret@streams.test/v1/s?signature={'x' * 10}")
        assert rows(path, "SELECT count(*) FROM messages") == [(2,)]
        assert rows(path, "SELECT url FROM producer") == [(URL,)]

    async def test_the_epoch_of_a_new_file_is_the_callers(self, path: Path) -> None:
        store = SqliteProducerStore(path)
        await store.open("p", URL, epoch=7)
        assert (await store.load()).epoch == 7
        await store.aclose()
        await store.open("p", URL)
        assert (await store.load()).epoch == 7
        await store.aclose()

    async def test_its_name_may_be_a_str_and_relative(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        async with opened(path.name) as store:  # type: ignore[arg-type]
            assert store.path == path

    async def test_a_place_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ProducerStoreError, match=r"no directory .*nowhere.*create it"):
            await fill(tmp_path / "nowhere" / "outbox.db")
        with pytest.raises(ProducerStoreError, match="cannot be opened"):
            await fill(tmp_path)

    async def test_what_is_no_database_is_left_alone(self, path: Path) -> None:
        overwrite(path, 0, NOTES)
        with pytest.raises(ProducerStoreDamagedError, match=r"outbox.db is no SQLite database"):
            await fill(path)
        assert content(path) == NOTES

    async def test_another_programs_database_is_left_alone(self, path: Path) -> None:
        spoil(path, "CREATE TABLE theirs (x)")
        with pytest.raises(ProducerStoreError, match="database of another program"):
            await fill(path)
        assert rows(path, "SELECT name FROM sqlite_master") == [("theirs",)]

    async def test_another_format_is_left_alone(self, path: Path) -> None:
        await fill(path, 1)
        spoil(path, "PRAGMA user_version = 2")
        with pytest.raises(
            ProducerStoreError, match=r"has format 2, and .* knows only 1: use the version that wrote"
        ):
            await fill(path, 2)
        assert rows(path, "SELECT count(*) FROM messages") == [(1,)]

    @pytest.mark.parametrize(
        ("statement", "what"),
        [
            ("DELETE FROM messages WHERE position = 1", "it has 2 messages, not 3"),
            ("UPDATE messages SET position = 9 WHERE position = 2", "message 2 is not what was stored"),
            ("UPDATE messages SET data = '7' WHERE position = 3", "message 3 is not what was stored"),
        ],
    )
    async def test_damaged_messages_are_never_sent(self, path: Path, statement: str, what: str) -> None:
        await fill(path, 0, 1, 2)
        spoil(path, statement)
        with pytest.raises(ProducerStoreDamagedError, match=what):
            async with opened(path) as store:
                await store.next_batch(ROOM)
        with pytest.raises(ProducerStoreDamagedError, match="is damaged"):
            async with opened(path) as store:
                await store.next_batch(ROOM)

    async def test_a_sealed_batch_that_changed_is_never_sent(self, path: Path) -> None:
        async with opened(path) as store:
            await store.append(1)
            await store.next_batch(ROOM)
        spoil(path, "UPDATE producer SET sealed_crc = sealed_crc + 1")
        with pytest.raises(ProducerStoreDamagedError, match="batch 1 is not what was sealed"):
            await fill(path)

    async def test_a_damaged_database_is_named(self, path: Path) -> None:
        await fill(path, *range(1000))
        overwrite(path, 4096, b"\xff" * 8192)
        with pytest.raises(ProducerStoreDamagedError, match=r"outbox.db is damaged: SQLite says.*Move it away"):
            await fill(path)

    async def test_a_schema_that_cannot_even_be_quoted_is_named(self, path: Path) -> None:
        await fill(path, 1)
        replace(path, b"CREATE TABLE", b"CREATE T\xffBLE")
        with pytest.raises(ProducerStoreDamagedError, match=r"outbox.db is damaged: its schema cannot be read"):
            await fill(path)

    async def test_after_a_failed_commit_it_takes_nothing_until_it_is_opened_again(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody knows what is on the disk then: the next process, or `restart`, looks."""
        async with opened(path) as store:
            monkeypatch.setattr(StoreFile, "transaction", _broken)
            with pytest.raises(ProducerStoreError, match=r"outbox.db failed .*may or may not be in it"):
                await store.append(1)
            monkeypatch.undo()
            with pytest.raises(ProducerStoreError, match="failed"):
                await store.append(2)
            await store.aclose()
            await store.open("p", URL)
            await store.append(3)
            assert orjson.loads((await store.next_batch(ROOM)).body)[-1] == 3

    async def test_it_is_not_used_across_a_fork(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with opened(path) as store:
            real = os.getpid()
            monkeypatch.setattr(os, "getpid", lambda: real + 1)
            with pytest.raises(ProducerStoreError, match=f"opened in process {real}"):
                await store.append(1)
            monkeypatch.undo()

    async def test_a_store_that_is_not_open_says_so(self, path: Path) -> None:
        store = SqliteProducerStore(path)
        assert store.pending_count == 0
        await store.aclose()
        with pytest.raises(ProducerStoreError, match="is not open"):
            await store.append(1)

    async def test_another_batch_than_the_sealed_one_is_not_resolved(self, path: Path) -> None:
        async with opened(path) as store:
            await store.append(1)
            batch = await store.next_batch(ROOM)
            await store.resolve(batch, "b")
            with pytest.raises(ProducerStoreError, match="batch 1 of epoch 0 is not the sealed one"):
                await store.resolve(batch, "c")


def _broken(file: StoreFile) -> Any:
    return _BrokenTransaction(file)


class _BrokenTransaction(_FullTransaction):
    def __exit__(self, *_: object) -> None:
        with translated(self._file.path):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (sqlite3.SQLITE_READONLY_DBMOVED, "cannot be written"),
        (sqlite3.SQLITE_CANTOPEN, "cannot be opened"),
        (sqlite3.SQLITE_CORRUPT_VTAB, "is damaged"),
        (sqlite3.SQLITE_IOERR_WRITE, "may or may not be in it"),
    ],
)
def test_every_error_of_sqlite_names_the_file(path: Path, code: int, message: str) -> None:
    error = sqlite3.OperationalError("why")
    error.sqlite_errorcode = code
    with pytest.raises(ProducerStoreError, match=message) as raised, translated(path):
        raise error
    assert str(path) in str(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "arguments", [{"max_bytes": 0}, {"max_bytes": True}, {"id_member": ""}, {"id_member": "$producer"}]
)
def test_arguments_that_make_no_sense_are_refused(path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SqliteProducerStore(path, **arguments)


@pytest.mark.anyio
class TestBeginningAgain:
    async def test_the_messages_stay_and_the_server_is_forgotten(self, path: Path) -> None:
        async with opened(path) as store:
            await store.save_anchor("a")
            await store.save_claim(0)
            for number in range(3):
                await store.append(number)
            await store.resolve(await store.next_batch(1), "b")
            sealed: SealedBatch = await store.next_batch(1)
            assert sealed.body == b"[1]"
        SqliteProducerStore(path).begin_again("http://elsewhere.test/s")
        async with opened(path, url="http://elsewhere.test/s") as store:
            state = await store.load()
            assert (state.epoch, state.claimed, state.anchor, state.batch) == (1, False, None, None)
            assert store.pending_count == 2
            await store.save_claim(1)
            batch = await store.next_batch(ROOM)
            assert (batch.epoch, batch.seq, batch.body) == (1, 1, b"[1,2]")

    async def test_it_is_for_a_store_at_rest(self, path: Path) -> None:
        with pytest.raises(ProducerStoreError, match="there is no store"):
            SqliteProducerStore(path).begin_again()
        async with opened(path) as store:
            with pytest.raises(ProducerStoreError, match="close it before"):
                store.begin_again()
            with pytest.raises(ProducerStoreLockedError):
                SqliteProducerStore(path).begin_again()
        with pytest.raises(ProducerStoreError, match="epoch 0 is not higher than 0"):
            SqliteProducerStore(path).begin_again(epoch=0)
        SqliteProducerStore(path).begin_again(epoch=5)
        async with opened(path) as store:
            assert (await store.load()).epoch == 5

    async def test_new_ids_cannot_be_old_ones(self, path: Path) -> None:
        await fill(path, {}, id_member="id")
        SqliteProducerStore(path).begin_again()
        await fill(path, {}, id_member="id")
        first, second = (orjson.loads(data)["id"] for (data,) in rows(path, "SELECT data FROM messages"))
        assert first.partition(".")[0] != second.partition(".")[0]
