"""``clock`` records: a reader of one stream can correct what was stamped while the clock was not synchronised."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import orjson
import pytest

from ds_gateway.journal import rows
from ds_gateway.journal.clocks import stamped
from ds_gateway.records import (
    NANOSECONDS,
    ClockState,
    Envelope,
    Loss,
    Record,
    received_member,
    telemetry_prefix,
    telemetry_tail_after,
)
from ds_gateway.timekeeping import member
from ds_gateway.times import corrected
from harness.journal_box import JournalBox, covered, losses, readings
from harness.waiting import wait_until
from harness.wall_clock import SECOND, TRUE_NS, YEAR, Clocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

A, B, LEDGER = "telemetry/a", "telemetry/b", "gateway/g"
BASE = "2026-09-21T14:13:20.000000Z"


class Rig(JournalBox):
    """A journal on a machine whose clock a test sets; ``read`` is a device's reading."""

    def __init__(self, directory: Path, **limits: Any) -> None:
        super().__init__(directory, **limits)
        self.clocks = Clocks(off_ns=-10 * YEAR)
        self.boots = 0
        self.true_times: dict[int, int] = {}

    def boot(self) -> None:
        """The machine starts, and with it the gateway."""
        self.boots += 1
        self.run_again()

    def run_again(self) -> None:
        """The gateway alone starts."""
        self.wall_clock = self.keeper = self.clocks.timekeeper(str(self.boots) * 8)
        self.open()

    def look(self) -> None:
        self.keeper.look()
        self.journal.on_clock()

    def make(self, n: int, stream: str = A, *, about: bytes = b"") -> Record:
        """Each reading comes a second after the one before."""
        self.clocks.boot_ns += SECOND
        self.true_times[n] = self.clocks.true_ns
        clock, said = self.keeper.stamp()
        prefix = telemetry_prefix(gateway="g", device="d")
        tail = telemetry_tail_after(prefix, self.clocks.wall_ns(), b'{"n":%d}' % n, said)
        return Record(stream, "d", tail, about, clock)

    def read(self, *numbers: int, stream: str = A) -> None:
        self.accept(*[self.make(n, stream) for n in numbers])

    def synchronise(self) -> None:
        self.clocks.off_ns, self.clocks.is_synchronised = 0, True
        self.look()

    def contents(self, stream: str) -> list[dict[str, Any]]:
        """All that is in the stream; once, at the end."""
        messages: list[dict[str, Any]] = orjson.loads(self.demand(stream, 10**6).body)
        return messages

    def wait_accepted(self, stream: str, count: int) -> None:
        wait_until(lambda: self.stream(stream).accepted == count, what=f"{count} records are accepted")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Rig]:
    box = Rig(tmp_path / "data")
    box.boot()
    yield box
    if box.journal.running:
        box.close()


def told(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message["info"] for message in messages if message.get("kind") == "clock"]


def shape(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """The readings' numbers and the control records' kinds, in their order."""
    return [message["data"]["n"] if "data" in message else message["kind"] for message in messages]


def nanoseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 10**6) * 1000


def assert_corrected(box: Rig, messages: Sequence[dict[str, Any]]) -> None:
    for record in corrected(messages):
        if "data" in record:
            assert record.get("clock") != "unsynced", record
            assert nanoseconds(record["time"]) == box.true_times[record["data"]["n"]]


def damage(directory: Path, key: str) -> None:
    """Flip a bit in a row's value where SQLite does not notice."""
    with closing(sqlite3.connect(directory / "journal/cache.db")) as connection, connection:
        (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
        broken = value[:-3] + bytes([value[-3] ^ 1]) + value[-2:]
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (broken, key))


class TestASalvagedJournal:
    def test_what_was_not_told_of_the_clock_is_told_afterwards(self, box: Rig) -> None:
        box.read(1, 2)
        box.read(3, stream=B)
        box.send(B)
        box.close()
        damage(box.directory, rows.COUNTERS)
        box.clocks.off_ns, box.clocks.is_synchronised = 0, True
        box.run_again()
        box.wait_accepted(A, 3)
        box.wait_accepted(B, 1)
        assert (shape(box.contents(A)), shape(box.contents(B))) == ([1, 2, "clock"], ["clock"])
        assert [info["offset"] for info in told(box.contents(A) + box.contents(B))] == [10 * YEAR / SECOND] * 2
        assert_corrected(box, box.contents(A))

    def test_records_say_it_where_the_streams_row_is_lost(self, box: Rig) -> None:
        box.read(1, 2)
        box.close()
        damage(box.directory, rows.stream_key(1))
        box.clocks.off_ns, box.clocks.is_synchronised = 0, True
        box.run_again()
        box.wait_accepted(A, 3)
        assert [info["offset"] for info in told(box.contents(A))] == [10 * YEAR / SECOND]
        assert_corrected(box, box.contents(A))

    @pytest.mark.parametrize("envelope", get_args(Envelope))
    def test_a_record_says_by_what_clock_it_was_stamped(self, envelope: Envelope) -> None:
        prefix = telemetry_prefix(gateway="g", device='d","data":', envelope=envelope)
        said = member("0123abcd", 12 * SECOND + 34_567_000, envelope)
        for more in (b"", received_member(100 * SECOND)):
            time_ns = (7 if more else 100) * SECOND
            state = stamped(telemetry_tail_after(prefix, time_ns, b'{"a":1}', more + said))
            assert state == ClockState("0123abcd", False, 87_965_433_000, 0)
        silent = telemetry_tail_after(prefix, 0, b'{"time":"x"' + said + b"}")
        assert stamped(silent) is None, "a device's data may look like that"


class TestUnsynced:
    def test_a_clock_record_follows_as_soon_as_it_is_synchronised(self, box: Rig) -> None:
        box.read(1, 2)
        assert box.stream(A).accepted == 2
        box.clocks.boot_ns = 90 * SECOND
        box.synchronise()
        box.wait_accepted(A, 3)
        messages = box.contents(A)
        assert shape(messages) == [1, 2, "clock"]
        assert told(messages) == [
            {"boot": "11111111", "base": BASE, "mono": 90.0, "offset": 10 * YEAR / NANOSECONDS}
        ]
        assert covered(messages) == [1, 2, 3]
        assert "clock" not in messages[2]
        assert [message["time"][:4] for message in messages[:2]] == ["2016", "2016"]
        assert_corrected(box, messages)

    def test_it_is_told_once_and_only_where_it_corrects_something(self, box: Rig) -> None:
        box.read(1)
        box.synchronise()
        box.wait_accepted(A, 2)
        for n in range(2, 6):
            box.read(n)
            box.read(10 + n, stream=B)
        assert shape(box.contents(A)) == [1, "clock", 2, 3, 4, 5]
        assert shape(box.contents(B)) == [12, 13, 14, 15]
        assert_corrected(box, box.contents(A) + box.contents(B))

    def test_steps_in_between_are_one_with_it(self, box: Rig) -> None:
        n = 0
        for off_years in (-10, 20, -30, 5):
            box.clocks.off_ns = off_years * YEAR
            box.look()
            box.read(n := n + 1)
            box.clocks.off_ns += YEAR  # and nobody has looked yet
            box.read(n := n + 1)
        box.synchronise()
        box.wait_accepted(A, n + 1)
        box.read(n + 1)
        messages = box.contents(A)
        assert shape(messages) == [*range(1, n + 1), "clock", n + 1]
        assert [each["offset"] for each in told(messages)] == [10 * YEAR / NANOSECONDS]
        assert covered(messages) == list(range(1, n + 3))
        assert_corrected(box, messages)

    def test_one_that_comes_late_is_followed_by_another(self, box: Rig) -> None:
        box.read(1)
        late = [box.make(2), box.make(3)]
        box.synchronise()
        box.wait_accepted(A, 2)
        box.accept(*late)
        box.wait_accepted(A, 5)
        messages = box.contents(A)
        assert shape(messages) == [1, "clock", 2, 3, "clock"]
        assert [each["offset"] for each in told(messages)] == [10 * YEAR / NANOSECONDS, 0]
        assert_corrected(box, messages)

    def test_it_comes_before_a_synchronised_record_of_the_same_transaction(self, box: Rig) -> None:
        unsynced = [box.make(1), box.make(2)]
        box.clocks.off_ns, box.clocks.is_synchronised = 0, True
        box.keeper.look()
        box.accept(*unsynced, box.make(3))
        messages = box.contents(A)
        assert shape(messages) == [1, 2, "clock", 3]
        assert_corrected(box, messages)

    def test_it_need_not_be_set_to_be_synchronised(self, box: Rig) -> None:
        unsynced = box.make(1)
        box.clocks.is_synchronised = True
        box.keeper.look()
        box.accept(unsynced, box.make(2))
        messages = box.contents(A)
        assert shape(messages) == [1, "clock", 2]
        assert [each["offset"] for each in told(messages)] == [0]

    def test_what_the_journal_itself_makes_says_so_too(self, box: Rig) -> None:
        loss = Loss("qos0", certain=True, count=1, first_ns=0, last_ns=0)
        box.accept(box.make(1, about=b'{"fields":{}}'), loss)
        box.synchronise()
        box.wait_accepted(A, 3)
        box.wait_accepted(LEDGER, 2)
        for stream, kinds in ((A, ["device", 1, "clock"]), (LEDGER, ["loss", "clock"])):
            messages = box.contents(stream)
            assert shape(messages) == kinds
            assert all(message["boot"] == "11111111" for message in messages[:-1])
            assert all(message["clock"] == "corrected" for message in corrected(messages)[:-1])

    def test_a_birth_record_is_followed_by_one(self, box: Rig) -> None:
        box.accept(Record(A, "d", b'"data":{"n":1}}'))
        box.change(A, lambda book, plan: book.begin_epoch(1) or plan.touch(book))  # type: ignore[func-returns-value]
        birth = box.journal.store(box.number(A), birth={}).claim_body(1)
        assert b'"clock":"unsynced","boot":"11111111"' in birth


class TestOverRestarts:
    def test_the_next_process_of_the_same_boot_tells_it(self, box: Rig) -> None:
        box.read(1)
        box.close()
        box.run_again()
        box.read(2)
        box.close()
        box.clocks.off_ns, box.clocks.is_synchronised = 0, True
        box.run_again()
        box.wait_accepted(A, 3)
        box.close()
        box.run_again()
        box.read(3)
        messages = box.contents(A)
        assert shape(messages) == [1, 2, "clock", 3]
        assert_corrected(box, messages)

    def test_a_boot_that_has_ended_is_told_without_a_base(self, box: Rig) -> None:
        box.read(1)
        box.close()
        box.clocks.boot_ns = 0
        box.boot()
        box.wait_accepted(A, 2)
        box.read(2)
        box.synchronise()
        box.wait_accepted(A, 4)
        messages = box.contents(A)
        assert shape(messages) == [1, "clock", 2, "clock"]
        assert told(messages)[0] == {"boot": "11111111", "base": None}
        assert told(messages)[1]["base"] == BASE
        before, _, after, _ = corrected(messages)
        assert before == messages[0]
        assert after["clock"] == "corrected"

    def test_a_failed_transaction_tells_nothing_and_the_next_process_does(self, box: Rig) -> None:
        box.read(1)

        def fail(when: str, _parts: frozenset[str]) -> None:
            if when == "before":
                raise RuntimeError("the power is gone")

        box.points = fail
        box.journal._writer._on_point = fail
        box.synchronise()
        wait_until(lambda: not box.journal.running, what="the writer has ended")
        box.journal.stop()
        box.points = lambda _when, _parts: None
        box.run_again()
        box.wait_accepted(A, 2)
        box.read(2)
        assert shape(box.contents(A)) == [1, "clock", 2]


class TestSteps:
    """While it is synchronised."""

    @pytest.fixture(autouse=True)
    def _synchronised(self, box: Rig) -> None:
        box.synchronise()

    @pytest.mark.parametrize("step_ns", [10 * YEAR, -10 * YEAR, SECOND])
    def test_a_step_is_told_before_the_first_record_behind_it(self, box: Rig, step_ns: int) -> None:
        box.read(1, 2)
        box.read(11, stream=B)
        before = box.make(3)
        box.clocks.off_ns = step_ns
        box.look()
        box.accept(before, box.make(4))
        box.read(5)
        messages = box.contents(A)
        assert shape(messages) == [1, 2, 3, "clock", 4, 5]
        assert [each["offset"] for each in told(messages)] == [step_ns / NANOSECONDS]
        assert nanoseconds(told(messages)[0]["base"]) == TRUE_NS + step_ns
        assert covered(messages) == [1, 2, 3, 4, 5, 6]
        assert shape(box.contents(B)) == [11], "nothing was stamped there behind the step"

    def test_steps_that_cancel_out_are_not_told(self, box: Rig) -> None:
        box.read(1)
        for off_ns in (10 * YEAR, 0):
            box.clocks.off_ns = off_ns
            box.look()
        box.read(2)
        assert shape(box.contents(A)) == [1, 2]

    def test_a_step_while_the_gateway_was_away_is_told(self, box: Rig) -> None:
        box.read(1)
        box.close()
        box.clocks.off_ns = 3 * SECOND
        box.run_again()
        box.read(2)
        messages = box.contents(A)
        assert shape(messages) == [1, "clock", 2]
        assert [each["offset"] for each in told(messages)] == [3.0]

    def test_another_boot_is_no_step(self, box: Rig) -> None:
        box.read(1)
        box.close()
        box.clocks.boot_ns, box.clocks.off_ns = 0, 100 * SECOND  # the machine was off for so long
        box.boot()
        box.read(2)
        assert shape(box.contents(A)) == [1, 2]


class TestRoom:
    def test_without_room_it_waits(self, tmp_path: Path) -> None:
        box = Rig(tmp_path / "data", max_bytes=40_000, retain_bytes=0)
        box.boot()
        n = 0
        while not box.journal.full:
            box.offer(box.make(n := n + 1))
            box.offer(box.make(n := n + 1))
            wait_until(lambda: not len(box.intake) or box.journal.full, what="it is taken")
        box.synchronise()
        for _ in range(2):
            box.change(A, lambda book, plan: plan.touch(book))  # a transaction
        assert box.stream(A).accepted == n - 2
        wait_until(lambda: told(box.drain(A)), what="the clock record comes with the room")
        messages = box.drain(A)
        box.close()
        assert readings(messages) == list(range(1, n + 1))
        assert len(told(messages)) == 1
        assert_corrected(box, messages)


def test_steps_of_ten_years_make_nothing_old(tmp_path: Path) -> None:
    box = Rig(tmp_path / "data", max_age_seconds=3600.0)
    box.boot()
    for n, off_years in enumerate((-10, 10, -10), start=1):
        box.clocks.off_ns = off_years * YEAR
        box.look()
        box.read(n)
    box.clock.now += 3500.0
    box.synchronise()
    box.wait_accepted(A, 4)
    messages = box.contents(A)
    assert shape(messages) == [1, 2, 3, "clock"]
    assert losses(messages) == []
    box.close()
