"""``ds-gateway quarantine``: beside a running gateway, and without one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.records import Item, Rejected
from durable_streams.testing import InMemoryStreamServer
from harness.audit import StreamReader, telemetry
from harness.gateway_process import GatewayProcess, source_of
from harness.mosquitto import Mosquitto
from harness.publisher import Publisher
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.command import Command, Ended
    from harness.processes import Processes

CONFIG = """\
gateway: {id: line-7}
data_dir: data
server: {url: "http://127.0.0.1:1/v1"}
journal: {min_free_bytes: 0}
mqtt: {hall: {url: mqtt://127.0.0.1, devices: [{topic: "a/{name}", decode: text}, {topic: "j/{name}"}]}}
serial: {scale: {port: /dev/nowhere, decode: text}}
"""
SECOND = 10**9
REJECTED = [
    Rejected("hall", "one", "not JSON: x", b"21.5", SECOND, topic="a/one"),
    Rejected("hall", "two", "not JSON: y", b"\xff\x00 0123456789abcdef", 2 * SECOND, topic="j/two"),
    Rejected("scale", "scale", "not JSON: z", b"7 kg", 3 * SECOND),
    Rejected("hall", "old", "not JSON: x", b"1", 4 * SECOND),
    Rejected("gone", "gone", "not JSON: x", b"1", 5 * SECOND, topic="b"),
    Rejected("stream telemetry/line-7", "", "400 Bad Request", b'{"id":"x"}', 6 * SECOND),
    Rejected("hall", "big", "too large; the first 65536 bytes are kept", b"1", 7 * SECOND, topic="a/big"),
    Rejected("hall", "\x1b[2J", "topic \x1b[2J", b"1", 8 * SECOND, topic="c/\x1b[2J"),
]


def open_journal(directory: Path) -> Journal:
    limits = JournalLimits(min_free_bytes=0)
    return Journal.open(directory, gateway="line-7", url="http://127.0.0.1:1/v1", limits=limits)


def put_aside(directory: Path, rejected: Sequence[Rejected]) -> None:
    told: list[int] = []
    journal = open_journal(directory)
    intake = journal.intake("x", max_items=100, on_committed=lambda items, _commit: told.append(len(items)))
    intake.offer([Item(each) for each in rejected])
    journal.start()
    wait_until(lambda: sum(told) == len(rejected), what="they are in the quarantine")
    journal.stop()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    put_aside(tmp_path / "data", REJECTED)
    return tmp_path / "gateway.yaml"


def run(command: Command, config: Path, *arguments: object) -> Ended:
    return command("quarantine", *arguments, "--config", config)


def numbers(command: Command, config: Path, *arguments: object) -> list[int]:
    done = run(command, config, "ls", "--json", *arguments)
    assert (done.code, done.stderr) == (0, "")
    return [row["number"] for row in json.loads(done.stdout)["payloads"]]


class TestLs:
    def test_has_the_newest_first(self, command: Command, config: Path) -> None:
        assert numbers(command, config) == [8, 7, 6, 5, 4, 3, 2, 1]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (("--limit", 2), [8, 7]),
            (("--source", "hall", "--limit", 3), [8, 7, 4]),
            (("--device", "two"), [2]),
            (("--reason", "NOT json: X"), [5, 4, 1]),
            (("--device", "nobody"), []),
        ],
    )
    def test_takes_filters(
        self, command: Command, config: Path, options: tuple[object, ...], expected: list[int]
    ) -> None:
        assert numbers(command, config, *options) == expected

    def test_is_a_table_that_controls_no_terminal(self, command: Command, config: Path) -> None:
        done = run(command, config, "ls", "--limit", 3)
        assert "quarantine: 8 payloads, 41 bytes; the newest 3 (--limit for more)" in done.stdout
        assert "1970-01-01T00:00:08.000000Z" in done.stdout
        assert "\x1b" not in done.stdout
        assert "\\x1b[2J" in done.stdout

    def test_of_no_journal(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "gateway.yaml").write_text(CONFIG)
        done = run(command, tmp_path / "gateway.yaml", "ls")
        assert done.code == 1
        assert f"there is no journal in {tmp_path}/data: no gateway has run with this data_dir yet" in done.stderr


class TestShow:
    def test_has_hex_and_text(self, command: Command, config: Path) -> None:
        done = run(command, config, "show", 2)
        assert done.stdout == (
            "number  2\n"
            "time    1970-01-01T00:00:02.000000Z\n"
            "source  hall\n"
            "device  two\n"
            "topic   j/two\n"
            "reason  not JSON: y\n"
            "bytes   19\n"
            "00000000  ff 00 20 30 31 32 33 34 35 36 37 38 39 61 62 63  .. 0123456789abc\n"
            "00000010  64 65 66                                         def\n"
        )

    def test_has_all_bytes_in_json(self, command: Command, config: Path) -> None:
        shown = json.loads(run(command, config, "show", 2, "--json").stdout)
        assert base64.b64decode(shown["raw"]) == REJECTED[1].raw

    def test_of_what_is_not_there(self, command: Command, config: Path) -> None:
        done = run(command, config, "show", 99)
        assert (done.code, done.stdout) == (1, "")
        assert "there is no number 99 in the quarantine" in done.stderr


class TestExport:
    def test_writes_a_file_for_the_user_alone(self, command: Command, config: Path, tmp_path: Path) -> None:
        done = run(command, config, "export", "--output", tmp_path / "out.jsonl", 1, 3)
        assert (done.code, done.stdout) == (0, f"2 payloads in {tmp_path}/out.jsonl\n")
        done = run(command, config, "export", "--output", tmp_path / "one.jsonl", 1)
        assert done.stdout == f"1 payload in {tmp_path}/one.jsonl\n"
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [(row["number"], row["topic"], base64.b64decode(row["raw"])) for row in rows] == [
            (1, "a/one", b"21.5"),
            (3, None, b"7 kg"),
        ]
        assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600
        assert numbers(command, config) == [8, 7, 6, 5, 4, 3, 2, 1]

    def test_replaces_no_file(self, command: Command, config: Path, tmp_path: Path) -> None:
        (tmp_path / "out.jsonl").write_text("mine")
        assert run(command, config, "export", "--output", tmp_path / "out.jsonl").code == 2
        assert (tmp_path / "out.jsonl").read_text() == "mine"

    def test_goes_on_over_many_answers(self, command: Command, config: Path, tmp_path: Path) -> None:
        large = [Rejected("hall", "one", "r", bytes(900_000), n, topic="a/one") for n in range(5)]
        put_aside(tmp_path / "data", large)
        run(command, config, "export", "--output", tmp_path / "out.jsonl")
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 13


class TestRetryWithoutAGateway:
    def test_takes_what_can_be_read_and_says_why_not(self, command: Command, config: Path) -> None:
        done = run(command, config, "retry", "--json")
        assert (done.code, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        assert (told["accepted"], told["no_room"], told["not_reported"]) == (2, 0, 0)
        assert [row["number"] for row in told["kept"]] == [2, 8]
        assert told["kept"][1]["reason"].endswith("no device of the configuration has this topic")
        assert [(row["number"], row["reason"].split(":")[0]) for row in told["impossible"]] == [
            (4, "its topic is not known"),
            (5, "no source has the name gone now"),
            (6, "is a record that the server refused, not a payload"),
            (7, "is not whole"),
        ]
        assert numbers(command, config) == [8, 7, 6, 5, 4, 2]
        assert numbers(command, config, "--reason", "not JSON: y") == []

    def test_takes_only_what_is_named(self, command: Command, config: Path) -> None:
        assert "1 became records" in run(command, config, "retry", 3).stdout
        assert numbers(command, config) == [8, 7, 6, 5, 4, 2, 1]

    def test_is_refused_while_the_journal_is_in_use(self, command: Command, config: Path, tmp_path: Path) -> None:
        journal = open_journal(tmp_path / "data")
        try:
            done = run(command, config, "retry")
            assert done.code == 1
            assert "another gateway (process " in done.stderr
            assert numbers(command, config) == [8, 7, 6, 5, 4, 3, 2, 1]
        finally:
            journal.stop()

    def test_is_for_the_user_of_the_journal(
        self, command: Command, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 12345)
        done = run(command, config, "retry")
        assert done.code == 1
        assert "start the gateway and ask it, or run this as that user (sudo -u " in done.stderr

    def test_reports_all_that_it_reads(self, command: Command, tmp_path: Path) -> None:
        """What came hours apart is not compared, and not sampled by the time of the retry."""
        config = tmp_path / "gateway.yaml"
        report = "report: {on_change: true, every_seconds: 60}"
        config.write_text(
            CONFIG.replace("decode: text}, ", f"decode: text, {report}}}, ").replace(
                "nowhere, ", f"nowhere, {report}, "
            )
        )
        assert config.read_text().count(report) == 2
        one, scale = REJECTED[0], REJECTED[2]
        put_aside(tmp_path / "data", [one, one, scale, scale])
        told = json.loads(run(command, config, "retry", "--json").stdout)
        assert (told["accepted"], told["not_reported"]) == (4, 0)


class TestARunningGateway:
    def test_reads_again_what_its_new_configuration_can_read(
        self, command: Command, processes: Processes, tmp_path: Path
    ) -> None:
        with InMemoryStreamServer() as server, Mosquitto(tmp_path / "mosquitto") as broker:
            settings: dict[str, Any] = {
                "gateway": {"id": "line-7"},
                "server": {"url": server.url("v1")},
                "journal": {"min_free_bytes": 0},
                "mqtt": {"hall": {"url": broker.url, "devices": [{"topic": "sensors/{name}"}]}},
            }
            gateway = GatewayProcess(processes, tmp_path, settings)
            gateway.start()
            gateway.wait_connected()
            with Publisher(broker.port) as publisher:

                def is_subscribed(status: dict[str, Any]) -> bool:
                    publisher.publish([("sensors/a", b'{"n": 2}')])
                    return bool(source_of(status, "hall")["received"])

                gateway.wait_for(is_subscribed, what="it is subscribed")
                publisher.publish([("sensors/a", b"1 kg"), ("sensors/b", b"3 kg")])
            gateway.wait_for(lambda status: status["journal"]["quarantined"] == 2, what="two are put aside")
            assert numbers(command, gateway.config) == [2, 1]
            told = json.loads(run(command, gateway.config, "retry", "--json").stdout)
            assert (told["accepted"], len(told["kept"])) == (0, 2)
            gateway.kill()

            settings["mqtt"]["hall"]["devices"][0]["decode"] = "text"
            gateway.configure(settings)
            gateway.start()
            gateway.wait_ready()
            assert json.loads(run(command, gateway.config, "retry", "--json").stdout)["accepted"] == 2
            assert json.loads(run(command, gateway.config, "retry", "--json").stdout)["accepted"] == 0
            assert numbers(command, gateway.config) == []
            gateway.wait_delivered(3)
            found = telemetry(StreamReader(server.url("v1/telemetry/line-7")).read())
            assert [each for each in found if "n" not in each] == [{"value": "1 kg"}, {"value": "3 kg"}]
            assert gateway.terminate() == 0
