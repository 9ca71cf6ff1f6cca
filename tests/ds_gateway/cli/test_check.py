"""``ds-gateway check``: its exit status, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from harness.command import Ended
from harness.configuration import MINIMAL

if TYPE_CHECKING:
    from pathlib import Path

    from harness.command import Command

Check = Callable[..., Ended]
SECRET = "correct-horse-battery"


@pytest.fixture
def check(command: Command, tmp_path: Path) -> Check:
    """Checks a text; None leaves the file away."""

    def run(text: str | None, *options: str, **environ: str) -> Ended:
        if text is not None:
            (tmp_path / "gateway.yaml").write_text(text)
        return command("check", "--config", tmp_path / "gateway.yaml", *options, environ=environ)

    return run


def test_a_right_configuration(check: Check, tmp_path: Path) -> None:
    done = check(MINIMAL)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == (
        f"ok: {tmp_path}/gateway.yaml\n"
        "  gateway  line-7\n"
        "  source   hall (mqtt mqtt://127.0.0.1)\n"
        "  devices  1 configured\n"
        "  stream   telemetry/{gateway}\n"
        "  server   http://127.0.0.1:4437/v1/stream\n"
        "  data_dir /var/lib/example\n"
        "  journal  2 GiB or 10 % of the file system, the smaller\n"
    )


def test_the_embedded_server_is_told_with_the_place_of_its_streams(check: Check) -> None:
    done = check(MINIMAL.replace("http://127.0.0.1:4437/v1/stream", "embedded"))
    assert "  server   embedded, http://127.0.0.1:4437/v1/stream\n" in done.stdout


def test_the_devices_that_take_commands_are_told(check: Check) -> None:
    text = (
        "gateway: {id: line-7}\ndata_dir: /d\nserver: {url: 'http://h/v1'}\n"
        "mqtt: {hall: {url: 'mqtt://b', devices: [\n"
        "  {topic: 's/{hall}/{sensor}', commands: {topic: 's/{hall}/{sensor}/set', delivery: at_most_once}},\n"
        "  {topic: 'm/{meter}', name: 'meter-{meter}'}]}}\n"
        'serial: {scale: {port: /dev/ttyUSB0, commands: {write: "T\\r\\n", expires_after: 2m}}}\n'
    )
    done = check(text)
    assert (done.code, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if "command" in line] == [
        "  command  {hall}/{sensor} by hall, s/{hall}/{sensor}/set; at_most_once, expires after 60 s",
        "  command  scale by scale, /dev/ttyUSB0; at_least_once, expires after 120 s",
    ]
    assert json.loads(check(text, "--json").stdout)["commands"][1] == {
        "device": "scale",
        "source": "scale",
        "to": "/dev/ttyUSB0",
        "delivery": "at_least_once",
        "expires_after_seconds": 120.0,
    }


def test_mistakes_are_on_standard_error(check: Check, tmp_path: Path) -> None:
    done = check(MINIMAL + "log: {level: loud}\njurnal: 1\n", DS_GATEWAY__BATCH__PARALLEL="x")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == (
        f"{tmp_path}/gateway.yaml:9: log.level: must be debug, info, warning or error, not 'loud'\n"
        f"{tmp_path}/gateway.yaml:10: jurnal: unknown key; did you mean journal?\n"
        "environment: DS_GATEWAY__BATCH__PARALLEL: must be a whole number, not 'x'\n"
    )


def test_no_file(check: Check, tmp_path: Path) -> None:
    done = check(None)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{tmp_path}/gateway.yaml: there is no such file: name one with --config FILE")


class TestJson:
    def answer(self, done: Ended) -> Any:
        assert done.stderr == ""
        return json.loads(done.stdout)

    def test_of_a_right_configuration(self, check: Check, tmp_path: Path) -> None:
        done = check(MINIMAL, "--json")
        answer = self.answer(done)
        assert done.code == 0
        assert len(answer.pop("digest")) == 16
        assert answer == {
            "ok": True,
            "problems": [],
            "config": f"{tmp_path}/gateway.yaml",
            "gateway": "line-7",
            "sources": [{"name": "hall", "kind": "mqtt", "at": "mqtt://127.0.0.1"}],
            "devices": 1,
            "commands": [],
            "streams": ["telemetry/{gateway}"],
            "server": "http://127.0.0.1:4437/v1/stream",
            "base_url": "http://127.0.0.1:4437/v1/stream",
            "data_dir": "/var/lib/example",
            "journal_max_bytes": None,
        }

    def test_of_mistakes(self, check: Check, tmp_path: Path) -> None:
        done = check(MINIMAL + "jurnal: 1\n", "--json")
        assert done.code == 2
        assert self.answer(done) == {
            "ok": False,
            "problems": [
                {
                    "file": f"{tmp_path}/gateway.yaml",
                    "line": 9,
                    "key": "jurnal",
                    "message": "unknown key; did you mean journal?",
                }
            ],
        }


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    "text",
    [
        MINIMAL.replace('stream"}', 'stream", token: "${credential:token}"}'),
        MINIMAL.replace("v1/stream", "v1/${credential:token}"),
        MINIMAL.replace("v1/stream", "v1/${credential:token}?x"),
        MINIMAL.replace("data_dir: /var/lib", "data_dir: /var/${credential:token}"),
        MINIMAL.replace("id: line-7", 'id: "${credential:token}"'),
        MINIMAL.replace("sensors/", "${credential:token}/#/"),
    ],
)
def test_no_secret_is_printed(text: str, options: tuple[str, ...], check: Check, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    done = check(text, *options, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert done.code in {0, 2}
    assert done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
