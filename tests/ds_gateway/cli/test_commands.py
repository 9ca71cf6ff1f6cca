from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from ds_gateway.cli.commands import render
from harness.answering import answering

if TYPE_CHECKING:
    from pathlib import Path

    from harness.command import Command

NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
ANSWER: dict[str, Any] = {
    "commands": [
        {
            "command": "x-1",
            "number": 41,
            "device": "hall/plug",
            "state": "waiting",
            "since": "2026-03-01T12:00:07.500000Z",
            "deadline": "2026-03-01T12:01:40Z",
            "reason": "the broker is away",
        },
        {"command": "x-2", "number": 42, "device": "a\x1b[K", "state": "queued", "since": None, "deadline": None},
    ],
    "downlink": {
        "state": "held",
        "reason": "the clock is not synchronised",
        "offset": "1_2",
        "number": 40,
        "stream": "commands/line-7",
        "receipts": "receipts/line-7",
        "up_to_date": False,
        "counts": {"accepted": 42, "failed": 3},
    },
}


def shown(result: dict[str, Any]) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=200, force_terminal=False).print(render(result, NOW))
    return stream.getvalue().splitlines()


class TestTheTable:
    def test_head(self) -> None:
        assert shown(ANSWER)[0] == (
            "commands from commands/line-7: held: the clock is not synchronised; all before number 40 are "
            "finished; not at the end of the stream yet; 2 pending; accepted 42, failed 3"
        )

    def test_rows(self) -> None:
        rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown(ANSWER) if line[0] == "│"]
        assert rows == [
            ["41", "x-1", "hall/plug", "waiting", "2.5 s", "1.5 min", "the broker is away"],
            ["42", "x-2", "a\\x1b[K", "queued", "-", "-", "-"],
        ]

    def test_nothing_pending(self) -> None:
        assert shown({"commands": [], "downlink": {"stream": "commands/a", "state": "live"}}) == [
            "commands from commands/a: live; 0 pending"
        ]

    @pytest.mark.parametrize(
        "result", [{}, {"commands": 3, "downlink": []}, {"commands": [3, {}], "downlink": {"counts": 3}}]
    )
    def test_whatever_is_missing_is_a_hyphen(self, result: dict[str, Any]) -> None:
        assert shown(result)[0].startswith("commands from -: -")


class TestTheCommand:
    def test_prints_a_table(self, command: Command, config: Path) -> None:
        with answering(config.parent / "control.sock", "commands", ANSWER):
            done = command("commands", "--config", config)
        assert (done.code, done.stderr) == (0, "")
        assert "hall/plug" in done.stdout

    def test_prints_json(self, command: Command, config: Path) -> None:
        with answering(config.parent / "control.sock", "commands", ANSWER):
            done = command("commands", "--config", config, "--json")
        assert json.loads(done.stdout) == ANSWER

    def test_says_so_without_a_gateway(self, command: Command, config: Path) -> None:
        done = command("commands", "--config", config)
        assert (done.code, done.stdout) == (1, "")
        assert "no gateway is running on" in done.stderr
