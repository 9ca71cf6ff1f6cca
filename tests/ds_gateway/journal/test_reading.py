"""A journal that is read while somebody else has it: it says what the writer committed, and nothing is changed."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.errors import JournalDamagedError, JournalError, JournalFormatError
from ds_gateway.journal import rows
from ds_gateway.journal.disk import Disk
from ds_gateway.journal.plan import Plan
from ds_gateway.journal.reading import MAX_DAMAGED_TOLD, read_books, read_journal
from ds_gateway.journal.state import load
from ds_gateway.records import Item, Loss, Record, loss_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ds_gateway.spans import Spans
    from durable_streams import SealedBatch

URL = "http://streams.test/v1"
NOBODY = 65534


class Writer:
    """What the journal's writer does, one transaction at a call."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.disk = Disk(directory)
        self.state = load(self.disk, "g")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disk.close()

    def commit(self, change: Callable[[Plan], Any]) -> Any:
        plan = Plan(self.state, self.disk.read, url=URL, segment_max_bytes=100_000, now_ns=lambda: 0)
        result = change(plan)
        with self.disk.transaction():
            for key, row in plan.finish().items():
                if row is None:
                    self.disk.delete(key)
                else:
                    self.disk.write(key, row)
        return result

    def accept(self, count: int, stream: str = "s") -> None:
        self.commit(lambda plan: plan.accept([Item(Record(stream, "d", b'"data":{"value":1}}'))] * count))

    def seal(self, max_bytes: int = 100_000, max_records: int | None = None) -> SealedBatch:
        batch: SealedBatch = self.commit(
            lambda plan: plan.seal(self.state.by_name["s"], max_bytes, max_records=max_records)
        )
        return batch

    def reseal(self, max_records: int) -> SealedBatch:
        batch: SealedBatch = self.commit(lambda plan: plan.reseal(self.state.by_name["s"], max_records))
        return batch

    def resolve(self, offset: str = "1") -> None:
        book = self.state.by_name["s"]
        assert book.sealed is not None
        seq = book.sealed.seq
        self.commit(lambda plan: plan.resolve(book, seq, offset))

    def trim(self, keep_bytes: int = 0) -> None:
        self.commit(lambda plan: plan.trim(self.state.by_name["s"], keep_bytes))


def sql(directory: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(directory / "journal" / "cache.db")) as connection, connection:
        assert connection.execute(statement, values).rowcount


def damage(directory: Path, key: str) -> None:
    """Flip the last bit of a row."""
    with closing(sqlite3.connect(directory / "journal" / "cache.db")) as connection, connection:
        (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (value[:-1] + bytes([value[-1] ^ 1]), key))


def positions(spans: Spans) -> set[int]:
    return {position for first, last in spans for position in range(first, last + 1)}


def positions_of(batch: SealedBatch) -> set[int]:
    return {int(message["id"].rpartition(".")[2]) for message in orjson.loads(batch.body)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(1, 5)),
        st.tuples(st.just("seal"), st.integers(100, 800)),
        st.tuples(st.just("seal smaller"), st.integers(1, 6)),
        st.tuples(st.just("reseal"), st.integers(1, 3)),
        st.tuples(st.just("resolve"), st.just(0)),
        st.tuples(st.just("trim"), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=20)
@given(STEPS)
def test_every_position_is_where_the_writer_left_it(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Writer(Path(folder)) as writer:
        writer.accept(1)
        book = writer.state.by_name["s"]
        sealed, resolved, is_trimmed = set[int](), set[int](), False
        for step, number in steps:
            match step:
                case "accept":
                    writer.accept(number)
                case "seal" if book.sealed is None and book.open_records:
                    sealed = positions_of(writer.seal(number))
                case "seal smaller" if book.sealed is None and book.open_records:
                    sealed = positions_of(writer.seal(max_records=number))
                case "reseal" if book.sealed is not None:
                    sealed = positions_of(writer.reseal(number))
                case "resolve" if book.sealed is not None:
                    writer.resolve()
                    resolved |= sealed
                    sealed = set()
                case "trim":
                    is_trimmed = True
                    writer.trim()
                case _:
                    pass
            seen = read_journal(Path(folder)).streams["s"]
            everything = set(range(1, book.next_position))
            assert seen.book.next_position == book.next_position
            assert positions(seen.sealed) == sealed
            assert positions(seen.waiting) == everything - resolved
            assert positions(seen.kept) <= resolved
            assert is_trimmed or positions(seen.kept) == resolved
            assert seen.damaged == seen.damaged_copies == []
            # All up to there are resolved, and the next one is not, as far as there is one.
            assert seen.settled == len(resolved)


def test_several_streams_and_the_counters(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.accept(3, "a")
        writer.accept(2, "b/c")
        loss = Loss("id_gap", False, 4, 0, 0)
        writer.commit(lambda plan: plan.accept([Item(loss), Item(loss)]))
        view = read_journal(tmp_path)
        assert {name: list(each.waiting) for name, each in view.streams.items()} == {
            "a": [(1, 3)],
            "b/c": [(1, 2)],
            "gateway/g": [(1, 2)],
        }
        assert view.losses == {"id_gap": (2, 8)}
        assert view.identity == writer.state.identity
        assert view.damaged == []
        books = read_books(tmp_path)
        assert {name: each.book.next_position for name, each in books.streams.items()} == {
            "a": 4,
            "b/c": 3,
            "gateway/g": 3,
        }
        assert not any(each.waiting for each in books.streams.values())


def test_loss_records_that_wait_are_found_and_sent_ones_are_not(tmp_path: Path) -> None:
    def lost(first: int, last: int) -> Item:
        tail = loss_tail(Loss("shed_newest", True, 1, 0, 0), gateway="g", time_ns=0, positions=(first, last))
        return Item(Record("s", "d", tail))

    with Writer(tmp_path) as writer:
        writer.commit(lambda plan: plan.accept([lost(1, 1)]))
        writer.seal()
        writer.resolve()
        writer.commit(lambda plan: plan.accept([Item(Record("s", "d", b'"data":{"kind":"loss"}}')), lost(3, 9)]))
        view = read_journal(tmp_path).streams["s"]
        assert [(loss.cause, loss.certain, loss.span) for loss in view.losses] == [("shed_newest", True, (3, 9))]


def test_positions_behind_a_loss_record_are_not_dense_and_what_is_refused_is_named(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.accept(1)
        book = writer.state.by_name["s"]

        def write_loss(plan: Plan) -> None:
            lost = plan.loss_element(book, "corrupt", (2, 5))
            rest = [plan.loss_element(book, "corrupt", (9, 9))]
            key = rows.segment_key(1, 2)
            plan.rows[key] = rows.encode_segment(key, rows.make_segment(2, [lost, *rest]))
            book.next_segment, book.next_position = 3, 10
            book.refuse("shed_newest", "d", 0, "")
            book.refuse("shed_newest", "d", 0, "")
            plan.touch(book)

        writer.commit(write_loss)
    view = read_journal(tmp_path).streams["s"]
    assert list(view.waiting) == [(1, 2), (9, 9)]
    assert [(loss.cause, loss.span) for loss in view.losses] == [
        ("corrupt", (2, 5)),
        ("corrupt", (9, 9)),
        ("shed_newest", (10, 11)),
    ]


def test_a_reader_neither_waits_for_a_writer_nor_sees_what_is_not_committed(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.accept(2)
        with writer.disk.transaction():
            writer.disk.write(rows.segment_key(1, 2), b"nonsense")
            writer.disk.delete(rows.stream_key(1))
            view = read_journal(tmp_path)
            writer.disk.write(
                rows.stream_key(1), rows.encode_json(rows.stream_key(1), writer.state.books[1].to_row())
            )
        assert list(view.streams["s"].waiting) == [(1, 2)]


def test_nothing_is_changed(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.accept(2)
    before = (tmp_path / "journal" / "cache.db").read_bytes()
    read_journal(tmp_path)
    assert (tmp_path / "journal" / "cache.db").read_bytes() == before
    with Writer(tmp_path) as writer:
        writer.accept(1)
        assert list(read_journal(tmp_path).streams["s"].waiting) == [(1, 3)]


class TestDamage:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        with Writer(tmp_path) as writer:
            writer.accept(2)
            writer.seal()
            writer.resolve()
            for _ in range(3):
                writer.accept(2)
        return tmp_path

    def test_of_a_record_that_waits(self, directory: Path) -> None:
        damage(directory, rows.segment_key(1, 3))
        view = read_journal(directory).streams["s"]
        assert list(view.waiting) == [(3, 4), (7, 8)]
        assert [each.split(":")[0] for each in view.damaged] == ["journal row s/000001/000000000003 is damaged"]
        assert view.damaged_copies == []

    def test_of_a_copy(self, directory: Path) -> None:
        damage(directory, rows.segment_key(1, 1))
        view = read_journal(directory).streams["s"]
        assert list(view.waiting) == [(3, 8)]
        assert (view.damaged, len(view.damaged_copies)) == ([], 1)

    @pytest.mark.parametrize(
        "value",
        [
            None,
            "text",
            5,
            b"",
            b"abc",
            rows.protect(rows.segment_key(1, 2), b""),
            rows.protect(rows.segment_key(1, 2), b"x" * 30),
            rows.encode_segment(rows.segment_key(1, 3), rows.make_segment(3, [b'{"id":"i.a.3"}'])),
        ],
    )
    def test_of_every_kind(self, directory: Path, value: object) -> None:
        sql(directory, "UPDATE Cache SET value = ? WHERE key = ?", value, rows.segment_key(1, 2))
        view = read_journal(directory).streams["s"]
        assert list(view.waiting) == [(5, 8)]
        assert len(view.damaged) == 1

    def test_a_row_that_is_gone(self, directory: Path) -> None:
        sql(directory, "DELETE FROM Cache WHERE key = ?", rows.segment_key(1, 2))
        assert list(read_journal(directory).streams["s"].waiting) == [(5, 8)]

    @pytest.mark.parametrize("change", [{"sealed": 5}, {"unknown": 1}, {"name": ["x"]}])
    def test_of_a_stream_of_another_version(self, directory: Path, change: dict[str, Any]) -> None:
        with Writer(directory) as writer:
            row = writer.state.books[1].to_row()
            with writer.disk.transaction():
                writer.disk.write(rows.stream_key(1), rows.encode_json(rows.stream_key(1), {**row, **change}))
        view = read_journal(directory)
        assert view.streams == {}
        assert view.damaged[0].startswith("journal row k/000001 is damaged, or of another version")

    def test_of_a_stream_and_of_the_counters(self, directory: Path) -> None:
        damage(directory, rows.stream_key(1))
        damage(directory, rows.COUNTERS)
        view = read_journal(directory)
        assert view.streams == {}
        assert [each.split()[2] for each in view.damaged] == [rows.COUNTERS, "k/000001"]

    def test_of_the_row_that_says_whose_it_is(self, directory: Path) -> None:
        damage(directory, rows.META)
        with pytest.raises(JournalDamagedError, match=r"a/meta is damaged.*restart the gateway: it salvages"):
            read_journal(directory)
        sql(directory, "DELETE FROM Cache WHERE key = ?", rows.META)
        with pytest.raises(JournalDamagedError, match=r"has no row a/meta.*restart the gateway"):
            read_journal(directory)

    def test_is_not_told_without_end(self, tmp_path: Path) -> None:
        with Writer(tmp_path / "data") as writer:
            for _ in range(MAX_DAMAGED_TOLD + 5):
                writer.accept(1)
        sql(tmp_path / "data", "UPDATE Cache SET value = x'00' WHERE key LIKE 's/%'")
        assert len(read_journal(tmp_path / "data").streams["s"].damaged) == MAX_DAMAGED_TOLD

    def test_of_the_whole_file(self, directory: Path) -> None:
        (directory / "journal" / "cache.db").write_bytes(b"no database" * 1000)
        with pytest.raises(JournalDamagedError, match=r"is damaged as a whole.*restart the gateway: it salvages"):
            read_journal(directory)


class TestRefused:
    def test_a_newer_format(self, tmp_path: Path) -> None:
        with Writer(tmp_path) as writer, writer.disk.transaction():
            meta = {"format": rows.FORMAT + 1, "gateway": "g", "install": "i"}
            writer.disk.write(rows.META, rows.encode_json(rows.META, meta))
        with pytest.raises(JournalFormatError, match=rf"has format {rows.FORMAT + 1}.*newer"):
            read_journal(tmp_path)

    def test_no_journal(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match=f"there is no journal in {tmp_path}: no gateway has run"):
            read_journal(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "journal" / "cache.db").mkdir(parents=True)
        with pytest.raises(JournalError, match=r"cannot be read: Is a directory"):
            read_journal(tmp_path)

    def test_somebody_elses(self) -> None:
        with tempfile.TemporaryDirectory() as folder, Writer(Path(folder)) as writer:
            Path(folder).chmod(0o755)
            writer.accept(1)
            (Path(folder) / "journal" / "cache.db").chmod(0o600)
            with unprivileged(), pytest.raises(JournalError, match=r"Permission denied; run this as the user of"):
                read_journal(Path(folder))

    def test_a_folder_that_cannot_be_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with Writer(Path(folder)) as writer:
                writer.accept(1)
            Path(folder).chmod(0o755)
            (Path(folder) / "journal").chmod(0o555)
            (Path(folder) / "journal" / "cache.db").chmod(0o644)
            with (
                unprivileged(),
                pytest.raises(JournalError, match=r"its folder cannot be written.*copy the folder"),
            ):
                read_journal(Path(folder))
            (Path(folder) / "journal").chmod(0o755)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who owns nothing, where this is root; anybody else has no rights that need to be given up."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
