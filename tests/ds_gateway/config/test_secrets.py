"""Which secrets a configuration names: each is found on its own, whatever is wrong beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.config import last_valid, secrets
from ds_gateway.config.places import Machine
from harness.configuration import MINIMAL, load_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.config.secrets import Found

MACHINE = Machine(host_name="line-7", is_root=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pw", "token", "credentials/stream_token"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"content-of-{name.rpartition('/')[2]}\n")
    return tmp_path


def find(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Found:
    file = folder / "g.yaml"
    file.write_text(text)
    return secrets.find(file, environ or {}, credentials=[folder / "credentials"], machine=MACHINE)


def test_of_a_file_that_is_right_are_all_there(folder: Path) -> None:
    found = find(
        folder,
        "status: {token: literal-token}\n"
        "server: {url: 'http://h/v1', token: '${credential:stream_token}', headers: {X-Api: header-value},"
        " proxy: 'http://user:proxy-password@h:1'}\n"
        "mqtt: {hall: {url: 'mqtt://h', password: 'a ${file:pw} ${env:PW}', devices: [{topic: 'a'}]}}\n",
        {"PW": "variable"},
    )
    assert found.missing == []
    assert found.values == {
        "literal-token",
        "content-of-stream_token",
        "header-value",
        "user:proxy-password",
        "proxy-password",
        "a content-of-pw variable",
        "content-of-pw",
        "variable",
    }


@pytest.mark.parametrize("wrong", ["${credential:nope}", "${file:nope}", "${env:NOPE}", "${nope}", "${nope:}"])
def test_one_that_cannot_be_read_hides_no_other_and_is_named(folder: Path, wrong: str) -> None:
    found = find(
        folder,
        f"server: {{token: 'part-of-a-secret${{file:token}}{wrong}end-of-the-secret'}}\n"
        "mqtt: {a: {password: '${file:pw}'}, b: {password: literal}}\n"
        "what: {there: is-not, api_key: in-no-schema}\n",
    )
    assert [told.partition(wrong)[0] for told in found.missing] == ["server.token: "]
    assert found.values == {
        "part-of-a-secret",
        "content-of-token",
        "end-of-the-secret",
        "content-of-pw",
        "literal",
        "in-no-schema",
    }


def test_what_is_no_secret_is_not_taken_for_one(folder: Path) -> None:
    found = find(
        folder,
        "gateway: {id: '${env:HALL}'}\nserver: {url: 'http://${env:NOPE}:1/v1'}\n"
        "mqtt: {token-ring: {url: 'mqtt://h', devices: [{topic: 'password', fields: {token: {from: token}}}]}}\n",
        {"HALL": "hall-7"},
    )
    assert (found.values, found.missing) == (set(), [])


def test_an_override_counts(folder: Path) -> None:
    found = find(folder, "server: {token: in-the-file}\n", {"DS_GATEWAY__SERVER__TOKEN": "in-the-environment"})
    assert found.values == {"in-the-environment"}


@pytest.mark.parametrize(
    "line",
    [
        "password: the-secret: [",
        "  - {api_token: 'the-secret', x: [",
        'x-api-key: "the-secret" ]',
        "password: the-secret # is [",
        "a: [ ${file:the_secret}",
        "url: mqtt://u:the-secret@h }",
    ],
)
def test_of_a_file_that_is_no_yaml_its_lines_are_looked_at(folder: Path, line: str) -> None:
    (folder / "the_secret").write_text("the-secret\n")
    found = find(folder, f"{line}\n\t}}\n")
    assert "the-secret" in found.values
    assert [told.rpartition(":")[2] for told in found.missing] == [" cannot be read as a whole"]
    assert "the-secret" not in "".join(found.missing)


def test_of_a_file_that_is_no_yaml_those_of_the_last_valid_one_count(folder: Path) -> None:
    environ = {"STATE_DIRECTORY": str(folder / "data")}
    (folder / "data").mkdir()
    text = MINIMAL.replace("/var/lib/example", str(folder / "data")).replace(
        'v1/stream"}', 'v1/stream", token: "${file:token}", headers: {X: kept-header}}'
    )
    last_valid.keep(load_text(folder, text, environ), environ)
    file = next(folder.glob("*.yaml"))
    file.write_text("no: [yaml\n")
    found = secrets.find(file, environ, machine=MACHINE)
    assert {"content-of-token", "kept-header"} <= found.values


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = secrets.find(tmp_path / "nope.yaml", {}, machine=MACHINE)
    assert (found.values, found.missing) == (set(), [f"{tmp_path}/nope.yaml: cannot be read as a whole"])
