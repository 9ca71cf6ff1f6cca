"""``ds-gateway journal export`` and ``import``: what was not sent goes elsewhere, and is in its stream once.

Real journals, files and a real server; the uplinks run inside of the test.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway import exports, transfer
from ds_gateway.cli import moving
from ds_gateway.cli.printing import count
from ds_gateway.config.loader import load_server
from ds_gateway.config.models import ExactlyOnceSettings
from ds_gateway.journal import Journal, JournalLimits, rows
from ds_gateway.journal import moving as journal_moving
from ds_gateway.journal.browsing import segments
from ds_gateway.journal.disk import SUSPECT, Disk
from ds_gateway.journal.mover import Mover
from ds_gateway.journal.reading import read_books
from ds_gateway.journal.requests import Demand
from ds_gateway.records import Item
from ds_gateway.uplink import Uplinks, http_client
from durable_streams.testing import InMemoryStreamServer
from harness.audit import StreamReader
from harness.journal_box import position, reading
from harness.statuses import well
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.journal.plan import Plan
    from harness.command import Command, Ended

STREAM = "telemetry/a"
NOWHERE = "http://127.0.0.1:1/v1"


class Box:
    """One gateway's journal and configuration."""

    def __init__(self, folder: Path, gateway: str, url: str) -> None:
        folder.mkdir()
        self.config = folder / "gateway.yaml"
        self.data = folder / "data"
        self.gateway = gateway
        self.exactly_once = ExactlyOnceSettings()
        self.set_server(url)

    def set_server(self, url: str) -> None:
        self.url = url
        self.config.write_text(
            f"gateway: {{id: {self.gateway}}}\ndata_dir: data\nserver: {{url: '{url}'}}\n"
            "journal: {min_free_bytes: 0}\nmqtt: {hall: {url: mqtt://127.0.0.1, devices: [{topic: a}]}}\n"
        )

    def open(self) -> Journal:
        limits = JournalLimits(min_free_bytes=0, batch_max_bytes=400)
        return Journal.open(self.data, gateway=self.gateway, url=self.url, limits=limits)

    def accept(self, count: int, stream: str = STREAM) -> None:
        """Accept readings, a few to a segment, without sending them."""
        journal = self.open()
        done: list[int] = []
        intake = journal.intake("x", max_items=1000, on_committed=lambda items, _commit: done.append(len(items)))
        journal.start()
        for number in range(count):
            intake.offer([Item(reading(number, stream=stream))])
            if number % 3 == 0:
                wait_until(lambda wanted=number + 1: sum(done) >= wanted, what="it is accepted")  # type: ignore[misc]
        wait_until(lambda: sum(done) == count, what="they are accepted")
        journal.stop()

    def send(self) -> dict[str, str]:
        """Send all that is there; return the states of the streams, with the reasons of those that stand."""
        return asyncio.run(self._send())

    async def _send(self) -> dict[str, str]:
        settings = load_server(self.config, {}, with_token=False)
        journal = self.open()
        journal.start()
        client = http_client(settings.server, None)
        uplinks = Uplinks(settings.server, settings.batch, self.exactly_once, client, gateway=self.gateway)

        def is_over() -> bool:
            waiting = {each.number: each.in_journal for each in journal.snapshot().streams}
            return all(
                each.state in {"halted", "parked"} or (each.state == "idle" and not waiting[number])
                for number, each in uplinks.snapshots().items()
            )

        try:
            for number, name, url in journal.streams():
                store = journal.store(number, birth={})
                uplinks.add(number, name, url, store, stream=store.name)
            await await_until(is_over, what="everything is sent")
            names = {number: name for number, name, _ in journal.streams()}
            return {
                names[number]: f"{each.state} {each.reason}".strip()
                for number, each in uplinks.snapshots().items()
            }
        finally:
            await uplinks.close()
            await asyncio.to_thread(journal.stop)

    def waiting(self) -> dict[str, int]:
        """Records that wait, by stream."""
        return {name: each.book.unresolved_records for name, each in read_books(self.data).streams.items()}


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as running:
        yield running


@pytest.fixture
def away(tmp_path: Path, server: InMemoryStreamServer) -> Box:
    """A box that had its server once, and has four records since then."""
    box = Box(tmp_path / "away", "line-7", server.url("v1"))
    box.accept(3)
    box.send()
    box.accept(4)
    return box


@pytest.fixture
def helper(tmp_path: Path, server: InMemoryStreamServer) -> Box:
    return Box(tmp_path / "helper", "line-8", server.url("v1"))


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    return tmp_path / "stick.jsonl"


def run(command: Command, box: Box, *arguments: object) -> Ended:
    return command("journal", *arguments, "--config", box.config)


def ready(box: Box) -> Box:
    """A journal that is there."""
    box.open().stop()
    return box


def export(command: Command, box: Box, stick: Path) -> dict[str, Any]:
    done = run(command, box, "export", "--output", stick, "--json")
    assert (done.code, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def bring(command: Command, box: Box, stick: Path, *options: object) -> None:
    done = run(command, ready(box), "import", stick, *options)
    assert (done.code, done.stderr) == (0, "")


def begin_import(ask: moving.Ask, stick: Path, count: int) -> None:
    """The first records of the file, and no more."""
    lines = stick.read_text().splitlines()
    header = json.loads(lines[0])
    ask({"action": "import-begin", "header": header, "size_bytes": 1, "other_server": False})
    for record in lines[2 : 2 + count]:
        ask({"action": "import-part", "header": header, "stream": 0, "records": [record]})


def shown(box: Box) -> list[dict[str, Any]]:
    """The streams, as a status has them."""
    journal = box.open()
    snapshot = journal.snapshot()
    journal.stop()
    streams: list[dict[str, Any]] = well(snapshot=snapshot)["streams"]
    return streams


def positions(server: InMemoryStreamServer) -> list[int]:
    found = StreamReader(server.url(f"v1/{STREAM}")).read()
    return [position(each) for each in found if not each["id"].startswith("b.")]


def is_proven(command: Command, box: Box) -> bool:
    done = command("audit", "--config", box.config, "--json")
    assert done.code == (0 if json.loads(done.stdout)["proven"] else 1)
    if done.code:
        print(done.stdout)
    return done.code == 0


class TestAnExport:
    def test_moves_what_was_not_sent(self, command: Command, away: Box, stick: Path) -> None:
        assert export(command, away, stick)["records"] == 4
        assert away.waiting() == {STREAM: 0}
        lines = [json.loads(line) for line in stick.read_text().splitlines()]
        assert [position(each) for each in lines[2:-1]] == [4, 5, 6, 7]
        assert (lines[1], lines[-1]["records"]) == ({"stream": 0}, 4)
        assert stick.stat().st_mode & 0o777 == 0o600
        listed = json.loads(run(command, away, "ls", "--json").stdout)
        (row,) = listed["streams"]
        assert (row["accepted"], row["in_stream"], row["in_journal"], row["exported"]) == (7, 3, 0, 4)
        assert listed["format"] == 5

    def test_is_refused_where_nothing_waits(
        self, command: Command, away: Box, stick: Path, tmp_path: Path
    ) -> None:
        export(command, away, stick)
        done = run(command, away, "export", "--output", tmp_path / "another")
        assert done.code == 1
        assert "nothing is exported: no record waits that was not sent yet" in done.stderr
        assert not (tmp_path / "another").exists()

    def test_takes_only_streams_that_are_named(self, command: Command, away: Box, stick: Path) -> None:
        away.accept(2, stream="telemetry/b")
        done = run(command, away, "export", "telemetry/b", "--output", stick)
        assert "2 records of 1 stream are in" in done.stdout
        assert f"ds-gateway journal import {stick}\n" in done.stdout
        assert f"stays: 4 records of {STREAM}: not asked for" in done.stdout
        assert away.waiting() == {STREAM: 4, "telemetry/b": 0}
        assert run(command, away, "export", "nowhere", "--output", f"{stick}2").code == 1

    @pytest.mark.parametrize("step_bytes", [1, 1_000_000])
    def test_has_every_stream_of_several(  # noqa: PLR0917 - fixtures
        self,
        command: Command,
        away: Box,
        helper: Box,
        stick: Path,
        monkeypatch: pytest.MonkeyPatch,
        step_bytes: int,
    ) -> None:
        monkeypatch.setattr(transfer, "STEP_BYTES", step_bytes)
        streams = {STREAM: 4, "telemetry/b": 5, "telemetry/c": 2, "telemetry/d": 7}
        for name, number in list(streams.items())[1:]:
            away.accept(number, stream=name)
        assert export(command, away, stick)["records"] == sum(streams.values())
        lines = [json.loads(line) for line in stick.read_text().splitlines()]
        counts: list[int] = []
        for line in lines[1:-1]:
            if "stream" in line:
                counts.append(0)
            else:
                counts[-1] += 1
        assert counts == list(streams.values())
        bring(command, helper, stick)
        assert sum(helper.waiting().values()) == sum(streams.values())

    def test_that_does_not_read_back_forgets_nothing_and_says_what_to_do(
        self, command: Command, away: Box, stick: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def garbled(*_: object) -> object:
            raise exports.ExportFileError("line 3 is damaged")

        with monkeypatch.context() as patch:
            patch.setattr(moving, "read_lines", garbled)
            done = run(command, away, "export", "--output", stick)
        assert done.code == 1
        assert f"{stick} does not read back" in done.stderr
        assert "line 3 is damaged" in done.stderr
        assert "--cancel" in done.stderr
        assert not stick.exists()
        assert run(command, away, "export", "--output", stick).code == 0
        assert away.waiting() == {STREAM: 0}

    def test_replaces_no_file_and_changes_nothing_then(self, command: Command, away: Box, stick: Path) -> None:
        stick.write_text("mine")
        assert run(command, away, "export", "--output", stick).code == 2
        assert stick.read_text() == "mine"
        assert away.waiting() == {STREAM: 4}
        assert run(command, away, "export").code == 2

    def test_goes_on_beside_what_comes_later(
        self, command: Command, away: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        away.accept(2)
        assert away.send() == {STREAM: "idle"}
        assert positions(server) == [1, 2, 3, 8, 9]
        assert is_proven(command, away)
        told = command("audit", "--config", away.config).stdout
        assert "appended 5 + in the journal 0 + ledgered 0 + exported 4; every position that is here is" in told

    def test_that_breaks_off_is_written_again(
        self, command: Command, away: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        """It is not sent from here meanwhile: nobody knows what became of the file."""

        def break_off(request: dict[str, Any]) -> dict[str, Any]:
            if request["action"] == "export-end":
                raise OSError("the stick was pulled out")
            return ask(request)

        with moving.opened(away.config) as ask, pytest.raises(OSError, match="pulled out"):
            moving.export(break_off, stick, [])  # type: ignore[arg-type]
        away.accept(1)
        assert away.send() == {STREAM: "idle"}
        assert positions(server) == [1, 2, 3, 8]
        first = stick.read_text()
        stick.unlink()
        answer = export(command, away, stick)
        assert answer["resumed"]
        assert [json.loads(line).get("id") for line in first.splitlines()[2:-1]] == [
            json.loads(line).get("id") for line in stick.read_text().splitlines()[2:-1]
        ]
        assert away.waiting() == {STREAM: 0}

    def test_is_forgotten_a_few_rows_at_a_time_and_over_a_crash(
        self, command: Command, away: Box, stick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(journal_moving, "MAX_DELETES", 1)
        with moving.opened(away.config) as ask:
            begun = ask({"action": "export-begin", "streams": []})
        journal = away.open()
        journal.start()
        journal.mover._do(lambda plan: journal_moving.written(plan, begun["export"]))
        journal.mover._do(lambda plan: journal_moving.delete(plan, plan.books()[0]))
        journal.stop()
        done = run(command, away, "export", "--output", tmp_path / "more")
        assert "nothing is exported" in done.stderr
        (view,) = read_books(away.data).streams.values()
        assert (view.book.exporting, view.book.open_size, view.book.size) == (None, 0, view.book.kept_size)

    def test_can_be_taken_back(self, command: Command, away: Box, server: InMemoryStreamServer) -> None:
        with moving.opened(away.config) as ask:
            ask({"action": "export-begin", "streams": []})
        away.accept(1)
        done = run(command, away, "export", "--cancel")
        assert (done.code, away.waiting()) == (0, {STREAM: 5}), done.stderr
        assert away.send() == {STREAM: "idle"}
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert is_proven(command, away)

    def test_whose_file_may_be_whole_is_not_taken_back_unless_it_is_deleted(
        self, command: Command, away: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        def die(request: dict[str, Any]) -> dict[str, Any]:
            if request["action"] == "export-end":
                raise KeyboardInterrupt
            return ask(request)

        with moving.opened(away.config) as ask, pytest.raises(KeyboardInterrupt):
            moving.export(die, stick, [])  # type: ignore[arg-type]
        assert stick.exists()
        done = run(command, away, "export", "--cancel")
        assert done.code == 1
        assert "may be whole, and whoever imports it sends its records" in done.stderr
        assert away.waiting() == {STREAM: 0}
        stick.unlink()
        assert run(command, away, "export", "--cancel", "--files-are-deleted").code == 0
        assert away.send() == {STREAM: "idle"}
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7]
        assert is_proven(command, away)

    def test_that_did_not_end_is_told_until_it_does(self, command: Command, away: Box, stick: Path) -> None:
        with moving.opened(away.config) as ask:
            ask({"action": "export-begin", "streams": []})
        (told,) = shown(away)
        assert (told["in_journal"], told["exporting"]) == (0, 4)
        assert "4 records are marked for an export that did not end, and nobody sends them" in told["reason"]
        export(command, away, stick)
        (told,) = shown(away)
        assert (told["exporting"], told["reason"]) == (0, "")

    def test_that_was_begun_is_not_taken_for_one_of_other_streams(
        self, command: Command, away: Box, stick: Path
    ) -> None:
        away.accept(2, stream="telemetry/b")
        with moving.opened(away.config) as ask:
            ask({"action": "export-begin", "streams": [STREAM]})
        done = run(command, away, "export", "telemetry/b", "--output", stick)
        assert done.code == 1
        assert f"an export of {STREAM} was begun and did not end" in done.stderr
        assert not stick.exists()
        done = run(command, away, "export", "--output", stick)
        assert "an export that was begun before was finished" in done.stdout
        assert away.waiting() == {STREAM: 0, "telemetry/b": 2}

    def test_needs_a_file_that_can_be_read_back(self, command: Command, away: Box) -> None:
        done = run(command, away, "export", "--output", "-")
        assert done.code == 2
        assert away.waiting() == {STREAM: 4}

    def test_is_not_taken_back_behind_later_records(
        self, command: Command, away: Box, server: InMemoryStreamServer
    ) -> None:
        with moving.opened(away.config) as ask:
            ask({"action": "export-begin", "streams": []})
        away.accept(1)
        away.send()
        done = run(command, away, "export", "--cancel")
        assert done.code == 1
        assert "cannot be taken back: later records of telemetry/a were sent" in done.stderr
        assert positions(server) == [1, 2, 3, 8]


class TestAnImport:
    def test_is_sent_once_under_its_own_ids(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        bring(command, helper, stick)
        (title,) = helper.waiting()
        assert title.startswith(f"{STREAM} [import ")
        assert helper.send() == {title: "idle"}
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7]
        away.accept(2)
        away.send()
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert is_proven(command, away)
        assert is_proven(command, helper)

    def test_may_come_behind_later_records(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        away.accept(2)
        away.send()
        bring(command, helper, stick)
        helper.send()
        assert positions(server) == [1, 2, 3, 8, 9, 4, 5, 6, 7]
        assert is_proven(command, away)
        assert is_proven(command, helper)

    def test_of_a_stream_that_never_had_a_server(
        self, command: Command, tmp_path: Path, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        box = Box(tmp_path / "new", "line-7", server.url("v1"))
        box.accept(5)
        export(command, box, stick)
        bring(command, helper, stick)
        helper.send()
        assert positions(server) == [1, 2, 3, 4, 5]

    def test_beside_the_same_stream_of_the_gateway_itself(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        helper.accept(2)
        bring(command, helper, stick)
        helper.send()
        assert sorted(positions(server)) == [1, 1, 2, 2, 3, 4, 5, 6, 7]
        assert is_proven(command, helper)

    def test_at_the_same_gateway(
        self, command: Command, away: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        away.accept(2)
        bring(command, away, stick)
        assert set(away.send().values()) == {"idle"}
        assert sorted(positions(server)) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert is_proven(command, away)

    def test_twice_is_refused(self, command: Command, away: Box, helper: Box, stick: Path) -> None:
        export(command, away, stick)
        bring(command, helper, stick)
        done = run(command, helper, "import", stick)
        assert done.code == 1
        assert "was imported here before" in done.stderr

    def test_that_breaks_off_goes_on(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        """And nothing is sent before all of it is there."""
        export(command, away, stick)
        ready(helper)
        with moving.opened(helper.config) as ask:
            begin_import(ask, stick, 2)
        assert helper.send() == {}
        bring(command, helper, stick)
        helper.send()
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize("step", [1, 1000])
    def test_that_breaks_off_can_be_given_up(  # noqa: PLR0917 - fixtures
        self,
        command: Command,
        away: Box,
        helper: Box,
        stick: Path,
        server: InMemoryStreamServer,
        monkeypatch: pytest.MonkeyPatch,
        step: int,
    ) -> None:
        monkeypatch.setattr(journal_moving, "MAX_DELETES", step)
        away.accept(6)
        export(command, away, stick)
        helper.accept(1)
        with moving.opened(helper.config) as ask:
            begin_import(ask, stick, 8)
        told = shown(helper)
        assert "a half import, of which nothing is sent" in told[1]["reason"]
        done = run(command, helper, "import", "--cancel")
        assert (done.code, done.stdout[:10]) == (0, "given up: "), done.stderr
        assert [each["name"] for each in shown(helper)] == [STREAM]
        assert sum(helper.waiting().values()) == 1
        assert "no half import" in run(command, helper, "import", "--cancel").stderr
        bring(command, helper, stick)
        assert set(helper.send().values()) == {"idle"}
        assert sorted(positions(server)) == [1, *range(1, 14)]
        assert is_proven(command, helper)

    def test_that_is_given_up_is_the_beginning_of_one_at_every_point(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        away.accept(6)
        export(command, away, stick)
        ready(helper)
        with moving.opened(helper.config) as ask:
            begin_import(ask, stick, 8)
        journal = helper.open()
        journal.start()

        def newest(plan: Plan) -> None:
            (book,) = plan.books()
            row = book.next_segment - 1
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(journal_moving, "MAX_DELETES", 1)
                assert journal_moving.give_up(plan, book)
            assert book.next_segment == row

        journal.mover._do(newest)
        journal.stop()
        (before,) = helper.waiting().values()
        assert 0 < before < 8
        bring(command, helper, stick)
        helper.send()
        assert positions(server) == list(range(1, 14))

    def test_that_has_no_room_is_not_begun(
        self, command: Command, away: Box, helper: Box, stick: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        export(command, away, stick)
        monkeypatch.setattr(Mover, "room_left", lambda _self: 100)
        done = run(command, ready(helper), "import", stick)
        assert done.code == 1
        assert "the journal has room for 100 bytes, and the file has" in done.stderr
        assert helper.waiting() == {}

    def test_for_another_server_is_a_decision(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        with InMemoryStreamServer() as another:
            helper.set_server(another.url("v1"))
            done = run(command, ready(helper), "import", stick)
            assert done.code == 1
            assert f"the export was made for {away.url}, and this gateway sends to {helper.url}" in done.stderr
            bring(command, helper, stick, "--other-server")
            helper.send()
            assert positions(another) == [4, 5, 6, 7]
        assert positions(server) == [1, 2, 3]

    @pytest.mark.parametrize("damage", ["short", "changed", "more", "other_id", "not_one"])
    def test_of_a_file_that_is_not_whole_is_refused(
        self, command: Command, away: Box, helper: Box, stick: Path, damage: str
    ) -> None:
        export(command, away, stick)
        lines = stick.read_text().splitlines(keepends=True)
        match damage:
            case "short":
                lines = lines[:-1]
            case "changed":
                lines[3] = lines[3].replace('"n":', '"m":')
            case "more":
                lines.insert(3, lines[2])
            case "other_id":
                lines[3] = lines[3].replace('{"id":"', '{"id":"x')
            case _:
                lines = ["{}\n"]
        stick.write_text("".join(lines))
        done = run(command, ready(helper), "import", stick)
        assert done.code == 1
        assert f"{stick} cannot be imported: " in done.stderr
        assert helper.waiting() == {}


class TestTwoCopies:
    def test_at_two_gateways_do_not_both_send(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        bring(command, helper, stick)
        helper.send()
        second = Box(stick.with_name("second"), "line-9", server.url("v1"))
        bring(command, second, stick)
        (state,) = second.send().values()
        assert state.startswith("halted the server has batches of epoch 0, which this store never claimed")
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7]

    def test_are_told_by_their_ids_where_the_server_forgot_the_first(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        bring(command, helper, stick)
        helper.send()
        # As if nobody had ever claimed it: the same records under a producer that the server does not know.
        lines = stick.read_text().splitlines(keepends=True)
        old = json.loads(lines[0])["export"]
        lines = [lines[0].replace(old, "another"), *lines[1:-1]]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        end = json.dumps({"end": "another", "records": 4, "sha256": digest}, separators=(",", ":"))
        stick.write_text("".join(lines) + end + "\n")
        second = Box(stick.with_name("second"), "line-9", server.url("v1"))
        bring(command, second, stick)
        assert set(second.send().values()) == {"idle"}
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7]

    def test_of_a_journal_that_was_put_back_are_told_by_their_ids(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        """An old image has records that were sent since: what it exports is in the stream already."""
        shutil.copytree(away.data, stick.with_name("image"))
        away.send()
        shutil.rmtree(away.data)
        (stick.with_name("image")).rename(away.data)
        assert export(command, away, stick)["records"] == 4
        bring(command, helper, stick)
        assert set(helper.send().values()) == {"idle"}
        assert Counter(positions(server)) == Counter([1, 2, 3, 4, 5, 6, 7])


def seal(box: Box) -> int:
    """Seal some records, as if they had been sent and not answered; return how many."""
    journal = box.open()
    journal.start()
    batch: Future[Any] = Future()
    journal._writer.submit(Demand(1, 200, batch))
    count: int = batch.result(10).count
    journal.stop()
    assert 0 < count < 4
    return count


class TestWhatWasSentAndNotAnswered:
    def test_stays_where_the_server_is_away(  # noqa: PLR0917 - fixtures
        self,
        command: Command,
        away: Box,
        helper: Box,
        stick: Path,
        server: InMemoryStreamServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sealed = seal(away)
        monkeypatch.setattr(moving, "SETTLE_SECONDS", 0.0)
        done = run(command, away, "export", "--output", stick)
        assert f"stays: {count(sealed, 'record')} of {STREAM}: sent, and nobody knows whether" in done.stdout
        bring(command, helper, stick)
        helper.send()
        assert away.send() == {STREAM: "idle"}
        assert sorted(positions(server)) == [1, 2, 3, 4, 5, 6, 7]
        assert is_proven(command, away)

    def test_is_settled_first_where_it_answers(
        self, command: Command, away: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        sealed = seal(away)
        answer = export(command, away, stick)
        assert (answer["records"], answer["stays"]) == (4 - sealed, [])
        assert positions(server) == list(range(1, 3 + sealed + 1))

    def test_and_what_others_sent_is_no_clash_in_a_repair(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        bring(command, helper, stick)
        helper.send()
        away.accept(1)
        away.exactly_once = ExactlyOnceSettings(fence_on_start=True)
        assert away.send() == {STREAM: "idle"}
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7, 8]
        (view,) = read_books(away.data).streams.values()
        assert view.book.past == []
        assert is_proven(command, away)


class TestDamage:
    def break_row(self, box: Box, key: str) -> None:
        disk = Disk(box.data)
        with disk.transaction():
            disk.write(key, b"damaged")
        disk.close()

    def test_is_told_in_the_place_of_what_it_took(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        (view,) = read_books(away.data).streams.values()
        self.break_row(away, rows.segment_key(1, view.book.next_segment - 1))
        export(command, away, stick)
        bring(command, helper, stick)
        helper.send()
        found = StreamReader(server.url(f"v1/{STREAM}")).read()
        (loss,) = [each["info"] for each in found if each.get("kind") == "loss"]
        assert (loss["cause"], loss["last_position"]) == ("corrupt", 7)
        assert positions(server) == list(range(1, loss["first_position"] + 1))
        assert is_proven(command, away)
        assert is_proven(command, helper)

    def test_between_export_and_file_sends_nothing_twice_without_a_word(self, away: Box) -> None:
        """Nobody knows then whether the file was finished: it is sent, and told as possibly twice."""
        with moving.opened(away.config) as ask:
            ask({"action": "export-begin", "streams": []})
        self.break_row(away, rows.COUNTERS)
        (away.data / SUSPECT).touch()
        journal = away.open()
        assert journal.snapshot().set_aside
        waiting = {each.name: each.in_journal for each in journal.snapshot().streams}
        journal.stop()
        assert waiting[STREAM] == 4
        told = [json.loads(each) for each in records_of(away, "gateway/line-7")]
        assert any("possible duplicates: 4 records of telemetry/a" in each["info"]["detail"] for each in told)

    def test_behind_the_file_sends_nothing_of_it(self, away: Box) -> None:
        with moving.opened(away.config) as ask:
            export = ask({"action": "export-begin", "streams": []})["export"]
        journal = away.open()
        journal.start()
        journal.mover._do(lambda plan: journal_moving.written(plan, export))
        journal.stop()
        self.break_row(away, rows.COUNTERS)
        (away.data / SUSPECT).touch()
        journal = away.open()
        waiting = {each.name: each.in_journal for each in journal.snapshot().streams}
        journal.stop()
        assert waiting.get(STREAM, 0) == 0

    def test_of_the_importers_journal_leaves_a_half_import_to_its_file(
        self, command: Command, away: Box, helper: Box, stick: Path, server: InMemoryStreamServer
    ) -> None:
        export(command, away, stick)
        ready(helper)
        with moving.opened(helper.config) as ask:
            begin_import(ask, stick, 1)
        self.break_row(helper, rows.COUNTERS)
        (helper.data / SUSPECT).touch()
        bring(command, helper, stick)
        helper.send()
        assert positions(server) == [1, 2, 3, 4, 5, 6, 7]


def records_of(box: Box, stream: str) -> list[bytes]:
    """Records that a journal has of a stream."""
    number = read_books(box.data).streams[stream].book.number
    found = [segment for _, segment in segments(box.data, number) if isinstance(segment, rows.Segment)]
    return [element for segment in found for element in segment.elements()]
