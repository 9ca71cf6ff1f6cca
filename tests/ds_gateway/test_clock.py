"""Whether the machine's clock can be trusted, as the kernel or systemd says."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

import pytest

from ds_gateway import clock

if TYPE_CHECKING:
    from pathlib import Path


class Timex(ctypes.Structure):
    """The beginning of ``struct timex``, from its manual page."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
    )


class TestTheKernel:
    @pytest.mark.parametrize("status", [0, 0x40, 0x2001, 0x7FFFFFFF])
    def test_the_status_is_found_in_its_structure(self, status: int) -> None:
        assert clock.status_of(bytes(Timex(status=status, offset=-1, esterror=-1, constant=-1))) == status

    @pytest.mark.parametrize(
        ("state", "status", "is_good"),
        [(0, 0x2001, True), (1, 0, True), (5, 0, False), (5, 0x40, False), (0, 0x40, False)],
    )
    def test_what_its_answer_means(
        self,
        state: int,
        status: int,
        is_good: bool,  # noqa: FBT001 - a parameter of the table
    ) -> None:
        assert clock.judged(state, status) is is_good

    def test_it_answers_here(self) -> None:
        assert clock.kernel_says() in {True, False}
        assert sys.platform == "linux"


class TestTheTimeService:
    def test_its_mark_is_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock, "kernel_says", lambda: False)
        mark = tmp_path / "synchronized"
        assert not clock.is_synchronised(mark=mark)
        mark.touch()
        assert clock.is_synchronised(mark=mark)
