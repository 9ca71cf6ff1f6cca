"""A kill before each single statement of the writer: the files as they are then, opened again and written on.

SIGKILL takes nothing back that was written to a file, so a copy of the files is what it leaves. The writer stands
still while they are copied.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from durable_streams.server import ServerThread, SqliteStore, StreamApp, _rows
from durable_streams.server._database import FILE_NAME
from durable_streams.server._store import Change
from durable_streams.testing import InProcessTransport
from harness import batch_audit
from harness.batch_audit import BYTES, JSON, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_streams.server._store import Stream

BATCHES = 4


@contextmanager
def serving(store: SqliteStore) -> Iterator[httpx.Client]:
    thread = ServerThread(StreamApp(store))
    thread.start()
    try:
        with httpx.Client(transport=InProcessTransport(thread), base_url="http://streams.test") as client:
            yield client
    finally:
        thread.stop()


def send(client: httpx.Client, content_type: str, batch: int) -> httpx.Response:
    mark = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(batch)}
    closing = {"stream-closed": "true"} if batch == BATCHES - 1 else {}
    body = batch_audit.encode(content_type, batch, 5000)
    return client.post("/s", headers={"content-type": content_type, **mark, **closing}, content=body)


class Kills:
    """The files of a store before each statement of its writer, and how much was acknowledged by then."""

    def __init__(self, store: SqliteStore, data: Path, copies: Path) -> None:
        self.left: list[tuple[Path, int, str]] = []
        self.acknowledged = 0
        self._data = data
        self._copies = copies
        store._connection.set_trace_callback(self._copy)

    def _copy(self, statement: str) -> None:
        copy = self._copies / str(len(self.left))
        copy.mkdir(parents=True)
        # Not the lock, which ends with its process, nor the index of the log, which is made anew.
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            shutil.copy(self._data / name, copy / name)
        self.left.append((copy, self.acknowledged, statement))


def write_and_kill(content_type: str, folder: Path) -> Kills:
    """Write a stream to its end with a kill before each statement."""
    store = SqliteStore(folder / "data")
    with serving(store) as client:
        assert client.put("/s", headers={"content-type": content_type}).status_code == 201
        kills = Kills(store, folder / "data", folder / "copies")
        for batch in range(BATCHES):
            assert send(client, content_type, batch).status_code == 200
            kills.acknowledged += 1
        store._connection.set_trace_callback(None)
    return kills


def verdict_after(copy: Path, content_type: str, acknowledged: int) -> Verdict:
    """Send what was not acknowledged again, as a producer does, and judge the stream."""
    with serving(SqliteStore(copy)) as client:
        for batch in range(acknowledged, BATCHES):
            assert send(client, content_type, batch).status_code in {200, 204}
        page = client.get("/s")
        verdict = batch_audit.judge(BATCHES, BATCHES, batch_audit.decode(content_type, [page.content]))
        if "stream-closed" not in page.headers:
            verdict.damages.append("the stream is open, though its last batch was acknowledged")
        return verdict


@pytest.mark.parametrize("content_type", [JSON, BYTES], ids=["values", "bytes"])
def test_every_batch_is_stored_once_wherever_the_kill_comes(content_type: str, tmp_path: Path) -> None:
    kills = write_and_kill(content_type, tmp_path)
    verdicts = {
        f"{acknowledged} acknowledged, before {statement:.60}": verdict_after(copy, content_type, acknowledged)
        for copy, acknowledged, statement in kills.left
    }
    # Each batch has a beginning, an end, and at least its data, its producer and its stream to store between.
    assert len(verdicts) >= BATCHES * 5
    harmed = {where: verdict for where, verdict in verdicts.items() if not verdict.fine}
    assert not harmed, f"batches are lost or stored twice: {harmed}"


class TestTheCheck:
    """It finds a store that commits the producer's state apart from the data, in either order."""

    @pytest.fixture(params=["data first", "producer first"])
    def two_commits(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        apply = _rows.SqliteTransaction.apply
        order: str = request.param

        def store_data(self: _rows.SqliteTransaction, stream: Stream, change: Change) -> None:
            # Not the closure: the producer that closed a stream is part of the stream's own row.
            apply(self, stream, Change(data=change.data))

        def store_producer(self: _rows.SqliteTransaction, stream: Stream, change: Change) -> None:
            apply(self, stream, Change(producer=change.producer))

        def apply_in_two_transactions(self: _rows.SqliteTransaction, stream: Stream, change: Change) -> None:
            if change.close or change.data is None or change.producer is None:
                apply(self, stream, change)
                return
            steps = [store_data, store_producer] if order == "data first" else [store_producer, store_data]
            steps[0](self, stream, change)
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN IMMEDIATE")
            now = self.find(stream.path)
            assert now is not None
            steps[1](self, now, change)

        monkeypatch.setattr(_rows.SqliteTransaction, "apply", apply_in_two_transactions)
        return order

    def test_it_does(self, two_commits: str, tmp_path: Path) -> None:
        kills = write_and_kill(BYTES, tmp_path)
        found = sum((verdict_after(copy, BYTES, acknowledged) for copy, acknowledged, _ in kills.left), Verdict())
        if two_commits == "data first":
            assert (found.stored_twice > 0, found.lost) == (True, 0)
        else:
            assert (found.stored_twice, found.lost > 0) == (0, True)
