"""A damaged journal: what is readable reaches the streams, the rest is set aside and told, the gateway starts."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import struct
import zlib
from contextlib import closing, suppress
from random import Random, SystemRandom
from typing import TYPE_CHECKING

import pytest

from ds_gateway.errors import JournalDamagedError, JournalError, JournalFormatError, JournalIdentityError
from ds_gateway.journal import Journal
from ds_gateway.journal import rows as journal_rows
from ds_gateway.journal.disk import SUSPECT, Disk
from ds_gateway.journal.files import JournalFiles
from ds_gateway.journal.names import read_names
from ds_gateway.journal.pages import Carver
from ds_gateway.journal.reading import read_journal
from ds_gateway.journal.salvage import SalvageSettings, salvage
from ds_gateway.journal.wal import read_wal
from harness.damaged_journal import (
    GATEWAY,
    LIMITS,
    URL,
    Filling,
    Kept,
    drain,
    judge,
    make_journal,
    record,
    values_by_page,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE_BYTES = 4096
FRAME_BYTES = PAGE_BYTES + 24
WAL_HEADER_BYTES = 32
INDEX_LEAF = 0x0A
TABLE_LEAF = 0x0D
FLIPS = 40

Image = tuple["Path", Kept]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """As a kill leaves it: a database, a log that has more, and the log's index."""
    folder = tmp_path_factory.mktemp("crashed") / "data"
    return folder, make_journal(folder, crashed=True)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """As a clean end leaves it: everything is in the database."""
    folder = tmp_path_factory.mktemp("closed") / "data"
    return folder, make_journal(folder, crashed=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def database(data: Path) -> Path:
    return data / "journal" / "cache.db"


def log(data: Path) -> Path:
    return data / "journal" / "cache.db-wal"


def fresh(image: Image, data: Path) -> Kept:
    """An own copy of the journal."""
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(image[0], data)
    return image[1]


def overwrite(file: Path, start: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(data)


def flip(file: Path, start: int, mask: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(start)
        (byte,) = opened.read(1)
        opened.seek(start)
        opened.write(bytes([byte ^ mask]))


def damage_row(data: Path, key: str) -> bytes:
    """Flip a bit in a row's value where SQLite does not notice; return the value as it was."""
    with closing(sqlite3.connect(database(data))) as connection, connection:
        (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
        broken = value[:-3] + bytes([value[-3] ^ 1]) + value[-2:]
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (broken, key))
    return bytes(value)


def add_gate(data: Path) -> bytes:
    """Put in a row of a source's gate."""
    key = journal_rows.gate_key("hall", "meta")
    row = journal_rows.protect(key, b"ring")
    disk = Disk(data)
    with disk.transaction():
        disk.write(key, row)
    disk.close()
    return row


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestADamagedSmallRow:
    """SQLite reads everything, and one checksum is wrong."""

    def test_the_row_of_a_stream_costs_nothing_but_certainty(self, closed: Image, data: Path) -> None:
        kept = fresh(closed, data)
        damage_row(data, journal_rows.stream_key(1))
        drained = drain(data)
        judge(kept, drained)
        assert drained.values == kept.unresolved, "kept batches prove what is in the stream, the name is beside"
        assert [loss["certain"] for loss in drained.losses] == [False]
        assert "14 records of a" in drained.told
        assert "5 records of b" in drained.told, "of the other stream only the batch that was on its way"

    @pytest.mark.parametrize("key", [journal_rows.META, journal_rows.COUNTERS])
    def test_other_rows_cost_nothing(self, closed: Image, data: Path, key: str) -> None:
        kept = fresh(closed, data)
        damage_row(data, key)
        drained = drain(data)
        assert drained.values == kept.unresolved
        assert len(drained.set_aside) == 1

    def test_what_may_come_twice_is_named_by_its_old_ids(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        old = identity(data)
        damage_row(data, journal_rows.COUNTERS)
        told = drain(data).told
        assert f"5 records of a (old ids {old[:8]}." in told
        assert ".11 to " in told
        assert ".15)" in told

    def test_it_is_a_new_install_that_goes_on_with_the_brokers_sessions(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        old = identity(data)
        damage_row(data, journal_rows.COUNTERS)
        for _ in range(2):
            journal = Journal.open(data, gateway=GATEWAY, url=URL, limits=LIMITS)
            assert journal.identity.install != old
            assert journal.identity.mqtt_client == f"g-{old[:6]}"
            journal.stop()
        damage_row(data, journal_rows.META)
        journal = Journal.open(data, gateway=GATEWAY, url=URL, limits=LIMITS)
        assert journal.identity.mqtt_client == f"g-{old[:6]}", "over a second salvage, too"
        journal.stop()

    def test_the_damaged_journal_is_kept_whole(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        damage_row(data, journal_rows.COUNTERS)
        before = journal_rows_of(data / "journal")
        (name,) = drain(data).set_aside
        assert journal_rows_of(data / name) == before

    def test_the_quarantine_is_taken_over(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        damage_row(data, journal_rows.COUNTERS)
        journal = Journal.open(data, gateway=GATEWAY, url=URL, limits=LIMITS)
        assert journal.snapshot().quarantined == 1
        journal.stop()
        ((key, row),) = [each for each in journal_rows_of(data / "journal") if each[0].startswith("q/")]
        assert journal_rows.decode_json(key, row)["raw"] == b"\xff{".hex()

    def test_gates_are_kept_where_all_that_they_stand_for_is_there(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        gate = add_gate(data)
        commit = counters(data)["commit"]
        damage_row(data, journal_rows.stream_key(1))
        assert "what brokers deliver again" not in drain(data).told
        assert dict(journal_rows_of(data / "journal"))["g/hall/meta"] == gate
        assert counters(data)["commit"] > commit, "marks beside the journal name them"

    def test_gates_are_dropped_where_records_are_lost(self, closed: Image, data: Path) -> None:
        """A gate that knows a lost record would drop the copy that the broker still has."""
        fresh(closed, data)
        add_gate(data)
        damage_row(data, journal_rows.segment_key(1, 12))
        damage_row(data, journal_rows.META)
        assert "what brokers deliver again" in drain(data).told
        assert "g/hall/meta" not in dict(journal_rows_of(data / "journal"))

    def test_a_lost_segment_is_counted(self, closed: Image, data: Path) -> None:
        kept = fresh(closed, data)
        damage_row(data, journal_rows.segment_key(1, 12))
        damage_row(data, journal_rows.COUNTERS)
        drained = drain(data)
        judge(kept, drained, may_lose={"a11"})
        certain = [loss for loss in drained.losses if loss["certain"]]
        assert [(loss["cause"], loss["count"]) for loss in certain] == [("corrupt", 1)]
        assert "stream a:" in certain[0]["detail"]

    def test_a_lost_segment_is_counted_by_positions_where_the_streams_row_is_lost_too(
        self, closed: Image, data: Path
    ) -> None:
        kept = fresh(closed, data)
        damage_row(data, journal_rows.segment_key(1, 14))
        damage_row(data, journal_rows.stream_key(1))
        drained = drain(data)
        judge(kept, drained, may_lose={"a13"})
        told = [(loss["certain"], loss["count"]) for loss in drained.losses if "stream a:" in loss["detail"]]
        assert told == [(False, 1)]

    @pytest.mark.parametrize("damaged", [[2], [2, 3]])
    def test_what_a_loss_record_stands_for_is_not_counted_again(self, data: Path, damaged: list[int]) -> None:
        filling = Filling(data)
        filling.accept(record("a0", "a"))
        for number in (1, 3):
            filling.accept(record(f"a{number}", "a"), record(f"a{number + 1}", "a"))
        filling.accept(record("a5", "a"))
        assert filling.journal.stop()
        for number in damaged:
            damage_row(data, journal_rows.segment_key(1, number))
        filling = Filling(data)
        asyncio.run(filling.journal.store(1, birth={}).next_batch(PAGE_BYTES))
        assert filling.journal.stop()
        damage_row(data, journal_rows.stream_key(1))
        drained = drain(data)
        assert drained.values["a"][:: len(drained.values["a"]) - 1] == ["a0", "a5"]
        assert "stream a:" not in drained.told

    def test_another_streams_segment_under_its_key_is_left_out(self, closed: Image, data: Path) -> None:
        """Up to format 2 a row's checksum did not cover its key."""
        kept = fresh(closed, data)
        mine, others = journal_rows.segment_key(1, 14), journal_rows.segment_key(2, 14)
        row = dict(journal_rows_of(data / "journal"))[others]
        disk = Disk(data)
        with disk.transaction():
            disk.write(mine, zlib.crc32(row[4:]).to_bytes(4, "little") + row[4:])
        disk.close()
        damage_row(data, journal_rows.COUNTERS)
        judge(kept, drain(data), may_lose={"a13"})

    def test_old_copies_of_rows_are_taken_once(self, closed: Image, data: Path) -> None:
        kept = fresh(closed, data)
        content = database(data).read_bytes()
        pages = [content[start : start + PAGE_BYTES] for start in range(0, len(content), PAGE_BYTES)]
        damage_row(data, journal_rows.COUNTERS)
        with database(data).open("ab") as file:
            file.writelines(page for page in pages if page[0] == TABLE_LEAF)
        drained = drain(data)
        assert drained.values == kept.unresolved
        assert len(drained.set_aside) == 1


class TestWhoseJournalItIs:
    """Damaged or not, what is not ours to touch is not touched."""

    def test_a_newer_format_is_refused(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        newer = {"format": journal_rows.FORMAT + 1, "gateway": GATEWAY, "install": "x" * 26}
        disk = Disk(data)
        with disk.transaction():
            disk.write(journal_rows.META, journal_rows.encode_json(journal_rows.META, newer))
        disk.close()
        overwrite(database(data), 0, b"z" * 100)
        before = everything_in(data / "journal")
        with pytest.raises(JournalFormatError, match="newer"):
            Journal.open(data, gateway=GATEWAY, url=URL)
        assert everything_in(data / "journal") == before
        assert not list(data.glob("journal.salvaging*"))

    @pytest.mark.parametrize("lost", ["", journal_rows.META])
    def test_another_gateways_is_refused(self, closed: Image, data: Path, lost: str) -> None:
        fresh(closed, data)
        if lost:
            damage_row(data, lost)
        overwrite(database(data), 0, b"z" * 100)
        with pytest.raises(JournalIdentityError, match=r"'g'.*'other'"):
            Journal.open(data, gateway="other", url=URL)
        assert not list(data.glob("journal.*-*"))

    def test_another_gateways_is_refused_when_only_the_file_beside_says_so(
        self, closed: Image, data: Path
    ) -> None:
        fresh(closed, data)
        database(data).write_bytes(b"")
        with pytest.raises(JournalIdentityError, match=r"'g'.*'other'"):
            Journal.open(data, gateway="other", url=URL)


class TestNothingLeft:
    """Where a database was there is none that says anything: a new one begins, and that is told."""

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: database(data).write_bytes(b""),
            lambda data: database(data).write_bytes(Random(1).randbytes(50_000)),
            lambda data: database(data).unlink(),
            lambda data: in_place_of(database(data)).mkdir(),
            lambda data: in_place_of(data / "journal").write_text("?"),
            lambda data: in_place_of(data / "journal").symlink_to(data / "nowhere"),
            lambda data: new_database(database(data)),
        ],
        ids=["empty", "garbage", "missing", "a directory", "journal a file", "a dead link", "another database"],
    )
    def test_it_starts_and_tells(self, closed: Image, data: Path, damage: Callable[[Path], object]) -> None:
        kept = fresh(closed, data)
        damage(data)
        drained = drain(data)
        judge(kept, drained, may_lose={value for values in kept.unresolved.values() for value in values})
        assert [(loss["cause"], loss["certain"]) for loss in drained.losses] == [("corrupt", False)]
        assert "may be missing" in drained.told
        (name,) = drained.set_aside
        assert name in drained.told
        assert drain(data).starts == 1, "the new one is sound"

    def test_a_first_start_that_did_not_get_far_is_no_damage(self, data: Path) -> None:
        (data / "journal").mkdir(parents=True)
        database(data).touch()
        assert drain(data).set_aside == ()

    def test_a_journal_that_somebody_moved_away_begins_anew(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        shutil.rmtree(data / "journal")
        drained = drain(data)
        assert (drained.set_aside, drained.losses, drained.values) == ((), [], {})


class TestPages:
    """One page is not what it was: what the others hold is salvaged, and told apart from what is lost."""

    @pytest.mark.parametrize("content", ["zeros", "noise"])
    @pytest.mark.parametrize("image", ["crashed", "closed"])
    def test_each_page_in_turn(self, request: pytest.FixtureRequest, data: Path, image: str, content: str) -> None:
        whole: Image = request.getfixturevalue(image)
        by_page = values_by_page(whole[0])
        page_count = database(whole[0]).stat().st_size // PAGE_BYTES
        assert page_count > 8
        for page in range(1, page_count + 1):
            kept = fresh(whole, data)
            bytes_ = bytes(PAGE_BYTES) if content == "zeros" else Random(page).randbytes(PAGE_BYTES)
            overwrite(database(data), (page - 1) * PAGE_BYTES, bytes_)
            judge(kept, drain(data), may_lose=by_page.get(page, set()))

    def test_the_end_is_missing_from_each_page_on(self, closed: Image, data: Path) -> None:
        by_page = values_by_page(closed[0])
        page_count = database(closed[0]).stat().st_size // PAGE_BYTES
        for pages in range(page_count):
            kept = fresh(closed, data)
            with database(data).open("r+b") as file:
                file.truncate(pages * PAGE_BYTES)
            drained = drain(data)
            lost = {value for page, values in by_page.items() if page > pages for value in values}
            judge(kept, drained, may_lose=lost)
            assert drained.losses, "that something may be missing is told"

    def test_a_cut_within_a_page(self, closed: Image, data: Path) -> None:
        by_page = values_by_page(closed[0])
        kept = fresh(closed, data)
        with database(data).open("r+b") as file:
            file.truncate(database(data).stat().st_size - 700)
        last = database(closed[0]).stat().st_size // PAGE_BYTES
        drained = drain(data)
        judge(kept, drained, may_lose=by_page.get(last, set()))
        assert "records that nothing readable names may be missing" in drained.told

    def test_an_empty_page_of_rows_is_told_though_it_could_be_a_free_one(self, closed: Image, data: Path) -> None:
        by_page = values_by_page(closed[0])
        for page in by_page:
            kept = fresh(closed, data)
            overwrite(database(data), (page - 1) * PAGE_BYTES, bytes(PAGE_BYTES))
            (data / SUSPECT).touch()
            drained = drain(data)
            judge(kept, drained, may_lose=by_page[page])
            assert "records that nothing readable names may be missing" in drained.told

    def test_a_row_that_only_sqlite_takes_for_one_is_told(self, closed: Image, data: Path) -> None:
        kept = fresh(closed, data)
        damage_row(data, journal_rows.COUNTERS)
        with closing(sqlite3.connect(database(data))) as connection, connection:
            text = "UPDATE Cache SET value = CAST(value AS TEXT) WHERE key = ?"
            connection.execute(text, (journal_rows.segment_key(1, 14),))
        drained = drain(data)
        judge(kept, drained, may_lose={"a13"})
        assert "records that nothing readable names may be missing" in drained.told

    def test_where_the_end_is_missing_that_counts_as_one_that_is_damaged(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        with database(data).open("r+b") as file:
            file.truncate(database(data).stat().st_size - PAGE_BYTES)
        settings = SalvageSettings(GATEWAY, URL, PAGE_BYTES, lambda: 0, lambda _step: None)
        assert salvage(data, read_names(data), "it was cut", settings).damaged == 1

    def test_records_longer_than_a_page(self, data: Path) -> None:
        kept = make_journal(data, crashed=False, each=6, padding=9000)
        overwrite(database(data), 0, b"z" * 100)
        drained = drain(data)
        assert drained.values == kept.unresolved
        assert len(drained.set_aside) == 1


class TestTheSchema:
    """SQLite believes it, and quotes it in its messages; what it became may show only when a row is written."""

    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.soak)])
    def test_each_byte(self, closed: Image, data: Path, step: int) -> None:
        begin = int.from_bytes(database(closed[0]).read_bytes()[105:107], "big")
        assert begin < 3000, "it is all in the first page, and fills a part of it"
        for start in [*range(100, 120), *range(begin, PAGE_BYTES)][::step]:
            kept = fresh(closed, data)
            mask = Random(start).randrange(1, 256)
            flip(database(data), start, mask)
            print(f"byte {start}, mask {mask}")
            with suppress(JournalError):
                read_journal(data)
            drained = drain(data)
            judge(kept, drained)
            assert not drained.halted

    @pytest.mark.parametrize("suspect", [False, True])
    def test_it_cannot_be_quoted(self, closed: Image, data: Path, *, suspect: bool) -> None:
        kept = fresh(closed, data)
        replace_in(database(data), b"CREATE TABLE Cache", b"CREATE TABL\xff Cache")
        if suspect:
            (data / SUSPECT).touch()
        with pytest.raises(JournalDamagedError, match="restart the gateway"):
            read_journal(data)
        drained = drain(data)
        assert (drained.values, drained.starts, len(drained.set_aside)) == (kept.unresolved, 1, 1)

    @pytest.mark.parametrize("statement", [b"SET value = value + 1", b"SET value = value + NEW"])
    def test_a_trigger_fails_when_it_is_run(self, closed: Image, data: Path, statement: bytes) -> None:
        kept = fresh(closed, data)
        replace_in(database(data), statement, statement.replace(b"= value", b"= valve"))
        drained = drain(data)
        judge(kept, drained)
        assert (drained.starts, len(drained.set_aside)) == (2, 1)

    @pytest.mark.parametrize("statement", [b"+ 1 WHERE", b"- 1 WHERE", b"+ NEW.size", b"- OLD.size WHERE"])
    def test_after_damage_was_met_all_that_writing_does_is_tried(
        self, closed: Image, data: Path, statement: bytes
    ) -> None:
        kept = fresh(closed, data)
        begin = database(data).read_bytes().index(b"value " + statement)
        overwrite(database(data), begin, b"valve")
        (data / SUSPECT).touch()
        drained = drain(data)
        assert (drained.values, drained.starts, len(drained.set_aside)) == (kept.unresolved, 1, 1)

    def test_a_column_has_another_name(self, closed: Image, data: Path) -> None:
        kept = fresh(closed, data)
        replace_in(database(data), b" access_count INTEGER", b" access_cound INTEGER")
        drained = drain(data)
        judge(kept, drained)
        assert len(drained.set_aside) == 1

    def test_readers_are_told_when_it_is_another_one(self, closed: Image, data: Path) -> None:
        fresh(closed, data)
        new_database(database(data))
        with pytest.raises(JournalDamagedError, match=r"no such table.*restart the gateway"):
            read_journal(data)


class TestTheIndex:
    """It leads to another row, or to none: the rows are whole in the table."""

    @pytest.mark.parametrize("number", [12, 24])
    @pytest.mark.parametrize("place", ["key", "rowid"])
    def test_nothing_is_lost(self, closed: Image, data: Path, place: str, number: int) -> None:
        kept = fresh(closed, data)
        key = journal_rows.segment_key(1, number)
        at = in_index(data, key)
        flip(database(data), at + (len(key) - 2 if place == "key" else len(key)), 4)
        drained = drain(data)
        judge(kept, drained)
        assert (len(drained.set_aside), drained.halted) == (1, set())
        assert drained.starts == 2, "it ends where a row is missed, and the next start looks at all of it"
        assert "missing from index" in drained.told

    def test_a_row_that_is_nowhere_is_lost_and_the_rest_goes_on(self, closed: Image, data: Path) -> None:
        kept = fresh(closed, data)
        with closing(sqlite3.connect(database(data))) as connection, connection:
            connection.execute("DELETE FROM Cache WHERE key = ?", (journal_rows.segment_key(1, 24),))
        drained = drain(data)
        judge(kept, drained, may_lose={"a23"})
        assert (drained.set_aside, drained.halted, drained.starts) == ((), set(), 2)
        assert [(loss["cause"], loss["count"]) for loss in drained.losses] == [("corrupt", 1)]


class TestOneFlippedByte:
    def test_anywhere(self, closed: Image, data: Path) -> None:
        seed = SystemRandom().randrange(10**9)
        print(f"seed {seed}")
        random, by_page = Random(seed), values_by_page(closed[0])
        size = database(closed[0]).stat().st_size
        for _ in range(FLIPS):
            kept = fresh(closed, data)
            start, mask = random.randrange(size), random.randrange(1, 256)
            flip(database(data), start, mask)
            print(f"byte {start} of page {start // PAGE_BYTES + 1} at {start % PAGE_BYTES}, mask {mask}")
            judge(kept, drain(data), may_lose=by_page.get(start // PAGE_BYTES + 1, set()))

    def test_in_the_header(self, closed: Image, data: Path) -> None:
        random = Random(7)
        for start in sorted({16, 18, 19, 28, 56, *random.sample(range(100), 20)}):
            kept = fresh(closed, data)
            flip(database(data), start, random.randrange(1, 256))
            judge(kept, drain(data))

    def test_in_the_log(self, crashed: Image, data: Path) -> None:
        """SQLite takes what comes before it, without a word; here what comes behind it counts as well."""
        seed = SystemRandom().randrange(10**9)
        print(f"seed {seed}")
        random, by_page = Random(seed), values_by_page(crashed[0])
        starts = live_frames(crashed[0])
        somewhere = [random.choice(starts) + random.randrange(FRAME_BYTES) for _ in range(FLIPS // 2)]
        places = [0, 9, 17, 25, *somewhere]
        for start in places:
            kept = fresh(crashed, data)
            flip(log(data), start, random.randrange(1, 256))
            frame = (start - WAL_HEADER_BYTES) // FRAME_BYTES * FRAME_BYTES + WAL_HEADER_BYTES
            page = struct.unpack(">I", log(crashed[0]).read_bytes()[frame : frame + 4])[0] if start > 31 else 0
            print(f"byte {start}, page {page}")
            judge(kept, drain(data), may_lose=by_page.get(page, set()))


class TestTheLog:
    def test_without_its_index_nothing_is_missing(self, crashed: Image, data: Path) -> None:
        kept = fresh(crashed, data)
        (data / "journal" / "cache.db-shm").unlink()
        drained = drain(data)
        assert (drained.values, drained.set_aside) == (kept.unresolved, ())

    def test_a_cut_is_a_torn_end_wherever_it_is(self, crashed: Image) -> None:
        """What SQLite takes for a torn end is one: a power cut must not cost the journal its identity."""
        content = log(crashed[0]).read_bytes()
        ends = live_frames(crashed[0])[-1] + FRAME_BYTES
        for cut in range(ends - 10 * FRAME_BYTES, ends, 512):
            left = content[:cut]
            assert not read_wal(slices_of(left), cut, PAGE_BYTES).is_broken

    def test_whatever_is_cut_off_the_rest_goes_on(self, crashed: Image, data: Path) -> None:
        ends = live_frames(crashed[0])[-1] + FRAME_BYTES
        cuts = sorted({0, 512, *Random(3).sample(range(0, ends, 512), 16)})
        everything = {value for values in crashed[1].unresolved.values() for value in values}
        for cut in cuts:
            kept = fresh(crashed, data)
            with log(data).open("r+b") as file:
                file.truncate(cut)
            drained = drain(data)
            assert drained.error is None
            for name, values in drained.values.items():
                arrived = [value for value in values if value in everything]
                assert arrived == kept.unresolved[name][: len(arrived)], "nothing is skipped or swapped"

    def test_deleted_it_goes_on_with_the_database(self, crashed: Image, data: Path) -> None:
        fresh(crashed, data)
        log(data).unlink()
        assert drain(data).error is None


def slices_of(content: bytes) -> Callable[[int, int], bytes]:
    return lambda start, length: content[start : start + length]


def live_frames(data: Path) -> list[int]:
    """Where in the log the frames begin that count."""
    content = log(data).read_bytes()
    salts = content[16:24]
    starts = range(WAL_HEADER_BYTES, len(content) - FRAME_BYTES + 1, FRAME_BYTES)
    return [start for start in starts if content[start + 8 : start + 16] == salts]


def replace_in(file: Path, old: bytes, new: bytes) -> None:
    """Write over the one place in a file that has this."""
    content = file.read_bytes()
    assert len(old) == len(new)
    overwrite(file, content.index(old), new)


def in_index(data: Path, key: str) -> int:
    """Where in the database the index has a key; its row's number comes behind it."""
    content = database(data).read_bytes()
    (found,) = [
        at
        for page in range(0, len(content), PAGE_BYTES)
        if content[page] == INDEX_LEAF and (at := content.find(key.encode(), page, page + PAGE_BYTES)) >= 0
    ]
    return found


def in_place_of(path: Path) -> Path:
    """The path, with nothing there any more."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path


def new_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE other (value)")


def identity(data: Path) -> str:
    """The install id."""
    meta = dict(journal_rows_of(data / "journal"))[journal_rows.META]
    return str(journal_rows.decode_json(journal_rows.META, meta)["install"])


def counters(data: Path) -> dict[str, int]:
    return journal_rows.decode_json(
        journal_rows.COUNTERS, dict(journal_rows_of(data / "journal"))[journal_rows.COUNTERS]
    )


def journal_rows_of(folder: Path) -> list[tuple[str, bytes]]:
    """What SQLite itself says is in a database."""
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        return connection.execute("SELECT key, value FROM Cache ORDER BY key").fetchall()


def test_the_files_are_read_as_sqlite_reads_them(crashed: Image, data: Path) -> None:
    """The page reader against the real thing."""
    fresh(crashed, data)
    with JournalFiles(data / "journal") as files:
        carver = Carver(files)
        carved = sorted((row.key, row.value) for row in carver.rows())
        assert carver.damaged == 0
    assert carved == journal_rows_of(data / "journal")
