from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.health.starts import FILE, Starts, count

if TYPE_CHECKING:
    from pathlib import Path


def test_starts_and_boots_are_counted(tmp_path: Path) -> None:
    counted = [count(tmp_path, boot) for boot in ("a", "a", "b", "a")]
    assert [(each.starts, each.boots) for each in counted] == [(1, 1), (2, 1), (3, 2), (4, 3)]


@pytest.mark.parametrize("content", [b"", b"null", b"{", b'{"boots": "1"}', b'{"boots":-5,"starts":-5,"boot":""}'])
def test_a_damaged_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert count(tmp_path, "a") == Starts(1, 1, "a")
    assert count(tmp_path, "a") == Starts(1, 2, "a")


def test_without_room_for_the_file_it_goes_on(tmp_path: Path) -> None:
    assert count(tmp_path / "absent", "a") == Starts(1, 1, "a")
