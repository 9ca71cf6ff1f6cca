"""What an operator reads about typical mistakes: each file in ``mistakes`` has its messages beside it.

A new one: write NN-name.yaml, run this file as a program, and read what it wrote into NN-name.txt. A file there is
judged by nothing else: a message that does not name the place, the value and the way out is a defect.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ds_gateway.cli.configuration import check_mappings
from ds_gateway.config import loader
from ds_gateway.config.places import Machine
from ds_gateway.errors import ConfigError

FOLDER = Path(__file__).with_name("mistakes")
FILES = sorted(FOLDER.glob("*.yaml"))


def messages(file: Path) -> str:
    """One line a mistake, with the file as it is called in its folder."""
    try:
        loader.load(
            file, {"HOME": "/home/op"}, more_checks=(check_mappings,), machine=Machine("box-1", is_root=False)
        )
    except ConfigError as error:
        return (
            "".join(f"{problem}\n" for problem in error.problems)
            .replace(f"{FOLDER}/", "")
            .replace(str(FOLDER), ".")
        )
    return ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_mistake_is_told_as_it_is_written_beside_it(file: Path) -> None:
    assert messages(file) == file.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_message_names_file_and_line(file: Path) -> None:
    told = file.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    assert told
    assert [line for line in told if re.match(rf"{re.escape(file.name)}:\d+: \S", line) is None] == []


def test_there_are_thirty_at_least_and_each_has_its_messages() -> None:
    assert len(FILES) >= 30
    assert {file.stem for file in FILES} == {file.stem for file in FOLDER.glob("*.txt")}


if __name__ == "__main__":
    for each in FILES:
        each.with_suffix(".txt").write_text(messages(each), encoding="utf-8")
        sys.stdout.write(messages(each))
