"""``python -m harness.pictures`` in tests/: the pictures of docs/images, taken from a run of the demo.

The page is photographed while the stream server is away; what the demo printed becomes the picture of a terminal.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from harness.browser import Browser, Tab
from harness.peers import require_mosquitto
from harness.processes import console_script

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
SECONDS: Final = 60
COLUMNS: Final = 100
OUTAGE: Final = "the stream server is killed"
FONTS: Final = re.compile(r"@font-face \{\{.*?\}\}\n", re.DOTALL)
"""Loaded from elsewhere: none of the documentation is."""


def main() -> None:
    """Run the demo, and write the pictures. Raises `AssertionError` if it does not end well."""
    IMAGES.mkdir(exist_ok=True)
    demo = subprocess.Popen(
        [console_script("ds-gateway"), "demo", "--seconds", str(SECONDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": str(COLUMNS), "DS_GATEWAY_MOSQUITTO": str(require_mosquitto())},
    )
    assert demo.stdout is not None, "it was asked for"
    lines, page = [], ""
    with Browser() as browser:
        for line in demo.stdout:
            lines.append(line.rstrip())
            if found := re.search(r"its page: (\S+)", line):
                page = found[1]
            if OUTAGE in line:
                photograph(browser, page)
    assert demo.wait() == 0, "\n".join(lines)
    (IMAGES / "demo.svg").write_text(terminal(lines), encoding="utf-8")


def photograph(browser: Browser, page: str) -> None:
    """The page on a desk and on a phone, once it says that the server is away."""
    waits = "document.body.innerText.includes('waiting')"
    with browser.tab() as tab:
        tab.open(page, width=1100, height=900)
        tab.wait(waits)
        save(tab, "page-desk.png")
        tab.open(page, width=390, height=844, is_dark=True)
        tab.wait(waits)
        save(tab, "page-phone.png")


def save(tab: Tab, name: str) -> None:
    (IMAGES / name).write_bytes(tab.picture())


def terminal(lines: list[str]) -> str:
    """The lines on a terminal, as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for line in lines:
        console.print(Text(line, no_wrap=True, overflow="ellipsis"))
    svg = console.export_svg(
        title="ds-gateway demo",
        theme=MONOKAI,
        code_format=FONTS.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "monospace"),
        unique_id="demo",
    )
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    main()
