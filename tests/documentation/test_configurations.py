"""Every configuration on the pages is right: whole ones as they stand, parts within a small whole one."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest
import yaml

from ds_gateway.config.models import Settings
from harness.command import Command
from harness.pages import Block, blocks, pages

if TYPE_CHECKING:
    from pathlib import Path

TOP = frozenset(Settings.model_fields)
PARTS = {
    "gateway": "gateway: {id: line-7}\n",
    "server": "server: {url: embedded}\n",
}
SOURCE = "serial: {another: {port: /dev/ttyUSB9}}\n"
DEVICE = "serial:\n  device:\n    port: /dev/ttyUSB9\n"


def keys_of(text: str) -> list[str]:
    """The keys at the top, with repetitions."""
    return re.findall(r"^(\w+):", text, re.MULTILINE)


def variants(block: Block) -> list[str]:
    """The text, or each of its parts where a page shows several values of one key below one another."""
    text = textwrap.dedent(block.text)
    keys = keys_of(text)
    if len(keys) > 1 and len(set(keys)) == 1:
        return [part for part in re.split(rf"^(?={keys[0]}:)", text, flags=re.MULTILINE) if part.strip()]
    return [text]


def whole(text: str) -> str:
    """A configuration with this in it."""
    keys = set(keys_of(text))
    if keys and not keys <= TOP:
        return PARTS["gateway"] + PARTS["server"] + DEVICE + textwrap.indent(text, "    ")
    missing = [part for key, part in PARTS.items() if key not in keys]
    return "".join(missing) + text + ("" if keys & {"mqtt", "serial"} else SOURCE)


def is_checked(block: Block) -> bool:
    """All but what needs files that are somewhere else on the page, or is another program's."""
    others = ("include:", "# yaml-language-server", "# prometheus.yml")
    return block.language == "yaml" and not block.text.startswith(others)


FOUND = [
    (block.place, text)
    for page in pages()
    for block in blocks(page)
    if is_checked(block)
    for text in variants(block)
]


@pytest.mark.parametrize(("place", "text"), FOUND, ids=[f"{place}-{n}" for n, (place, _) in enumerate(FOUND)])
def test_it_is_right(
    place: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What it names is there: credentials, and files of the machine, which are in the test's folder here.
    for name in re.findall(r"\$\{credential:(\w+)\}", text):
        (tmp_path / name).write_text("secret", encoding="utf-8")
    for name in re.findall(r"(/(?:etc|run)/[\w./-]+\.?\w*)", text):
        (tmp_path / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name.lstrip("/")).write_text("", encoding="utf-8")
        text = text.replace(name, str(tmp_path / name.lstrip("/")))
    file = tmp_path / "gateway.yaml"
    file.write_text(whole(text), encoding="utf-8")
    command = Command(monkeypatch, capsys)
    ended = command("check", "--config", file, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert (ended.code, ended.stderr) == (0, ""), f"{place}:\n{whole(text)}"


def test_they_were_found() -> None:
    assert len(FOUND) > 35
    assert sum({"gateway", "server"} <= set(keys_of(text)) for _, text in FOUND) >= 5


@pytest.mark.parametrize("text", ["framing: {lin: {}}\n", "batch: {max_bites: 1}\n", "mqtt: {a: {url: x}}\n"])
def test_a_wrong_one_would_be_noticed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gateway.yaml").write_text(whole(text), encoding="utf-8")
    assert Command(monkeypatch, capsys)("check", "--config", tmp_path / "gateway.yaml").code == 2


def test_every_other_block_of_yaml_is_yaml() -> None:
    for page in pages():
        for block in blocks(page):
            if block.language == "yaml" and not is_checked(block):
                yaml.safe_load(block.text)
