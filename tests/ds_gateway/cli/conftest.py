from __future__ import annotations

import pytest

from harness.command import Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``ds-gateway`` inside this process."""
    return Command(monkeypatch, capsys)
