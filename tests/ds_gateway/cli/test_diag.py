"""``ds-gateway diag`` takes secrets out of what others wrote, and says which it does not know."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from ds_gateway.cli.diag import cleaner

if TYPE_CHECKING:
    from pathlib import Path

    from harness.command import Command

LOG = r"file-password literal-token header-secret inc\"luded\" mqtt://u:a/bPASS@h:1883/x unknown-to-this-shell"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with a reference that cannot be followed here, beside a log with everything in it."""
    program = tmp_path / "bin/journalctl"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LOG}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    (tmp_path / "pw").write_text("file-password\n")
    (tmp_path / "more.yaml").write_text("server: {token: 'inc\"luded\"', headers: {X-Api: header-secret}}\n")
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "include: [more.yaml]\n"
        "data_dir: .\n"
        "status: {token: literal-token}\n"
        "mqtt: {a: {password: '${file:pw}'}, b: {password: '${env:NOT_HERE}'}}\n"
    )
    return file


def content_of(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        return {
            member.name.removeprefix("ds-gateway-diag/"): content.read().decode()
            for member in tar
            if (content := tar.extractfile(member)) is not None
        }


def test_a_secret_that_cannot_be_read_leaves_no_other_in_the_log(
    command: Command, config: Path, tmp_path: Path
) -> None:
    done = command("diag", "--config", config, "--output", tmp_path / "d.tar.gz")
    assert done.code == 0, done.stderr
    content = content_of(tmp_path / "d.tar.gz")
    assert content["log.txt"] == "secret secret secret secret mqtt://h:1883/x unknown-to-this-shell\n"
    assert "mqtt.b.password: ${env:NOT_HERE}: the environment variable NOT_HERE is not" in content["secrets.json"]
    assert done.stderr.startswith(
        "could not be read and so cannot be taken out of the log: mqtt.b.password: ${env:NOT_HERE}: "
    )


def test_a_credential_is_found_without_the_services_environment(
    command: Command, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/b").write_text("unknown-to-this-shell")
    config.write_text(config.read_text().replace("env:NOT_HERE", "credential:b"))
    monkeypatch.setattr("ds_gateway.cli.diag.credential_folders", lambda _unit: [tmp_path / "credentials"])
    done = command("diag", "--config", config, "--output", tmp_path / "d.tar.gz")
    content = content_of(tmp_path / "d.tar.gz")
    assert content["log.txt"].endswith(" mqtt://h:1883/x secret\n")
    assert (done.stderr, "secrets.json" in content) == ("", False)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mqtt://u:a/bPASS@h", "mqtt://h"),
        ("mqtt://u:p@ss/w@h/x", "mqtt://h/x"),
        ("http://u@h/v1", "http://h/v1"),
        ("http://h:4437/v1/stream/@gateway", "http://h:4437/v1/stream/@gateway"),
        ("http://h/v1/stream/@gateway", "http://h/v1/stream/@gateway"),
        ("at mqtt://h:1883, mail to a@b", "at mqtt://h:1883, mail to a@b"),
        ("p%C3%A4ss%2F w%2Ford", "secret secret"),
    ],
)
def test_users_of_urls_go_and_the_rest_stays(text: str, clean: str) -> None:
    assert cleaner(["p\N{LATIN SMALL LETTER A WITH DIAERESIS}ss/", "w/ord", "at"])(text) == clean
