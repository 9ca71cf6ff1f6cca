"""``ds-gateway audit`` against real servers and the journal of a real gateway, beside it and without it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway.audit import audit_journal
from ds_gateway.cli.audit import _asides
from ds_gateway.config.loader import load_server
from ds_gateway.journal import rows
from ds_gateway.journal.reading import read_journal
from durable_streams import DurableStream, stream
from durable_streams.server import Limits, ServerThread, SqliteStore, StreamApp
from harness.embedded_streams import EmbeddedStreams
from harness.gateway_process import GatewayProcess, source_of
from harness.ports import free_port
from harness.processes import Processes
from harness.pty_device import PtyDevice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.command import Command, Ended
    from harness.zygote import Zygote

STREAM: Final = "telemetry/line-7/scales"
LEDGER: Final = "gateway/line-7"
TOKEN: Final = "the-right-token"


class Plant:
    """A scale, a gateway, and a place for its streams."""

    def __init__(self, processes: Processes, folder: Path, device: PtyDevice, server: dict[str, Any]) -> None:
        self.device = device
        self.settings: dict[str, Any] = {
            "gateway": {"id": "line-7"},
            "server": server,
            "journal": {"min_free_bytes": 0},
            "serial": {"scale": {"port": str(device.path), "stream": "telemetry/{gateway}/scales"}},
        }
        self.gateway = GatewayProcess(processes, folder / "gateway", self.settings)
        self.sent = 0

    def start(self) -> None:
        """Start the gateway, and let it find the beginning of a line."""
        self.gateway.start()
        self.gateway.wait_connected()
        before = source_of(self.gateway.status() or {}, "scale")["received_bytes"]
        self.device.send(b"\n")
        self.gateway.wait_for(
            lambda status: source_of(status, "scale")["received_bytes"] > before, what="the first line end is read"
        )

    def accept(self, count: int) -> None:
        """Send so many lines, and wait until they are in the journal or beyond it."""
        self.send(count)
        self.gateway.wait_accepted(self.sent)

    def send(self, count: int) -> None:
        """Send so many lines."""
        self.device.send("".join(f"{self.sent + number}\n" for number in range(1, count + 1)).encode())
        self.sent += count

    def deliver(self, count: int) -> None:
        """Send so many lines, and wait until they are in their stream."""
        self.accept(count)
        self.gateway.wait_delivered(self.sent)

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Send lines all the time, as fast as the gateway reads them and a little less."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(0.002):
                self.send(10)

        thread = threading.Thread(target=run, name="traffic")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @property
    def journal(self) -> Path:
        """The file of the journal."""
        return self.gateway.data_dir / "journal" / "cache.db"


class Server:
    """A stream server in this process: it can be stopped and started at the same address."""

    def __init__(
        self, directory: Path, port: int, *, limits: Limits | None = None, token: str | None = None
    ) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._directory = directory
        self._port = port
        self._limits = limits
        self._token = token
        self._thread: ServerThread | None = None

    def start(self) -> None:
        store = SqliteStore(self._directory)
        self._thread = ServerThread(StreamApp(store, limits=self._limits or Limits(), token=self._token))
        self._thread.start()
        self._thread.listen("127.0.0.1", self._port)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None


class Servers:
    """Starts servers; all are stopped when the test ends."""

    def __init__(self) -> None:
        self._started: list[Server] = []

    def start(self, directory: Path, port: int | None = None, **more: Any) -> Server:
        server = Server(directory, port or free_port(), **more)
        server.start()
        self._started.append(server)
        return server

    def stop(self) -> None:
        for server in self._started:
            server.stop()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as simulated:
        simulated.plug()
        yield simulated


@pytest.fixture
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.stop()


@dataclass(frozen=True)
class Template:
    """What a gateway that delivered ten records and ended has left: its data, its server's, and the address."""

    folder: Path
    port: int


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Template:
    folder = tmp_path_factory.mktemp("delivered")
    made = Template(folder, free_port())
    server = Server(folder / "streams", made.port)
    server.start()
    with Processes(folder, zygote) as processes, PtyDevice(folder / "usb-scale") as device:
        device.plug()
        plant = Plant(processes, folder, device, {"url": server.base_url})
        plant.start()
        plant.deliver(10)
        assert plant.gateway.terminate() == 0
    server.stop()
    return made


@pytest.fixture
def server(servers: Servers, template: Template, tmp_path: Path) -> Server:
    """A server with the ten records."""
    shutil.copytree(template.folder / "streams", tmp_path / "streams")
    return servers.start(tmp_path / "streams", template.port)


@pytest.fixture
def delivered(
    processes: Processes, tmp_path: Path, device: PtyDevice, server: Server, template: Template
) -> Plant:
    """Ten records are in the stream, and the gateway has ended."""
    plant = Plant(processes, tmp_path, device, {"url": server.base_url})
    shutil.copytree(template.folder / "gateway" / "data", plant.gateway.data_dir)
    plant.sent = 10
    return plant


@pytest.fixture
def empty(processes: Processes, tmp_path: Path, device: PtyDevice, servers: Servers) -> tuple[Plant, Server]:
    """A gateway that was never started, and its server."""
    server = servers.start(tmp_path / "empty-streams")
    return Plant(processes, tmp_path, device, {"url": server.base_url}), server


def audited(command: Command, plant: Plant, *arguments: object, code: int) -> dict[str, Any]:
    """What ``audit --json`` says."""
    done = command("audit", "--json", "--config", plant.gateway.config, *arguments)
    assert done.code == code, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["proven"] is (code == 0)
    assert isinstance(said, dict)
    return said


def printed(command: Command, plant: Plant, *, code: int) -> Ended:
    done = command("audit", "--config", plant.gateway.config)
    assert done.code == code, done.stdout + done.stderr
    return done


def the_stream(said: dict[str, Any]) -> dict[str, Any]:
    (found,) = said["streams"]
    assert isinstance(found, dict)
    return found


def found(said: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Positions of each kind of finding."""
    return {finding["kind"]: finding["positions"] for finding in the_stream(said)["findings"]}


def text(said: dict[str, Any], kind: str, *, stream: str | None = None) -> str:
    row = the_stream(said) if stream is None else next(row for row in said["streams"] if row["name"] == stream)
    return str(next(finding["text"] for finding in row["findings"] if finding["kind"] == kind))


def records(url: str, **more: Any) -> list[dict[str, Any]]:
    with stream(url, live=False, **more) as response:
        return [record for record in response.read_json() if "data" in record]


class TestProven:
    def test_beside_a_gateway_and_without_it(self, command: Command, delivered: Plant) -> None:
        plant = delivered
        plant.start()
        plant.deliver(2)
        beside = the_stream(audited(command, plant, code=0))
        assert (beside["accepted"], beside["appended"], beside["missing"], beside["findings"]) == (12, 12, 0, [])
        assert plant.gateway.terminate() == 0
        without = the_stream(audited(command, plant, code=0))
        assert without == beside
        done = printed(command, plant, code=0)
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert lines[0] == f"gateway line-7, journal in {plant.gateway.data_dir}"
        assert any(line.split("│")[1:3] == [f" {STREAM} ", "       12 "] and " yes " in line for line in lines)
        assert lines[-1] == (
            "accepted 12 = appended 12 + in the journal 0 + ledgered 0; every position is proven once"
        )

    def test_what_waits_in_the_journal_counts(self, command: Command, delivered: Plant, server: Server) -> None:
        plant = delivered
        plant.start()
        plant.gateway.wait_stream(STREAM, "idle")
        server.stop()
        plant.accept(4)
        plant.gateway.wait_stream(STREAM, "waiting")
        plant.gateway.kill()
        server.start()
        said = audited(command, plant, code=0)
        row = the_stream(said)
        assert (row["accepted"], row["appended"], row["in_journal"]) == (14, 10, 4)
        assert row["in_doubt"] > 0
        assert found(said)["on_their_way"][0][0] == 11
        assert said["totals"]["accepted"] == 14
        plant.gateway.start()
        plant.gateway.wait_delivered(14)
        assert the_stream(audited(command, plant, code=0))["appended"] == 14

    def test_before_anything_was_sent(self, command: Command, empty: tuple[Plant, Server]) -> None:
        plant, server = empty
        server.stop()
        plant.start()
        plant.accept(2)
        plant.gateway.kill()
        server.start()
        row = the_stream(audited(command, plant, code=0))
        assert (row["appended"], row["in_journal"], row["records"]) == (0, 2, 0)

    def test_no_stream_yet(self, command: Command, empty: tuple[Plant, Server]) -> None:
        plant, _ = empty
        plant.gateway.start()
        plant.gateway.wait_connected()
        assert audited(command, plant, code=0)["streams"] == []
        done = printed(command, plant, code=0)
        assert done.stdout.splitlines()[-1].startswith("accepted 0 = ")

    @pytest.mark.soak
    def test_what_is_accepted_during_the_audit_is_no_stranger(self, delivered: Plant) -> None:
        delivered.start()
        settings = load_server(delivered.gateway.config, {}, with_token=True)
        view = read_journal(delivered.gateway.data_dir)
        delivered.deliver(5)
        (row,) = asyncio.run(audit_journal(settings, view, list(view.streams.values())))
        assert (row.is_proven, row.accepted, row.appended, row.since, row.findings) == (True, 10, 10, 5, [])

    @pytest.mark.soak
    def test_no_false_alarm_beside_a_busy_gateway(self, command: Command, delivered: Plant) -> None:
        """Records are accepted while the journal is looked at, while the stream is read, and in between."""
        plant = delivered
        plant.start()
        accepted: list[int] = []
        with plant.traffic():
            while len(accepted) < 8 or accepted[-1] == accepted[0]:
                row = the_stream(audited(command, plant, code=0))
                assert not [finding for finding in row["findings"] if finding["severity"] == "failed"]
                accepted.append(row["accepted"])
        plant.gateway.wait_delivered(plant.sent)
        assert the_stream(audited(command, plant, code=0))["appended"] == plant.sent

    @pytest.mark.soak
    def test_what_a_server_lost_and_a_repair_told_is_named(
        self, command: Command, delivered: Plant, server: Server, tmp_path: Path
    ) -> None:
        """A server is put back to ten records after the copies of what it got since were trimmed."""
        plant = delivered
        plant.settings["journal"]["retain_bytes"] = 0
        plant.gateway.configure(plant.settings)
        server.stop()
        shutil.copytree(tmp_path / "streams", tmp_path / "backup")
        server.start()
        plant.start()
        for _ in range(4):
            plant.deliver(1)
        assert plant.gateway.terminate() == 0
        server.stop()
        shutil.rmtree(tmp_path / "streams")
        (tmp_path / "backup").rename(tmp_path / "streams")
        server.start()
        assert audited(command, plant, code=1)["totals"]["missing"] > 0
        plant.start()
        plant.accept(1)
        plant.gateway.wait_for(lambda status: "server_lost" in status["journal"]["losses"], what="it is repaired")
        plant.gateway.wait_stream(STREAM, "idle")
        said = audited(command, plant, code=0)
        ((first, last),) = found(said)["loss_in_doubt"]
        assert first == 11
        assert the_stream(said)["ledger"] == {"server_lost": last - first + 1}

    @pytest.mark.soak
    def test_retention_is_no_loss(
        self, command: Command, servers: Servers, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        server = servers.start(tmp_path / "short", limits=Limits(retain_bytes=500))
        plant = Plant(processes, tmp_path, device, {"url": server.base_url})
        plant.start()
        for _ in range(6):
            plant.deliver(2)
        said = audited(command, plant, code=0)
        (expired,) = found(said)["expired"]
        assert expired[0] == 1
        row = the_stream(said)
        assert (row["expired"], row["appended"]) == (expired[1], plant.sent - expired[1])
        assert "the server keeps them no longer" in text(said, "expired")


class TestNotProven:
    def test_a_copy_by_another_producer(self, command: Command, delivered: Plant, server: Server) -> None:
        url = f"{server.base_url}/{STREAM}"
        third, fourth = records(url)[2:4]
        with DurableStream(url) as handle:
            handle.append(third)
        said = audited(command, delivered, code=1)
        assert found(said) == {"twice": [[3, 3]]}
        assert "the contents are the same each time" in text(said, "twice")
        with DurableStream(url) as handle:
            handle.append({**fourth, "data": {"value": "changed"}})
        said = audited(command, delivered, code=1)
        assert found(said) == {"twice": [[3, 4]]}
        assert "those of 4 differ" in text(said, "twice")
        done = printed(command, delivered, code=1)
        assert f"{STREAM}: failed: positions 3-4 are in the stream more than once" in done.stdout
        assert done.stdout.splitlines()[-1].endswith("; 2 twice; NOT PROVEN")

    @pytest.mark.soak
    def test_rows_of_the_journal_that_are_gone(self, command: Command, delivered: Plant, server: Server) -> None:
        plant = delivered
        plant.start()
        plant.gateway.wait_stream(STREAM, "idle")
        server.stop()
        for _ in range(4):
            plant.accept(1)
        plant.gateway.kill()
        with closing(sqlite3.connect(plant.journal)) as connection, connection:
            connection.execute("DELETE FROM Cache WHERE key = ?", (_segment_of(connection, 12),))
        server.start()
        said = audited(command, plant, code=1)
        assert found(said)["missing"] == [[12, 12]]
        row = the_stream(said)
        assert (row["accepted"], row["appended"], row["in_journal"], row["missing"]) == (14, 10, 3, 1)
        done = printed(command, plant, code=1)
        assert done.stdout.splitlines()[-1].startswith(
            "accepted 14 = appended 10 + in the journal 3 + ledgered 0 + MISSING 1; "
        )

    def test_a_row_of_the_journal_that_is_damaged(self, command: Command, empty: tuple[Plant, Server]) -> None:
        plant, server = empty
        server.stop()
        plant.start()
        for _ in range(3):
            plant.accept(1)
        plant.gateway.kill()
        server.start()
        with closing(sqlite3.connect(plant.journal)) as connection, connection:
            key = _segment_of(connection, 2)
            connection.execute("UPDATE Cache SET value = x'00' WHERE key = ?", (key,))
        said = audited(command, plant, code=1)
        assert found(said).keys() >= {"missing", "damaged"}
        assert found(said)["missing"] == [[2, 2]]
        assert key in text(said, "damaged")

    @pytest.mark.soak
    def test_a_stream_whose_own_row_is_damaged(self, command: Command, delivered: Plant) -> None:
        with closing(sqlite3.connect(delivered.journal)) as connection, connection:
            connection.execute("UPDATE Cache SET value = x'00' WHERE key = 'k/000001'")
        said = audited(command, delivered, code=1)
        assert said["streams"] == []
        assert "k/000001 is damaged" in said["journal_damaged"][0]
        assert "restart the gateway: it salvages what is readable" in said["journal_damaged"][0]
        assert "journal: failed: journal row k/000001" in printed(command, delivered, code=1).stdout

    def test_a_journal_that_was_damaged_and_salvaged(self, command: Command, delivered: Plant) -> None:
        with delivered.journal.open("r+b") as file:
            file.write(b"z" * 100)
        done = printed(command, delivered, code=1)
        assert "restart the gateway: it salvages what is readable" in done.stderr
        delivered.gateway.start()
        (name,) = delivered.gateway.wait_ready()["journal"]["set_aside"]
        delivered.gateway.wait_stream(LEDGER, "idle")
        aside = delivered.gateway.data_dir / name
        said = audited(command, delivered, code=1)
        (told,) = said["journal_damaged"]
        assert told.startswith(f"a damaged journal was set aside at {aside} on 20")
        assert f"see the loss records in {LEDGER}; delete the folder when you are done with it" in told
        assert "the journal itself lost (corrupt)" in text(said, "journal_losses", stream=LEDGER)
        assert audited(command, delivered, LEDGER, code=1)["journal_damaged"] == [told]
        done = printed(command, delivered, code=1)
        assert f"journal: failed: {told}" in done.stdout
        assert done.stdout.splitlines()[-1].endswith("; NOT PROVEN")
        shutil.rmtree(aside)
        assert audited(command, delivered, code=0)["journal_damaged"] == []

    def test_a_data_dir_that_cannot_be_listed_is_in_doubt(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (told,) = _asides(tmp_path / "file", "g")
        assert told.startswith("it is in doubt whether a damaged journal was set aside in")
        assert "(Not a directory); run this as" in told

    def test_what_the_server_lost(self, command: Command, delivered: Plant, server: Server) -> None:
        """The stream made anew, with the first records only."""
        url = f"{server.base_url}/{STREAM}"
        kept = records(url)[:6]
        DurableStream.delete_static(url)
        with DurableStream.create(url, content_type="application/json") as handle:
            for record in kept:
                handle.append(record)
        said = audited(command, delivered, code=1)
        assert found(said) == {"missing_copy_kept": [[7, 10]]}

    @pytest.mark.soak
    def test_a_journal_that_is_older_than_what_was_sent(self, command: Command, delivered: Plant) -> None:
        copy = delivered.gateway.data_dir.with_name("copy")
        shutil.copytree(delivered.gateway.data_dir, copy)
        delivered.start()
        delivered.deliver(2)
        assert delivered.gateway.terminate() == 0
        shutil.rmtree(delivered.gateway.data_dir)
        copy.rename(delivered.gateway.data_dir)
        assert found(audited(command, delivered, code=1)) == {"foreign": [[11, 12]]}


class TestUnread:
    def test_a_server_that_is_down(self, command: Command, delivered: Plant, server: Server) -> None:
        server.stop()
        said = audited(command, delivered, code=1)
        assert "start the server, or see that server.url leads to it" in text(said, "unread")
        assert the_stream(said)["read"] is False

    def test_a_stream_that_was_deleted(self, command: Command, delivered: Plant, server: Server) -> None:
        DurableStream.delete_static(f"{server.base_url}/{STREAM}")
        assert "it was deleted there" in text(audited(command, delivered, code=1), "unread")
        done = printed(command, delivered, code=1)
        assert done.stdout.splitlines()[-1].endswith("; 1 stream not read; NOT PROVEN")

    def test_a_closed_stream_is_read(self, command: Command, delivered: Plant, server: Server) -> None:
        with DurableStream(f"{server.base_url}/{STREAM}") as handle:
            handle.close_stream()
        assert the_stream(audited(command, delivered, code=0))["appended"] == 10

    def test_what_is_no_stream_of_records(self, command: Command, delivered: Plant, server: Server) -> None:
        url = f"{server.base_url}/{STREAM}"
        DurableStream.delete_static(url)
        DurableStream.create(url, content_type="text/plain", body="hello").close()
        assert "no records of a gateway" in text(audited(command, delivered, code=1), "unread")

    def test_tokens(
        self, command: Command, delivered: Plant, server: Server, servers: Servers, tmp_path: Path
    ) -> None:
        server.stop()
        servers.start(tmp_path / "streams", int(server.base_url.split(":")[2].split("/")[0]), token=TOKEN)
        configured, right, wrong = tmp_path / "configured", tmp_path / "right", tmp_path / "wrong"
        wrong.write_text("wrong\n")
        for file in (configured, right):
            file.write_text(f"{TOKEN}\n")
        section = {"url": server.base_url, "token": f"${{file:{configured}}}"}
        delivered.gateway.configure({**delivered.settings, "server": section})
        assert the_stream(audited(command, delivered, code=0))["appended"] == 10
        said = audited(command, delivered, "--token-file", wrong, code=1)
        assert "the token is refused; set server.token right, or give --token-file" in text(said, "unread")
        # A shell that cannot read the service's credential reads with a token of its own.
        configured.unlink()
        done = command("audit", "--config", delivered.gateway.config)
        assert (done.code, done.stdout) == (2, "")
        assert "server.token" in done.stderr
        assert the_stream(audited(command, delivered, "--token-file", right, code=0))["appended"] == 10


@pytest.mark.soak
class TestEmbedded:
    def test_beside_a_gateway_without_it_and_beside_another_server(
        self, command: Command, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        streams = EmbeddedStreams()
        plant = Plant(processes, tmp_path, device, streams.settings())
        plant.start()
        plant.deliver(5)
        plant.gateway.wait_for(lambda status: status["embedded"]["state"] == "listening", what="it listens")
        beside = the_stream(audited(command, plant, code=0))
        assert (beside["appended"], beside["url"]) == (5, f"{streams.base_url}/{STREAM}")
        assert plant.gateway.terminate() == 0
        assert the_stream(audited(command, plant, code=0)) == beside
        with streams.served(plant.gateway.data_dir):
            assert the_stream(audited(command, plant, code=0)) == beside
        # It has been put back as it was: a gateway goes on with it.
        plant.start()
        plant.deliver(1)

    def test_a_store_that_is_gone(
        self, command: Command, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        plant = Plant(processes, tmp_path, device, EmbeddedStreams().settings())
        plant.start()
        plant.deliver(1)
        assert plant.gateway.terminate() == 0
        shutil.rmtree(plant.gateway.data_dir / "streams")
        assert "put them back there" in text(audited(command, plant, code=1), "unread")
        assert not (plant.gateway.data_dir / "streams").exists()


@pytest.mark.soak
class TestMovedServer:
    def test_a_stream_is_read_where_it_is(
        self, command: Command, delivered: Plant, servers: Servers, tmp_path: Path
    ) -> None:
        """A changed server.url moves a stream when the gateway starts, and not before."""
        second = servers.start(tmp_path / "second")
        delivered.gateway.configure({**delivered.settings, "server": {"url": second.base_url}})
        assert the_stream(audited(command, delivered, code=0))["appended"] == 10
        delivered.start()
        delivered.deliver(3)
        said = audited(command, delivered, code=0)
        row = the_stream(said)
        assert (row["url"], row["appended"]) == (f"{second.base_url}/{STREAM}", 3)
        assert found(said) == {"expired": [[1, 10]]}
        assert "went to another server" in text(said, "expired")


class TestUse:
    def test_some_streams(self, command: Command, delivered: Plant) -> None:
        assert the_stream(audited(command, delivered, STREAM, STREAM, code=0))["name"] == STREAM
        done = command("audit", "nowhere", "--config", delivered.gateway.config)
        assert done.code == 2
        assert f"there are: {STREAM}" in " ".join(done.stderr.replace("│", " ").split())

    def test_no_journal(self, command: Command, empty: tuple[Plant, Server]) -> None:
        plant, _ = empty
        done = command("audit", "--config", plant.gateway.config)
        assert (done.code, done.stdout) == (1, "")
        assert f"ds-gateway: there is no journal in {plant.gateway.data_dir}" in done.stderr

    def test_no_configuration(self, command: Command, tmp_path: Path) -> None:
        done = command("audit", "--config", tmp_path / "none.yaml")
        assert (done.code, done.stdout) == (2, "")
        assert "there is no such file" in done.stderr

    def test_sources_and_their_credentials_do_not_matter(self, command: Command, delivered: Plant) -> None:
        broker = {"url": "mqtt://b", "username": "g", "password": "${credential:broker}", "devices": []}
        delivered.gateway.configure({**delivered.settings, "mqtt": {"hall": broker}})
        assert the_stream(audited(command, delivered, code=0))["appended"] == 10


def _segment_of(connection: sqlite3.Connection, position: int) -> str:
    """Key of the journal's row with this position."""
    for key, value in connection.execute("SELECT key, value FROM Cache WHERE key LIKE 's/%'"):
        segment = rows.decode_segment(key, value)
        if segment.first_position <= position < segment.first_position + segment.count:
            assert segment.count == 1, "the test takes one record away"
            return str(key)
    raise AssertionError(f"position {position} is not in the journal")
