"""The command itself: exit statuses, interruption, and that mistakes never show as tracebacks."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ds_gateway import __version__, cli
from ds_gateway.errors import ConfigError, JournalError, Problem
from harness.processes import console_script

if TYPE_CHECKING:
    from pathlib import Path

    from harness.command import Command
    from harness.processes import Processes


def test_the_version() -> None:
    command: list[str | Path] = [console_script("ds-gateway"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"ds-gateway {__version__}\n")


def test_help_names_the_commands(processes: Processes) -> None:
    done = processes.run([console_script("ds-gateway"), "--help"])
    assert done.returncode == 0
    assert {"run", "check", "status"} <= set(done.stdout.split())


@pytest.mark.parametrize("arguments", [("nonsense",), ("check", "--nonsense"), ("status", "extra")])
def test_a_wrong_command_line(processes: Processes, arguments: tuple[str, ...]) -> None:
    done = processes.run([console_script("ds-gateway"), *arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (
            ConfigError([Problem("f", 3, "a.b", "wrong"), Problem("f", None, "", "bad")]),
            2,
            "f:3: a.b: wrong\nf: bad\n",
        ),
        (JournalError("the disk is full"), 1, "ds-gateway: the disk is full\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends(
    raised: BaseException, code: int, told: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    cli.app.command("fail")(fail)
    ended = command("fail")
    assert (ended.code, ended.stderr) == (code, told)
