"""Mutation checks: a build with one deliberate defect must fail a named test, and pass it without the defect.

Without them nobody knows whether a test can fail. A mutant is a copy of ``src`` with one textual change; the text
must occur exactly once, so that a mutant cannot silently become the original when the source changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SOURCE = REPOSITORY / "src"


@dataclass(frozen=True)
class Change:
    """One replacement in one file below ``src``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Outcome:
    """How tests went. Neither all passed nor all failed: some could not run."""

    passed: bool
    failed: bool
    output: str


def copy_of_source(folder: Path) -> Path:
    """An unchanged copy of ``src``."""
    return shutil.copytree(_SOURCE, folder / "src")


def apply(source: Path, change: Change) -> None:
    """Make the change. Fails unless its text is there exactly once."""
    file = source / change.file
    text = file.read_text()
    count = text.count(change.old)
    assert count == 1, (
        f"{change.file} has this text {count} times, not once; the mutant must follow it:\n{change.old}"
    )
    file.write_text(text.replace(change.old, change.new))


def run_tests(tests: Sequence[str], source: Path, folder: Path) -> Outcome:
    """Run tests, named as on pytest's command line, against a source folder."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder / 'temp'}",
        *tests,
    ]
    run = subprocess.run(
        argv,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    output = run.stdout + run.stderr
    return Outcome(
        passed=run.returncode == 0 and f"{len(tests)} passed" in output,
        failed=run.returncode == 1 and f"{len(tests)} failed" in output,
        output=output,
    )
