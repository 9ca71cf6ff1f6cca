from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from ds_gateway.cli.status import render, view
from harness import statuses
from harness.answering import answering

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.command import Command

NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)

STATUS: dict[str, Any] = {
    "gateway": {"id": "line-7", "version": "0.1.0", "pid": 4711, "uptime_seconds": 7230.0, "started_at": "x"},
    "server": {"url": "http://127.0.0.1:4437/v1/stream"},
    "sources": [
        {"name": "hall", "kind": "mqtt", "state": "connected", "reason": "", "received": 1500, "lost": 0},
        {
            "name": "scale",
            "kind": "serial",
            "state": "waiting",
            "reason": "no such device",
            "received": 3,
            "lost": 1,
        },
    ],
    "devices": [
        {
            "name": "h1/t1",
            "stream": "telemetry/line-7/h1",
            "source": "hall",
            "last_time": "2026-03-01T12:00:07.500000Z",
            "last_data": {"temperature": 21.4, "ok": True},
            "units": {"temperature": "Cel"},
            "count": 1500,
            "repeated": 4,
        }
    ],
    "streams": [
        {
            "name": "telemetry/line-7/h1",
            "url": "http://127.0.0.1:4437/v1/stream/telemetry/line-7/h1",
            "state": "waiting",
            "reason": "",
            "accepted": 1500,
            "in_journal": 20,
            "in_stream": 1477,
            "lost": 3,
            "in_flight": 20,
            "epoch": 1,
            "last_error": "connection refused",
            "last_ok_time": None,
        }
    ],
    "journal": {
        "bytes": 3 * 2**20,
        "max_bytes": 2**31,
        "free_bytes": 5 * 2**30,
        "full": False,
        "quarantined": 2,
        "lost": 1,
    },
}


def shown(result: Mapping[str, Any], width: int = 160) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(render(result, NOW))
    return stream.getvalue()


def rows(text: str, table: str) -> list[list[str]]:
    """The cells of a table, row by row, without its title and header."""
    lines = text.splitlines()
    lines = lines[[line.strip() for line in lines].index(table) + 1 :]
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines if line.startswith("│")]
    end = next((n for n, line in enumerate(lines) if line.startswith("└")), len(lines))
    return cells[: sum(line.startswith("│") for line in lines[:end])]


class TestTheTables:
    def test_head(self) -> None:
        assert shown(STATUS).splitlines()[0] == (
            "gateway line-7, version 0.1.0, pid 4711, up 2.0 h, server http://127.0.0.1:4437/v1/stream"
        )

    def test_a_clock_that_is_well_has_no_line(self) -> None:
        clock = {"synchronised": True, "trusted": False, "since": "x", "boot": "b", "steps": 0, "last_step": None}
        assert shown({**STATUS, "clock": clock}) == shown(STATUS)

    def test_a_clock_that_is_not_synchronised_or_was_set(self) -> None:
        step = {"time": "2026-03-01T11:00:00.000000Z", "seconds": -3.5}
        clock = {"synchronised": False, "since": "2026-03-01T10:00:00.000000Z", "last_step": step}
        assert shown({**STATUS, "clock": clock}).splitlines()[1:3] == [
            (
                "the clock is not synchronised: records say so, and commands wait; set up a time server, or "
                "gateway.clock: trusted"
            ),
            "the clock was set by -3.5 s at 2026-03-01T11:00:00.000000Z",
        ]

    def test_sources(self) -> None:
        assert rows(shown(STATUS), "sources") == [
            ["hall", "mqtt", "connected", "-", "1500", "0"],
            ["scale", "serial", "waiting", "no such device", "3", "1"],
        ]

    def test_an_alarm_is_shown_where_the_source_itself_is_well(self) -> None:
        hall = {**STATUS["sources"][0], "alarms": ["too many devices", "too many streams"]}
        assert rows(shown({**STATUS, "sources": [hall]}), "sources")[0][3] == "too many devices; too many streams"

    def test_devices(self) -> None:
        assert rows(shown(STATUS), "devices") == [
            ["h1/t1", "temperature 21.4 Cel, ok True", "2.5 s", "1500", "4", "-"]
        ]

    def test_streams(self) -> None:
        assert rows(shown(STATUS), "streams") == [
            ["telemetry/line-7/h1", "waiting", "1500", "20", "1477", "3", "connection refused"]
        ]

    def test_journal(self) -> None:
        assert shown(STATUS).splitlines()[-1] == (
            "journal 3.0 MiB of 2.0 GiB used, 5.0 GiB free on the disk, quarantined 2, lost 1"
        )

    def test_losses_have_a_line_for_each_cause(self) -> None:
        losses = {"id_gap": {"entries": 1, "records": 0}, "shed_oldest": {"entries": 2, "records": 31}}
        journal = {**STATUS["journal"], "losses": losses, "shedding": "shed_oldest"}
        lines = shown({**STATUS, "journal": journal}).splitlines()[-3:]
        assert "NO ROOM: the oldest records are lost" in lines[0]
        assert lines[1:] == [
            "loss ledger: id_gap: an unknown number of records, 1 entry: the broker skipped packet ids",
            (
                "loss ledger: shed_oldest: 31 records, 2 entries: the journal was full, and the oldest records "
                "gave way"
            ),
        ]

    def test_a_server_elsewhere_has_no_line_of_its_own(self) -> None:
        assert "embedded" not in shown({**STATUS, "embedded": None})

    def test_the_embedded_server(self) -> None:
        embedded = {
            "state": "unheard",
            "url": "",
            "reason": "cannot listen on 127.0.0.1 port 4437: Address already in use",
            "directory": "/d/streams",
            "bytes": 3 * 2**20,
            "max_bytes": 2**31,
            "free_bytes": 5 * 2**30,
        }
        assert shown({**STATUS, "embedded": embedded}, width=400).splitlines()[1] == (
            "embedded server unheard, streams in /d/streams, 3.0 MiB of 2.0 GiB used, 5.0 GiB free on the disk: "
            "cannot listen on 127.0.0.1 port 4437: Address already in use"
        )

    def test_what_commands_wait_for(self) -> None:
        sources = [
            {"name": "hall", "orders_waiting": 2, "orders_unacknowledged": 3},
            {"name": "scale", "orders_waiting": 1, "orders_unacknowledged": 0},
            {"name": "of an older version"},
        ]
        downlink = {"state": "held", "reason": "receipts/line-7 is not claimed yet", "open": 6}
        text = shown({**STATUS, "sources": sources, "downlink": downlink}, width=400)
        assert (
            "commands held, 6 open, 3 wait for their broker or port, 3 are sent and not acknowledged: "
            "receipts/line-7 is not claimed yet\n"
        ) in text
        assert "commands" not in shown({**STATUS, "downlink": None})

    def test_a_full_journal(self) -> None:
        full = {"bytes": 10, "full": True, "why_full": "the disk is full"}
        assert "NO ROOM: sources wait (the disk is full)" in shown({**STATUS, "journal": full})

    @pytest.mark.parametrize(
        "result",
        [
            {},
            {"gateway": None, "sources": None, "devices": 3, "streams": {}, "journal": []},
            {"sources": [{}, 3, None], "devices": [{}], "streams": [{}]},
            {"devices": [{"last_time": 7, "last_data": [1], "count": None}], "gateway": {"uptime_seconds": "x"}},
            {"devices": [{"last_time": "2026-03-01T12:00:00"}], "streams": [{"last_error": {"a": 1}}]},
        ],
    )
    def test_whatever_is_missing_is_a_hyphen(self, result: dict[str, Any]) -> None:
        text = shown(result)
        assert text.splitlines()[-1].startswith("journal - of - used")
        assert "None" not in text

    def test_names_from_outside_are_no_markup_and_no_commands(self) -> None:
        device = {"name": "[red]x[/red]\x1b[2J\u202e", "last_data": {"[/]": "\x07"}}
        text = shown({"devices": [device]})
        assert "[red]x[/red]\\x1b[2J\\u202e" in text
        assert "\x1b" not in text
        assert "\x07" not in text


class TestCertificatesAndThePage:
    def test_those_with_a_problem_are_shown_and_no_others(self) -> None:
        rows = [
            {"name": "server.tls.ca", "subject": "CN=Plant CA", "days_left": 3000, "problem": ""},
            {"name": "server.tls.cert", "subject": "CN=line-7", "days_left": 12, "problem": "expires in 12 days"},
            {"name": "mqtt.hall", "subject": "CN=hall", "days_left": -1, "problem": "has expired at x: renew it"},
            {"name": "mqtt.hall.tls.ca", "subject": "", "days_left": None, "problem": "cannot be read: gone"},
        ]
        assert shown({**STATUS, "certificates": rows}).splitlines()[1:4] == [
            "certificate server.tls.cert, CN=line-7: expires in 12 days",
            "certificate mqtt.hall, CN=hall: has expired at x: renew it",
            "certificate mqtt.hall.tls.ca: cannot be read: gone",
        ]
        assert "Plant CA" not in shown({**STATUS, "certificates": rows})
        assert shown({**STATUS, "certificates": rows[:1]}) == shown(STATUS)

    def test_a_status_as_gateways_make_it(self) -> None:
        assert "certificate server.tls.cert, CN=line-7: ends in 12 days: renew it" in shown(statuses.troubled())

    def test_a_page_that_cannot_be_opened(self) -> None:
        page = {"state": "unheard", "url": "", "reason": "cannot listen on 0.0.0.0 port 80: Permission denied"}
        assert shown({**STATUS, "page": page}).splitlines()[1] == (
            "the status page cannot be opened: cannot listen on 0.0.0.0 port 80: Permission denied"
        )
        for state in ("off", "opening", "listening"):
            assert shown({**STATUS, "page": {"state": state, "reason": ""}}) == shown(STATUS)


class TestAScreen:
    def watched(self, lines: int, columns: int = 80, count: int = 64) -> list[str]:
        """What --watch shows on a terminal of this size."""
        devices = [
            {**STATUS["devices"][0], "name": f"d{n}", "rejected": int(n == count - 1)} for n in range(count)
        ]
        streams = [
            {**STATUS["streams"][0], "name": f"s{n}", "state": "halted" if n == count - 2 else "idle"}
            for n in range(count)
        ]
        result = {**STATUS, "devices": devices, "streams": streams}
        screen = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=False)
        with screen.capture() as capture:
            screen.print(view(lambda: result, NOW, screen))
        return capture.get().splitlines()

    @pytest.mark.parametrize(("lines", "columns"), [(40, 80), (30, 200), (60, 100)])
    def test_has_room_for_all_of_it(self, lines: int, columns: int) -> None:
        shown = self.watched(lines, columns)
        assert len(shown) <= lines
        text = "\n".join(shown)
        for each in ("sources", "devices", "streams", "journal 3.0 MiB"):
            assert f"\n{each}" in text, text
        assert "more devices: ds-gateway status shows all" in text
        assert "more streams: ds-gateway status shows all" in text

    def test_has_those_first_that_need_somebody(self) -> None:
        text = "\n".join(self.watched(40, 120))
        assert rows(text, "devices")[0][0] == "d63"
        assert rows(text, "streams")[0][:2] == ["s62", "halted"]
        assert rows(text, "devices")[1][0] == "d0"

    def test_shows_all_where_it_fits(self) -> None:
        text = "\n".join(self.watched(60, 200, 3))
        assert "ds-gateway status" not in text
        assert [len(rows(text, table)) for table in ("sources", "devices", "streams")] == [2, 3, 3]

    def test_that_is_tiny_shows_one_of_each(self) -> None:
        assert [len(rows("\n".join(self.watched(5, 120)), table)) for table in ("devices", "streams")] == [1, 1]

    def test_is_complete_without_watch(self) -> None:
        devices = [{**STATUS["devices"][0], "name": f"d{n}"} for n in range(200)]
        assert len(rows(shown({**STATUS, "devices": devices}), "devices")) == 200


class TestTheCommand:
    def test_prints_tables(self, command: Command, config: Path) -> None:
        with answering(config.parent / "control.sock", "status", STATUS):
            done = command("status", "--config", config)
        assert (done.code, done.stderr) == (0, "")
        assert "gateway line-7" in done.stdout
        assert "connection refused" in done.stdout

    def test_prints_json(self, command: Command, config: Path) -> None:
        with answering(config.parent / "control.sock", "status", STATUS):
            done = command("status", "--config", config, "--json")
        assert (done.code, done.stderr) == (0, "")
        assert json.loads(done.stdout) == STATUS

    def test_looks_in_the_runtime_folder(self, command: Command, config: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        with answering(tmp_path / "run/control.sock", "status", STATUS):
            done = command(
                "status", "--config", config, "--json", environ={"RUNTIME_DIRECTORY": str(tmp_path / "run")}
            )
        assert json.loads(done.stdout) == STATUS

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_says_so_without_a_gateway(self, options: tuple[str, ...], command: Command, config: Path) -> None:
        done = command("status", "--config", config, *options)
        folder = config.parent
        assert (done.code, done.stdout) == (1, "")
        assert done.stderr == (
            f"ds-gateway: no gateway is running on {folder} (no control socket at {folder}/control.sock); "
            "for a service, `systemctl status ds-gateway` shows whether it runs, and `journalctl -u ds-gateway` "
            "why not\n"
        )

    def test_without_its_file_is_a_mistake_in_the_configuration(self, command: Command, tmp_path: Path) -> None:
        done = command("status", "--config", tmp_path / "nothing.yaml")
        assert (done.code, done.stdout) == (2, "")
        assert "there is no such file" in done.stderr
