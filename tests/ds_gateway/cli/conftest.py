from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.command import Command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``ds-gateway`` inside this process."""
    return Command(monkeypatch, capsys)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file with the gateway's folder, and a secret that whoever asks the gateway need not have."""
    file = tmp_path / "gateway.yaml"
    file.write_text("data_dir: .\nserver: {token: '${credential:not_for_me}'}\n")
    return file
