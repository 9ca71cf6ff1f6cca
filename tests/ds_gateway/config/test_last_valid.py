"""The last valid configuration: where it is kept, where it is found, and when it counts."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ds_gateway.config import last_valid, loader
from ds_gateway.config.last_valid import NAME
from ds_gateway.errors import ConfigError
from harness.configuration import MACHINE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.config.last_valid import Refused
    from ds_gateway.config.loader import Loaded

HEAD = "gateway: {id: line-7}\nserver: {url: 'http://127.0.0.1:4437', token: '${env:TOKEN}'}\n"
VALID = HEAD + "data_dir: data\ninclude: [d/*.yaml]\n"
PORT = "serial: {a: {port: tty}}\n"
TOKEN = {"TOKEN": "correct-horse"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "d/a.yaml").write_text(PORT)
    (tmp_path / "g.yaml").write_text(VALID)
    return tmp_path / "g.yaml"


def start(file: Path, environ: Mapping[str, str]) -> tuple[Loaded, Refused | None]:
    """As a service does it."""
    load = partial(loader.load, file, environ, machine=MACHINE)
    loaded, refused = last_valid.load(file, environ, lambda copy: load(copy=copy), machine=MACHINE)
    if refused is None:
        last_valid.keep(loaded, environ)
    return loaded, refused


def running(found: tuple[Loaded, Refused | None]) -> list[str]:
    loaded, refused = found
    assert refused is not None
    assert refused.problems
    return [loaded.settings.serial["a"].where, loaded.digest]


class TestKeeping:
    def test_is_for_the_user_alone_and_has_no_secret(self, file: Path) -> None:
        start(file, TOKEN)
        kept = file.parent / "data" / NAME
        assert kept.stat().st_mode & 0o777 == 0o600
        assert "correct-horse" not in kept.read_text()
        assert json.loads(kept.read_text())["texts"][str(file)] == VALID

    def test_replaces_what_may_be_read_by_others(self, file: Path) -> None:
        (file.parent / "data" / f"{NAME}.tmp").write_text("left by a crash")
        (file.parent / "data" / NAME).write_text("[]")
        start(file, TOKEN)
        assert (file.parent / "data" / NAME).stat().st_mode & 0o777 == 0o600
        assert [each.name for each in (file.parent / "data").iterdir()] == [NAME]

    def test_takes_names_that_are_not_utf_8(self, file: Path) -> None:
        (file.parent / "d/a.yaml").rename(file.parent / "d/halle-s\udcfcd.yaml")
        before = start(file, TOKEN)[0]
        file.write_text("gateway: {")
        assert running(start(file, {**TOKEN, "DS_GATEWAY__DATA_DIR": "data"})) == [
            str(file.parent / "d/tty"),
            before.digest,
        ]

    def test_is_not_written_again(self, file: Path) -> None:
        start(file, TOKEN)
        before = (file.parent / "data" / NAME).stat().st_ino
        start(file, TOKEN)
        assert (file.parent / "data" / NAME).stat().st_ino == before
        (file.parent / "d/a.yaml").write_text(PORT + "# more\n")
        start(file, TOKEN)
        assert (file.parent / "data" / NAME).stat().st_ino != before


class TestAnInvalidFile:
    @pytest.mark.parametrize(
        "text", [VALID + "jurnal: 1\n", "a: [\n", "", VALID.replace("d/*", "e/*"), "data_dir: [x]\n", None]
    )
    def test_starts_the_last_valid_one(self, text: str | None, file: Path) -> None:
        environ = {**TOKEN, "STATE_DIRECTORY": str(file.parent / "state")}
        loaded, refused = start(file, environ)
        assert refused is None
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        assert running(start(file, environ)) == [str(file.parent / "d/tty"), loaded.digest]

    def test_that_is_included_does_so_too(self, file: Path) -> None:
        start(file, TOKEN)
        (file.parent / "d/a.yaml").write_text("serial: {a: {port: 3}}\n")
        (file.parent / "d/b.yaml").write_text("nonsense: 1\n")
        assert running(start(file, TOKEN))[0] == str(file.parent / "d/tty")

    def test_follows_references_and_overrides_of_today(self, file: Path) -> None:
        start(file, TOKEN)
        file.write_text("data_dir: data\nnonsense: 1\n")
        loaded, _ = start(file, {"TOKEN": "battery", "DS_GATEWAY__LOG__LEVEL": "error"})
        assert loaded.settings.server.token is not None
        assert (loaded.settings.server.token.get(), loaded.settings.log.level) == ("battery", "error")

    @pytest.mark.parametrize(
        "environ", [{"DS_GATEWAY__DATA_DIR": "data"}, {"STATE_DIRECTORY": "{folder}/data:/other"}]
    )
    def test_whose_folder_only_the_environment_tells(self, environ: dict[str, str], file: Path) -> None:
        start(file, TOKEN)
        file.write_text("a: [\n")
        given = {key: value.replace("{folder}", str(file.parent)) for key, value in environ.items()}
        assert running(start(file, TOKEN | given))[0] == str(file.parent / "d/tty")

    def test_in_the_default_folder(self, file: Path) -> None:
        environ = {**TOKEN, "HOME": str(file.parent)}
        (file.parent / ".local/state/ds-gateway").mkdir(parents=True)
        file.write_text(VALID.replace("data_dir: data\n", ""))
        start(file, environ)
        file.write_text("a: [\n")
        assert running(start(file, environ))[0] == str(file.parent / "d/tty")


class TestNothingToRun:
    def told(self, file: Path, environ: Mapping[str, str]) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            start(file, environ)
        return [str(problem).replace(f"{file.parent}/", "") for problem in caught.value.problems]

    def test_before_the_first_start(self, file: Path) -> None:
        file.write_text(VALID + "jurnal: 1\n")
        assert self.told(file, TOKEN) == [
            "g.yaml:5: jurnal: unknown key; did you mean journal?",
            "data/last-valid-config.json: there is no last valid configuration of g.yaml to run",
        ]

    def test_another_files_copy_does_not_count(self, file: Path) -> None:
        start(file, TOKEN)
        other = file.with_name("h.yaml")
        other.write_text(VALID + "jurnal: 1\n")
        assert self.told(other, TOKEN)[-1].endswith("there is no last valid configuration of h.yaml to run")

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b"{}", b'{"file": "FILE"}', b"\xff", b'{"file": "FILE", "texts": 1}']
    )
    def test_a_damaged_copy_does_not_count(self, content: bytes, file: Path) -> None:
        start(file, TOKEN)
        (file.parent / "data" / NAME).write_bytes(content.replace(b"FILE", str(file).encode()))
        file.write_text(VALID + "jurnal: 1\n")
        assert self.told(file, TOKEN)[-1].endswith("there is no last valid configuration of g.yaml to run")

    def test_what_is_wrong_around_the_copy_is_told(self, file: Path) -> None:
        start(file, TOKEN)
        told = self.told(file, {})
        assert told[0].startswith("g.yaml:2: server.token: the environment variable TOKEN is not set: ")
        assert told[1].startswith("data/last-valid-config.json: the last valid configuration, of 20")
        assert (
            "is invalid now, too, by what is around it (credentials, variables, certificates): g.yaml:2: "
            "server.token: the environment variable TOKEN is not set"
        ) in told[1]


class TestWhoIsAService:
    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({}, False),
            ({"NOTIFY_SOCKET": "/run/notify"}, True),
            ({"NOTIFY_SOCKET": ""}, False),
            ({"INVOCATION_ID": "a"}, True),
            ({"INVOCATION_ID": "a", "SYSTEMD_EXEC_PID": "7"}, True),
            ({"INVOCATION_ID": "a", "SYSTEMD_EXEC_PID": "8"}, False),
        ],
    )
    def test_is_told_by_systemd(self, environ: dict[str, str], expected: object) -> None:
        assert last_valid.is_service(environ, 7) is expected
