"""Every command line on the pages is one that the programs understand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.cli import reference
from harness.pages import CommandLine, command_lines, pages
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = reference.commands()
LINES = [line for page in pages() for line in command_lines(page)]


def called(words: Sequence[str]) -> tuple[str, Any, list[str]]:
    """The words that name the command, the command, and its arguments."""
    path, rest = words[0], list(words[1:])
    while rest and f"{path} {rest[0]}" in COMMANDS:
        path = f"{path} {rest.pop(0)}"
    return path, COMMANDS[path], rest


def mistake(line: CommandLine) -> str:
    """What is wrong with it; empty if nothing is."""
    # A synopsis has brackets and bars, and placeholders with quotes in them.
    words = line.words if line.is_example else re.sub(r"[\[\]|'\"]", " ", line.text).split()
    path, command, rest = called(words)
    if hasattr(command, "commands") and rest and re.fullmatch(r"[a-z][\w-]*", rest[0]):
        return f"{path} has no command {rest[0]}"
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
    given = rest[: rest.index("--")] if "--" in rest else rest
    for word in given:
        name = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][\w-]*", name) and name not in known:
            return f"{path} has no option {name}"
    if line.is_example and not hasattr(command, "commands"):
        try:
            command.make_context(path, rest)
        except Exception as error:  # noqa: BLE001 - typer's own copy of click has the classes
            told = error.format_message() if hasattr(error, "format_message") else str(error)
            # Files are made by what the page tells before.
            return "" if "does not exist" in told else told
    return ""


def test_every_one_is_understood() -> None:
    mistakes = [f"{line.place}: {line.text}: {told}" for line in LINES if (told := mistake(line))]
    assert not mistakes, "\n".join(mistakes)


def test_they_were_found() -> None:
    assert len(LINES) > 100
    assert {line.place.partition(":")[0].partition(",")[0] for line in LINES} > {"README.md", "docs/tutorial.md"}
    assert sum(line.is_example for line in LINES) > 30


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ds-gateway statsu", "ds-gateway has no command statsu"),
        ("ds-gateway status --jsno", "ds-gateway status has no option --jsno"),
        ("ds-gateway quarantine shew 3", "ds-gateway quarantine has no command shew"),
        ("ds-gateway resolve telemetry/a telemetry/b", "unexpected extra argument"),
        ("ds-gateway capture scale", "Missing option '--output'"),
        ("ds-gateway check --live --seconds soon", "should be a valid number"),
        ("ds-gateway send scale -- --json-like", ""),
        ("durable-streams create http://h/s --json --ttl=1h", ""),
    ],
)
def test_a_wrong_one_would_be_noticed(text: str, told: str) -> None:
    found = mistake(CommandLine("here", text, is_example=True))
    assert told in found
    assert bool(found) == bool(told)


def test_the_page_of_options_is_up_to_date() -> None:
    page = (REPOSITORY / "docs/options.md").read_text(encoding="utf-8")
    assert page == reference.markdown(), "run: python -m ds_gateway.cli.reference > docs/options.md"
