"""docs/log-events.md names every event that the code logs, with its levels and values, and no other."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "log-events.md"
LEVELS: Final = ("debug", "info", "warning", "error")
VARIABLE: Final = frozenset({"embedded", "serial", "clock"})
"""Layers that have names of events in variables."""
NAME: Final = re.compile(r"[a-z]+(\.[a-z_]+)+")


@dataclass
class Event:
    """What the code says, or the page."""

    levels: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)


def texts(node: ast.AST, but: Collection[ast.AST] = ()) -> Iterator[str]:
    """Every text in an expression, but for these."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each not in but:
            yield each.value


def logged() -> dict[str, Event]:
    """The events of the source. Of a name or level that a variable holds, those in its module are all possible."""
    found: dict[str, Event] = {}
    for file in sorted((ROOT / "src" / "ds_gateway").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event"
        ]
        for call in calls:
            _, level, name = call.args
            values = {keyword.arg or "" for keyword in call.keywords} - {"exc"}
            for each in names_of(name, tree, {call.args[2] for call in calls}):
                event = found.setdefault(each, Event())
                event.levels |= set(texts(level)) & set(LEVELS)
                event.values |= values
    return found


def names_of(name: ast.expr, tree: ast.Module, plain: Collection[ast.AST]) -> list[str]:
    """What an event may be called; ``plain``: the names of all events of the module."""
    match name:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr():
            return ["uplink.stream.halted", "uplink.stream.parked"]  # f"uplink.stream.{state}"
        case _:
            return [text for text in texts(tree, plain) if NAME.fullmatch(text) and text.split(".")[0] in VARIABLE]


def documented(page: str) -> dict[str, Event]:
    """The rows of the page's tables."""
    found: dict[str, Event] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4 and NAME.fullmatch(cells[0].strip("`")):
            assert cells[0].strip("`") not in found, f"twice: {cells[0]}"
            found[cells[0].strip("`")] = Event(set(cells[1].split(", ")), set(re.findall(r"`([^`]+)`", cells[2])))
            assert len(cells[3]) > 10, f"says nothing: {line}"
    return found


@pytest.fixture(scope="module")
def events() -> dict[str, Event]:
    return logged()


@pytest.fixture(scope="module")
def page() -> dict[str, Event]:
    return documented(PAGE.read_text(encoding="utf-8"))


def test_every_event_is_on_the_page_and_no_other(events: dict[str, Event], page: dict[str, Event]) -> None:
    assert len(events) > 60
    assert page.keys() == events.keys()


def test_with_its_levels_and_values(events: dict[str, Event], page: dict[str, Event]) -> None:
    wrong = {
        name: event
        for name, event in events.items()
        if event.values != page[name].values or not (event.levels or page[name].levels) <= page[name].levels
    }
    assert wrong == {}


def test_their_names_are_of_their_layers(events: dict[str, Event]) -> None:
    areas = {name.partition(".")[0] for name in events}
    assert areas == {
        *("certificate", "clock", "control", "downlink", "embedded", "gateway", "health", "journal", "mqtt"),
        *("page", "quarantine", "serial", "uplink"),
    }
