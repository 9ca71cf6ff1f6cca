from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.mqtt.marks import Mark, MarkFile, boot_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARK = Mark(session=3, commit=2**40, settled=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mqtt" / "hall.acks.mark"


@pytest.fixture
def marks(path: Path) -> Iterator[MarkFile]:
    opened = MarkFile(path, boot_id())
    yield opened
    opened.close()


class TestAMarkFile:
    def test_says_nothing_at_first(self, marks: MarkFile) -> None:
        assert marks.read() is None

    def test_says_what_was_written_last(self, marks: MarkFile, path: Path) -> None:
        marks.write(Mark(session=1, commit=1, settled=False))
        size = path.stat().st_size
        marks.write(MARK)
        assert path.stat().st_size == size
        assert marks.read() == (MARK, True)

    def test_survives_the_process_that_wrote_it(self, marks: MarkFile, path: Path) -> None:
        marks.write(MARK)
        again = MarkFile(path, boot_id())
        assert again.read() == (MARK, True)
        again.close()

    def test_is_not_believed_on_another_boot(self, marks: MarkFile, path: Path) -> None:
        marks.write(MARK)
        again = MarkFile(path, "00000000-0000-0000-0000-000000000000")
        assert again.read() == (MARK, False)
        again.close()

    def test_says_nothing_when_a_bit_is_flipped(self, marks: MarkFile, path: Path) -> None:
        marks.write(MARK)
        good = path.read_bytes()
        for index in range(len(good)):
            path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
            assert marks.read() is None, index

    def test_says_nothing_when_it_is_cut(self, marks: MarkFile, path: Path) -> None:
        marks.write(MARK)
        good = path.read_bytes()
        for length in range(len(good)):
            path.write_bytes(good[:length])
            assert marks.read() is None, length

    def test_can_be_closed_twice(self, path: Path) -> None:
        marks = MarkFile(path, boot_id())
        marks.close()
        marks.close()


def test_a_boot_has_an_id() -> None:
    assert len(boot_id()) == 36
