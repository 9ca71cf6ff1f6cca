"""Every command and every option stands in the documentation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

from ds_gateway import cli
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMON = {"--config", "--json", "--help"}


def commands() -> Iterator[tuple[str, Any]]:
    """Each command by the words that it is called with."""
    for name in get_command(cli.app).commands:  # type: ignore[attr-defined]
        command = cli._load(name)
        for sub, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {sub}".strip(), each


@pytest.fixture(scope="module")
def pages() -> list[str]:
    return [path.read_text() for path in (REPOSITORY / "docs").glob("*.md")]


@pytest.mark.parametrize(
    ("words", "command"), list(commands()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_the_documentation_has(words: str, command: Any, pages: list[str]) -> None:
    about = [page for page in pages if re.search(rf"{words}\b", page)]
    assert any(re.search(rf"ds-gateway {words}\b", page) for page in about), f"nothing tells of ds-gateway {words}"
    options = {option for each in command.params for option in each.opts if option.startswith("--")} - COMMON
    missing = [option for option in options if not any(re.search(rf"{option}\b", page) for page in about)]
    assert not missing, f"nothing tells of {missing} of ds-gateway {words}"
