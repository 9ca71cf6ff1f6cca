"""Whether the clock is synchronised, and when it was set, as records and ``status`` have it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import orjson
import pytest

from ds_gateway import clock
from ds_gateway.assembly import downlink_options
from ds_gateway.commands import Receipt
from ds_gateway.downlink.receipts import record
from harness.configuration import MINIMAL, load_text
from harness.wall_clock import SECOND, TRUE_NS, YEAR, Clocks

if TYPE_CHECKING:
    from pathlib import Path


class TestStamp:
    def test_a_synchronised_clock_is_not_mentioned(self) -> None:
        state, said = Clocks(is_synchronised=True).timekeeper().stamp()
        assert state.is_synchronised
        assert said == b""

    def test_otherwise_the_boot_and_its_clock_are(self) -> None:
        clocks = Clocks()
        keeper = clocks.timekeeper("0123abcd-4567-89ab-cdef-0123456789ab")
        clocks.boot_ns = 83 * SECOND + 412_907_999
        state, said = keeper.stamp()
        assert not state.is_synchronised
        assert said == b',"clock":"unsynced","boot":"0123abcd","mono":83.412907'

    def test_the_machine_is_not_asked_for_each_record(self) -> None:
        clocks = Clocks()
        keeper = clocks.timekeeper()
        clocks.is_synchronised = True
        assert keeper.stamp()[1] != b""
        keeper.look()
        assert keeper.stamp()[1] == b""

    def test_trusted_it_is_never_mentioned(self) -> None:
        keeper = Clocks().timekeeper(trusted=True)
        keeper.look()
        assert keeper.stamp()[1] == b""


class TestLook:
    def test_time_that_passes_is_no_change(self) -> None:
        clocks = Clocks(off_ns=-10 * YEAR)
        keeper = clocks.timekeeper()
        before = keeper.state
        clocks.boot_ns += YEAR
        keeper.look()
        assert keeper.state is before
        assert keeper.summary()["steps"] == 0

    @pytest.mark.parametrize("is_synchronised", [False, True])
    @pytest.mark.parametrize("step_ns", [10 * YEAR, -10 * YEAR, SECOND // 2, -SECOND // 2])
    def test_a_step_is_noticed_with_its_size(self, step_ns: int, is_synchronised: bool) -> None:  # noqa: FBT001
        clocks = Clocks(is_synchronised=is_synchronised)
        keeper = clocks.timekeeper()
        clocks.boot_ns = 60 * SECOND
        clocks.off_ns = step_ns
        keeper.look()
        assert keeper.state.base_ns == TRUE_NS + step_ns
        assert keeper.state.since_ns == 60 * SECOND
        assert keeper.state.is_synchronised is is_synchronised
        summary = keeper.summary()
        assert summary["steps"] == 1
        assert summary["last_step"]["seconds"] == step_ns / SECOND
        keeper.look()
        assert keeper.summary() == summary

    def test_small_steps_add_up(self) -> None:
        clocks = Clocks(is_synchronised=True)
        keeper = clocks.timekeeper()
        for _ in range(4):
            clocks.off_ns += SECOND // 8 - 1
            keeper.look()
        assert keeper.summary()["steps"] == 0
        clocks.off_ns += SECOND // 8
        keeper.look()
        assert keeper.summary()["last_step"]["seconds"] == pytest.approx(0.625)

    def test_since_when_it_is_synchronised_is_told_by_the_clock_as_it_is_now(self) -> None:
        clocks = Clocks(off_ns=-10 * YEAR)
        keeper = clocks.timekeeper()
        assert keeper.summary()["since"].startswith("2016")
        clocks.boot_ns, clocks.off_ns, clocks.is_synchronised = 90 * SECOND, 0, True
        keeper.look()
        clocks.boot_ns += 1000 * SECOND
        assert keeper.summary() == {
            "synchronised": True,
            "trusted": False,
            "since": "2026-09-21T14:14:50.000000Z",
            "boot": "11111111",
            "steps": 1,
            "last_step": {"time": "2026-09-21T14:14:50.000000Z", "seconds": 10 * YEAR / SECOND},
        }

    def test_each_change_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        clocks = Clocks(off_ns=-10 * YEAR)
        keeper = clocks.timekeeper()
        with caplog.at_level(logging.DEBUG, "ds_gateway.clock"):
            for clocks.is_synchronised, clocks.off_ns in ((True, 0), (True, 0), (True, 5 * SECOND), (False, 0)):
                keeper.look()
        assert [record.getMessage().split()[0] for record in caplog.records] == [
            "clock.stepped",
            "clock.synchronised",
            "clock.stepped",
            "clock.stepped",
            "clock.unsynchronised",
        ]

    def test_its_thread_looks_and_tells(self) -> None:
        clocks = Clocks()
        keeper = clocks.timekeeper()
        told = threading.Event()
        keeper.start(told.set)
        clocks.is_synchronised = True
        assert told.wait(10)
        keeper.stop()
        assert keeper.state.is_synchronised


class TestTheMachine:
    def test_its_two_clocks_are_read_together(self) -> None:
        bases = [each.wall_ns - each.boot_ns for each in (clock.instant() for _ in range(100))]
        assert max(bases) - min(bases) < SECOND // 2

    def test_which_boot_it_is(self, tmp_path: Path) -> None:
        assert clock.boot_id() == clock.boot_id()
        assert clock.boot_id(tmp_path / "away") != clock.boot_id(tmp_path / "away")


class TestTrust:
    @pytest.mark.parametrize(
        ("gateway", "downlink", "for_commands"),
        [
            ("auto", "synchronised", False),
            ("auto", "trusted", True),
            ("trusted", "synchronised", True),
        ],
    )
    def test_the_gateway_s_is_for_commands_too(
        self,
        gateway: str,
        downlink: str,
        for_commands: bool,  # noqa: FBT001
        tmp_path: Path,
    ) -> None:
        text = (
            MINIMAL.replace("id: line-7", f"id: line-7, clock: {gateway}") + f"downlink: {{clock: {downlink}}}\n"
        )
        settings = load_text(tmp_path, text).settings
        assert downlink_options(settings, "r", dry_run=False).trusts_clock is for_commands

    def test_by_default_the_machine_is_asked(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, MINIMAL).settings.gateway.clock == "auto"


def test_a_receipt_says_it_like_any_record() -> None:
    receipt = Receipt("c1", 1, "d", "expired", is_final=True)
    made = record(receipt, stream="r", gateway="g", time_ns=0, stamp=Clocks().timekeeper().stamp())
    assert orjson.loads(b"{" + made.tail)["clock"] == "unsynced"
    assert made.clock is not None
