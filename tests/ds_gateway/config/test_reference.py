"""The page of settings is generated; what is committed is what the models say."""

from __future__ import annotations

from pathlib import Path

from ds_gateway.config.reference import markdown

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), (
        "run: python -m ds_gateway.config.reference > docs/configuration.md"
    )


def test_every_key_is_described() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.rstrip(" |").endswith("|")] == []


def test_secrets_and_sizes_are_named_as_such() -> None:
    page = markdown()
    assert "| `password` | secret |" in page
    assert "| `max_bytes` | size |" in page
    assert "| `max_delay_seconds` | duration |" in page
