"""``ds-gateway tail``, ``journal``, ``identity``, ``diag`` and ``status --watch`` beside a running gateway."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.gateway_process import GatewayProcess, source_of, total
from harness.ports import free_port
from harness.processes import Processes, console_script
from harness.pty_device import PtyDevice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.command import Command, Ended

TOKEN: Final = "nobody-may-see-this"
STREAM: Final = "telemetry/line-7/scales"


class Plant:
    """A scale and a gateway."""

    def __init__(self, gateway: GatewayProcess, device: PtyDevice) -> None:
        self.gateway = gateway
        self._device = device
        self.weighed = 0

    def weigh(self, *values: str) -> None:
        """Send readings, and wait until they are in their stream."""
        self._device.send("".join(f"{value}\n" for value in values).encode())
        self.weighed += len(values)
        self.gateway.wait_for(
            lambda status: (
                sum(each["count"] for each in status["devices"]) >= self.weighed
                and all(each["in_journal"] == 0 for each in status["streams"])
            ),
            what="it is weighed",
        )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    with PtyDevice(folder / "scale") as device, Processes(folder) as processes:
        settings: dict[str, Any] = {
            "gateway": {"id": "line-7"},
            "server": {"url": "embedded", "listen": f"127.0.0.1:{free_port()}", "token": TOKEN},
            "journal": {"min_free_bytes": 0},
            "serial": {
                "scale": {
                    "port": str(device.path),
                    "stream": "telemetry/{gateway}/scales",
                    "decode": {"regex": r"(?P<weight>[\d.]+) kg"},
                    "fields": {"weight": {"unit": "kg"}},
                },
            },
        }
        device.plug()
        gateway = GatewayProcess(processes, folder, settings)
        gateway.start()
        gateway.wait_connected()
        plant = Plant(gateway, device)

        before = source_of(gateway.status() or {}, "scale")["received_bytes"]
        device.send(b"\n")
        gateway.wait_for(
            lambda status: source_of(status, "scale")["received_bytes"] > before, what="the first line end is read"
        )
        plant.weigh("1.5 kg", "2.5 kg", "0.5 kg")
        yield plant
        assert gateway.terminate() == 0


def run(command: Command, plant: Plant, *arguments: object) -> Ended:
    return command(*arguments, "--config", plant.gateway.config)


class TestTail:
    def test_begins_with_what_passed_before(self, command: Command, plant: Plant) -> None:
        done = run(command, plant, "tail", "-n", 2, "--records", 2)
        assert (done.code, done.stderr) == (0, "")
        assert re.fullmatch(r"\d{4}-\S+Z  scale  weight=2.5\n\d{4}-\S+Z  scale  weight=0.5\n", done.stdout), (
            done.stdout
        )

    def test_has_records_as_they_are(self, command: Command, plant: Plant) -> None:
        done = run(command, plant, "tail", "--json", "-n", 1, "--records", 1)
        record = json.loads(done.stdout)
        assert (record["device"], record["gateway"], record["data"]) == ("scale", "line-7", {"weight": 0.5})

    def test_takes_filters(self, command: Command, plant: Plant) -> None:
        def count(*options: object) -> int:
            done = run(command, plant, "tail", "-n", 100, "--seconds", 0, *options)
            assert done.code == 0
            return len(done.stdout.splitlines())

        assert count("scale") == count() >= 3
        assert count("--stream", STREAM) == count()
        assert count("another") == count("--stream", "another") == 0
        assert count("--all") > count()

    def test_waits_for_names_that_it_does_not_know_and_says_so(self, command: Command, plant: Plant) -> None:
        done = run(command, plant, "tail", "scael", "--stream", "telemetry/line-7/scale", "--seconds", 0)
        assert (done.code, done.stdout) == (0, "")
        assert done.stderr.splitlines() == [
            "ds-gateway: no device 'scael' was heard since the gateway started: waiting for it; there are scale",
            (
                "ds-gateway: there is no stream 'telemetry/line-7/scale' in the journal yet: waiting for it; "
                f"there are {STREAM}"
            ),
        ]
        for known in (["scale"], ["--stream", STREAM], ["@gateway"]):
            assert run(command, plant, "tail", "--seconds", 0, *known).stderr == ""

    def test_shows_what_comes(self, plant: Plant) -> None:
        with subprocess.Popen(
            [console_script("ds-gateway"), "tail", "--records", "2", "-n", "1", "--config", plant.gateway.config],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            assert "weight=" in child.stdout.readline()
            plant.weigh("7.25 kg")
            assert "weight=7.25" in child.stdout.readline()
            assert child.wait(20) == 0

    def test_of_no_gateway(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "gateway.yaml").write_text("data_dir: .\n")
        done = command("tail", "--config", tmp_path / "gateway.yaml")
        assert (done.code, done.stdout) == (1, "")
        assert "no gateway is running on" in done.stderr


class TestTheJournal:
    def test_is_listed_beside_the_gateway(self, command: Command, plant: Plant) -> None:
        plant.gateway.wait_for(lambda status: total(status, "in_journal") == 0, what="everything is sent")
        listed = json.loads(run(command, plant, "journal", "ls", "--json").stdout)
        found = {each["name"]: each for each in listed["streams"]}
        assert found[STREAM]["in_stream"] == found[STREAM]["accepted"] > 3
        assert found[STREAM]["in_journal"] == 0
        told = run(command, plant, "journal", "ls").stdout
        assert f"journal of line-7 in {plant.gateway.data_dir}" in told
        assert STREAM in told

    def test_shows_what_is_kept_only_if_asked(self, command: Command, plant: Plant) -> None:
        assert run(command, plant, "journal", "show", STREAM).stdout == ""
        rows = run(command, plant, "journal", "show", STREAM, "--kept", "--json").stdout.splitlines()
        shown = [json.loads(row) for row in rows]
        assert [each["position"] for each in shown] == list(range(1, len(shown) + 1))
        assert {each["state"] for each in shown} == {"kept"}
        assert 1.5 in [each["record"]["data"]["weight"] for each in shown if "data" in each["record"]]

    def test_has_no_other_stream(self, command: Command, plant: Plant) -> None:
        done = run(command, plant, "journal", "show", "nowhere")
        assert done.code == 1
        assert f"there is no stream 'nowhere' in the journal; there are: {STREAM}" in done.stderr


def test_its_identity_is_shown_and_not_changed_while_it_runs(command: Command, plant: Plant) -> None:
    shown = json.loads(run(command, plant, "identity", "show", "--json").stdout)
    assert shown["gateway"] == "line-7"
    assert shown["mqtt_client"] == f"line-7-{shown['install'][:6]}"
    assert shown["producer"] in run(command, plant, "identity", "show").stdout
    done = run(command, plant, "identity", "adopt", "--yes")
    assert done.code == 1
    assert "a gateway is running on" in done.stderr


class TestDiag:
    def read(self, file: Path) -> dict[str, str]:
        with tarfile.open(file) as tar:
            return {
                member.name.removeprefix("ds-gateway-diag/"): content.read().decode()
                for member in tar
                if (content := tar.extractfile(member)) is not None
            }

    def test_has_what_helps_and_no_secret(self, command: Command, plant: Plant, tmp_path: Path) -> None:
        file = tmp_path / "d.tar.gz"
        done = run(command, plant, "diag", "--output", file)
        assert done.code == 0, done.stderr
        assert "look through it before you give it away" in done.stdout
        content = self.read(file)
        assert TOKEN not in "".join(content.values())
        assert all(each["last_data"] == "left out" for each in json.loads(content["status.json"])["devices"])
        assert json.loads(content["config.json"])["server"]["token"] == "secret"
        assert json.loads(content["status.json"])["gateway"]["id"] == "line-7"
        assert json.loads(content["about.json"])["packages"]["diskcache"]
        assert STREAM in content["journal.json"]
        assert "cache.db" in content["files.json"]
        assert file.stat().st_mode & 0o777 == 0o600

    def test_has_readings_if_asked(self, command: Command, plant: Plant, tmp_path: Path) -> None:
        run(command, plant, "diag", "--with-payloads", "--output", tmp_path / "d.tar.gz")
        status = json.loads(self.read(tmp_path / "d.tar.gz")["status.json"])
        assert status["devices"][0]["last_data"]["weight"] > 0

    def test_of_a_gateway_that_does_not_start(self, command: Command, tmp_path: Path) -> None:
        """Keys that there are not, users in URLs, and a file that is not YAML: nothing of it is shown."""
        file = tmp_path / "gateway.yaml"
        file.write_text(
            f"server: {{url: 'http://u:{TOKEN}@h/v1', tokken: {TOKEN}}}\ndata_dir: .\npassword: {TOKEN}\n"
        )
        assert command("diag", "--config", file, "--output", tmp_path / "1.tar.gz").code == 0
        content = self.read(tmp_path / "1.tar.gz")
        assert "no gateway is running" in content["status.json"]
        assert TOKEN not in content["config.json"].replace(f'"tokken": "{TOKEN}"', "")
        file.write_text(f"password: {TOKEN}: [\n")
        assert command("diag", "--config", file, "--output", tmp_path / "2.tar.gz").code == 0
        assert TOKEN not in "".join(self.read(tmp_path / "2.tar.gz").values())

    def test_replaces_no_file(self, command: Command, plant: Plant, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("mine")
        assert run(command, plant, "diag", "--output", tmp_path / "mine").code == 2
        assert (tmp_path / "mine").read_text() == "mine"


class TestWatching:
    def test_shows_it_over_and_over_on_a_terminal(self, plant: Plant) -> None:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            # In a session of its own, so that Ctrl-C of this terminal goes to it.
            [
                "setsid",
                "--ctty",
                "--wait",
                console_script("ds-gateway"),
                "status",
                "--watch",
                "--config",
                plant.gateway.config,
            ],
            stdout=theirs,
            stdin=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "60"},
        ) as child:
            os.close(theirs)
            try:
                shown = b""
                while shown.count(b"every 1 s; Ctrl-C ends") < 2:
                    shown += os.read(ours, 65536)
                assert b"gateway line-7" in shown
                os.write(ours, b"\x03")
                with suppress(OSError):  # the terminal is gone
                    while os.read(ours, 65536):
                        pass
                assert child.wait(20) == 0
            finally:
                child.kill()
                os.close(ours)

    def test_is_refused_elsewhere(self, command: Command, plant: Plant) -> None:
        done = run(command, plant, "status", "--watch")
        assert done.code == 2
        assert "--watch is for a terminal" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_the_usual_shells(command: Command, shell: str) -> None:
    done = command(environ={"_DS_GATEWAY_COMPLETE": f"source_{shell}"})
    assert (done.code, done.stderr) == (0, "")
    assert "ds-gateway" in done.stdout


def test_what_one_gateway_could_not_send_another_sends(
    command: Command, plant: Plant, processes: Processes, tmp_path: Path
) -> None:
    """Both run meanwhile."""
    with PtyDevice(tmp_path / "line") as device:
        device.plug()
        gateway = GatewayProcess(
            processes,
            tmp_path / "away",
            {
                "gateway": {"id": "line-9"},
                "server": {"url": "http://127.0.0.1:1/v1"},
                "journal": {"min_free_bytes": 0},
                "serial": {"line": {"port": str(device.path), "decode": "text", "stream": STREAM}},
            },
        )
        gateway.start()
        gateway.wait_connected()
        device.send(b"\n1\n2\n3\n")
        status = gateway.wait_accepted(3)
        accepted = sum(each["accepted"] for each in status["streams"])
        done = command("journal", "export", "--output", tmp_path / "stick", "--config", gateway.config)
        assert done.code == 0, done.stderr
        gateway.wait_for(
            lambda status: (
                sum(each["exported"] for each in status["streams"])
                and not any(each["in_journal"] for each in status["streams"])
            ),
            what="nothing waits there any more",
        )
        assert gateway.terminate() == 0
    done = run(command, plant, "journal", "import", tmp_path / "stick")
    assert done.code == 1
    assert "--other-server" in done.stderr
    done = run(command, plant, "journal", "import", tmp_path / "stick", "--other-server")
    assert done.code == 0, done.stderr

    def is_sent(status: dict[str, Any]) -> bool:
        found = [each for each in status["streams"] if each["import"]]
        return len(found) == 1 and found[0]["in_stream"] == accepted

    plant.gateway.wait_for(is_sent, what="it is in the stream")
    audited = run(command, plant, "audit", "--json")
    assert audited.code == 0, audited.stdout
