"""What the documentation tells its readers to type: configurations and command lines, with their places."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FENCED: Final = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TYPED: Final = frozenset({"", "sh", "bash", "console", "text"})
"""Languages of blocks with something to type; what is printed may be in them, too."""
_PROMPT: Final = r"(?:\$ |# )?(?:sudo (?:-u \S+ )?)?(?:\w+=\S+ )*(?:\S*/)?"
_COMMAND: Final = re.compile(rf"(?:^|\| |&& |\$\(){_PROMPT}((?:ds-gateway|durable-streams) +[\w@\[-].*)")
_INLINE: Final = re.compile(r"(?<!`)`((?:ds-gateway|durable-streams) [^`\n]+)`")
_TO_ELSEWHERE: Final = re.compile(r" \| [a-z]| && | >{1,2} |;|  +#|\)\s*$")
"""Where what belongs to this command ends: a pipe, the next command, a file, a comment."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    place: str
    language: str
    text: str


@dataclass(frozen=True)
class CommandLine:
    """A command as it stands on a page."""

    place: str
    text: str
    is_example: bool
    """It can be typed like this; otherwise it is a synopsis, or the command is only named."""

    @property
    def words(self) -> list[str]:
        """As a shell divides it. Raises `ValueError` for what it cannot."""
        return shlex.split(self.text)


def pages() -> list[Path]:
    """README and everything in docs/ but the decisions, which tell of the past."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCED.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(f"{page.relative_to(REPOSITORY)}:{line}", found[1], found[2])


def command_lines(page: Path) -> Iterator[CommandLine]:
    """Every call of our programs in a page: in blocks, and within its text."""
    for block in blocks(page):
        if block.language in _TYPED:
            for line in _joined(block.text):
                if found := _COMMAND.search(line):
                    text = _TO_ELSEWHERE.split(found[1])[0].strip()
                    yield CommandLine(block.place, text, is_example=not re.search(r"[\[\]|]|\.\.\.", text))
    for found in _INLINE.finditer(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        yield CommandLine(f"{page.relative_to(REPOSITORY)}, `{found[1]}`", found[1], is_example=False)


def _joined(text: str) -> list[str]:
    """The lines; one that goes on, by a backslash or as a synopsis does, is one line."""
    return re.sub(r"\\\n\s*|\n\s+(?=\[)", " ", text).splitlines()
