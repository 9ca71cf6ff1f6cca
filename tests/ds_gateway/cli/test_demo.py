from __future__ import annotations

import json
import os
import re
import signal
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from typer.testing import CliRunner

from ds_gateway.cli import app
from harness.peers import require_mosquitto
from harness.processes import console_script
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import ChildProcess, Processes

# Generous: the devices send for 15 s, the rest is how busy the machine is.
DEADLINE_SECONDS = 110.0


def last_line(child: ChildProcess) -> dict[str, Any]:
    document = json.loads(child.output.splitlines()[-1])
    assert isinstance(document, dict)
    return document


def start(processes: Processes, folder: Path, mosquitto: str, *arguments: str) -> ChildProcess:
    return processes.start(
        [console_script("ds-gateway"), "demo", *arguments],
        name="demo",
        env={"DS_GATEWAY_MOSQUITTO": mosquitto, "TMPDIR": str(folder)},
    )


def below(folder: Path) -> dict[int, str]:
    """Command lines of all processes that work in the folder, by process id."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if str(folder) in command:
                found[int(process.name)] = command
    return found


def shows_a_page(url: str) -> bool:
    try:
        answer = httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == HTTPStatus.OK and "<title>" in answer.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


class TestTheWholeDemo:
    def test_loses_repeats_and_reorders_nothing_whatever_is_done_to_it(
        self, processes: Processes, folder: Path
    ) -> None:
        demo = start(processes, folder, str(require_mosquitto()), "--seconds", "15", "--json")
        page = demo.wait_for_output(r"its page: (http://\S+)")[1]
        wait_until(lambda: shows_a_page(page), what="the page is there, once the gateway is")
        status = demo.wait(timeout_seconds=DEADLINE_SECONDS)
        assert status == 0, demo.output
        document = last_line(demo)
        assert (document["lost"], document["duplicated"], document["out_of_order"]) == (0, 0, 0)
        assert document["ok"] is True
        assert document["problems"] == []
        assert document["in_stream"] == document["sent"] > 0
        assert (document["commands"], document["commands_done"]) == (2, 2)
        assert (document["kills"], document["broker_restarts"], document["broker"]) == (2, 1, True)
        assert document["server_outage_seconds"] >= 15 / 6
        assert document["devices"].keys() == {"boiler", "freezer", "oven", "scale"}
        assert all(device["sent"] > 0 for device in document["devices"].values())
        for name in ("tare-1", "tare-2"):
            assert re.search(rf": {name}: acknowledged: T OK +\d+\.\d+ kg$", demo.output, re.MULTILINE)
        assert below(folder) == {}
        assert list(folder.iterdir()) == []

    @pytest.mark.soak
    def test_goes_without_a_broker_and_says_so(self, processes: Processes, folder: Path) -> None:
        demo = start(processes, folder, "none", "--seconds", "15", "--no-faults", "--json")
        status = demo.wait(timeout_seconds=DEADLINE_SECONDS)
        assert status == 0, demo.output
        document = last_line(demo)
        assert "there is no mosquitto" in demo.output
        assert (document["kills"], document["broker_restarts"], document["broker"]) == (0, 0, False)
        assert document["server_outage_seconds"] == 0
        assert document["devices"].keys() == {"scale"}
        assert document["in_stream"] == document["sent"] > 0
        assert (document["commands"], document["commands_done"]) == (2, 2)
        assert list(folder.iterdir()) == []


class TestTheEndBeforeTheEnd:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
    def test_a_signal_ends_it_and_leaves_nothing_behind(
        self, processes: Processes, folder: Path, number: signal.Signals
    ) -> None:
        demo = start(processes, folder, str(require_mosquitto()), "--seconds", "60")
        demo.wait_for_output("the devices send")
        assert len(below(folder)) >= 3
        demo.send_signal(number)
        assert demo.wait() == 130
        assert below(folder) == {}
        assert list(folder.iterdir()) == []
        assert "Traceback" not in demo.output

    def test_not_even_its_own_kill_leaves_anything_behind(self, processes: Processes, folder: Path) -> None:
        demo = start(processes, folder, str(require_mosquitto()), "--seconds", "60")
        demo.wait_for_output("the devices send")
        demo.send_signal(signal.SIGKILL)
        assert demo.wait() == -signal.SIGKILL
        wait_until(lambda: not below(folder), what="all processes have ended")
        wait_until(lambda: not list(folder.iterdir()), what="the folder has been removed")

    def test_a_part_that_ends_by_itself_is_told_and_takes_the_rest_along(
        self, processes: Processes, folder: Path
    ) -> None:
        demo = start(processes, folder, "none", "--seconds", "60", "--no-faults")
        demo.wait_for_output("the devices send")
        (gateway,) = [pid for pid, command in below(folder).items() if "-m ds_gateway run" in command]
        os.kill(gateway, signal.SIGKILL)
        assert demo.wait() == 1
        assert re.search(
            r"ds-gateway: the gateway ended by itself, with -9\n--- the end of gateway.log:", demo.output
        )
        assert below(folder) == {}
        assert list(folder.iterdir()) == []


class TestTheCommandLine:
    @pytest.mark.parametrize("seconds", ["14", "0", "-60"])
    def test_too_short_is_refused_with_the_value_and_the_reason(self, seconds: str) -> None:
        result = CliRunner().invoke(app, ["demo", "--seconds", seconds])
        assert result.exit_code == 2
        assert f"{seconds} is too short, at least 15" in result.output

    def test_a_broker_that_is_none_is_refused(self) -> None:
        result = CliRunner().invoke(app, ["demo"], env={"DS_GATEWAY_MOSQUITTO": "/nothing/here"})
        assert result.exit_code == 2
        assert "/nothing/here is no program" in result.output
