"""The command line inside this process: faster than a new one, and as it would end."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ds_gateway import cli

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: object
    stdout: str
    stderr: str


class Command:
    """Runs ``ds-gateway`` with arguments; variables are set for the rest of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY"):
            monkeypatch.delenv(name, raising=False)

    def __call__(self, *arguments: object, environ: Mapping[str, str] | None = None) -> Ended:
        """Run it to its end."""
        for name, value in (environ or {}).items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setattr(sys, "argv", ["ds-gateway", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        stdout, stderr = self._capsys.readouterr()
        return Ended(ended.value.code or 0, stdout, stderr)
