from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ds_gateway.demo.audit import DeviceAudit, audit
from ds_gateway.demo.report import Commanded, Done, Report
from ds_gateway.demo.table import PlainShow, Row, View, render, result, summary


def report(*devices: DeviceAudit, problems: tuple[str, ...] = (), broker: bool = True) -> Report:
    done = Done(kills=2, server_outage_seconds=10.04567, broker_restarts=1)
    return Report(seconds=60, broker=broker, devices=devices, done=done, problems=problems)


TARED = Commanded("tare-1", "acknowledged", is_final=True, told="acknowledged: T OK 1.000 kg")
EXACT = audit({"oven": 3, "scale": 2}, {"oven": [1, 2, 3], "scale": [1, 2]})


def printed(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestOk:
    def test_when_everything_is_exact(self) -> None:
        assert report(*EXACT).ok

    def test_not_when_nothing_was_sent(self) -> None:
        assert not report().ok
        assert not report(*audit({"oven": 0}, {})).ok

    @pytest.mark.parametrize("found", [[1, 2], [1, 2, 3, 3], [2, 1, 3], [1, 2, 3, 4]])
    def test_not_with_one_wrong_reading(self, found: list[int]) -> None:
        assert not report(*EXACT, *audit({"boiler": 3}, {"boiler": found})).ok

    def test_not_with_a_problem(self) -> None:
        assert not report(*EXACT, problems=("the gateway ended with 1",)).ok


class TestCommands:
    def test_that_were_all_done_once_are_ok(self) -> None:
        tared = replace(report(*EXACT), commands=(TARED, replace(TARED, name="tare-2")), executed=2)
        assert tared.ok
        assert (tared.document()["commands"], tared.document()["commands_done"]) == (2, 2)

    @pytest.mark.parametrize(
        ("command", "executed", "problem"),
        [
            (Commanded("tare-1", told="away"), 0, "tare-1 has no final receipt: away"),
            (Commanded("tare-1", "accepted", told="accepted"), 0, "tare-1 has no final receipt: accepted"),
            (Commanded("tare-1", "expired", is_final=True, told="old"), 0, "tare-1 was not done: old"),
            (TARED, 2, "the scale was tared 2 times by 1 commands"),
            (TARED, 0, "1 commands are acknowledged, and the scale knows of 0"),
        ],
    )
    def test_that_were_not_or_twice_are_told(self, command: Commanded, executed: int, problem: str) -> None:
        tared = replace(report(*EXACT), commands=(command,), executed=executed)
        assert not tared.ok
        assert tared.document()["problems"] == [problem]
        assert tared.document()["commands_done"] == (command is TARED)
        assert problem in printed(result(tared))


class TestDocument:
    def test_has_the_sums_the_faults_and_the_devices(self) -> None:
        assert report(*audit({"oven": 4, "scale": 2}, {"oven": [1, 3, 2, 2], "scale": [1, 2]})).document() == {
            "ok": False,
            "seconds": 60,
            "sent": 6,
            "in_stream": 6,
            "lost": 1,
            "duplicated": 1,
            "out_of_order": 1,
            "kills": 2,
            "server_outage_seconds": 10.046,
            "broker_restarts": 1,
            "broker": True,
            "devices": {
                "oven": {"sent": 4, "in_stream": 4, "lost": 1, "duplicated": 1, "out_of_order": 1},
                "scale": {"sent": 2, "in_stream": 2, "lost": 0, "duplicated": 0, "out_of_order": 0},
            },
            "commands": 0,
            "commands_done": 0,
            "problems": [],
        }


class TestResult:
    def test_says_what_was_done_and_that_it_is_exact(self) -> None:
        text = printed(result(replace(report(*EXACT), commands=(TARED,), executed=1)))
        assert "command tare-1 to the scale: acknowledged: T OK 1.000 kg" in text
        assert "kill -9 of the gateway: twice" in text
        assert "stream server killed and away: 10.0 s" in text
        assert "broker restarted: once" in text
        assert "Exactly once, in order." in text

    def test_names_the_readings_that_are_wrong(self) -> None:
        text = printed(result(report(*audit({"oven": 4}, {"oven": [1, 3, 2, 2]}), problems=("a problem",))))
        for words in ("oven: lost: 4", "oven: duplicated: 2", "oven: out of order: 2", "a problem", "NOT EXACT."):
            assert words in text

    def test_says_that_there_was_no_broker_and_that_nothing_was_done(self) -> None:
        text = printed(result(replace(report(*EXACT, broker=False), done=Done())))
        assert "there was no mosquitto" in text
        assert "nothing was done to it" in text


VIEW = View(
    rows=(
        Row("oven", {"seq": 7, "temp": 21.5}, sent=8, accepted=7, in_journal=2, in_stream=5),
        Row("scale", None, sent=3, accepted=0, in_journal=0, in_stream=0),
    ),
    elapsed_seconds=20.0,
    seconds=60,
    doing="the stream server is away",
)


class TestView:
    def test_the_table_has_a_row_for_each_device_and_what_is_being_done(self) -> None:
        text = printed(render(VIEW))
        assert "seq 7, temp 21.5" in text
        assert "40 s left" in text
        assert "the stream server is away" in text

    def test_the_summary_adds_the_devices_up(self) -> None:
        assert summary(VIEW) == " 20.0 s: sent 11, accepted 7, in the journal 2, in the stream 5"

    def test_plain_progress_is_a_line_now_and_then(self) -> None:
        output = io.StringIO()
        with PlainShow(output) as show:
            for tenths in range(600):
                show.update(replace(VIEW, elapsed_seconds=tenths / 10))
            show.say("something happened")
        lines = output.getvalue().splitlines()
        assert len(lines) == 13
        assert lines[-1] == "something happened"
