"""A service whose configuration file is invalid runs the last valid one, and says so everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from ds_gateway import control
from ds_gateway.cli.status import render
from ds_gateway.config.last_valid import NAME
from durable_streams.testing import InMemoryStreamServer
from harness.gateway_process import GatewayProcess
from harness.service_manager import Manager
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import Processes


@pytest.fixture
def settings() -> Iterator[dict[str, Any]]:
    with InMemoryStreamServer() as server:
        yield {
            "gateway": {"id": "line-7"},
            "server": {"url": server.url("v1")},
            "journal": {"min_free_bytes": 0},
            "serial": {"scale": {"port": "/dev/nowhere"}},
        }


def test_the_last_valid_one_runs_until_the_file_is_corrected(
    processes: Processes, tmp_path: Path, settings: dict[str, Any]
) -> None:
    with Manager(tmp_path / "notify") as manager:
        gateway = GatewayProcess(
            processes, tmp_path, settings, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        gateway.start()
        first = gateway.wait_ready()
        assert first["gateway"]["config_refused"] is None
        wait_until((gateway.data_dir / NAME).exists, what="it is kept")
        gateway.kill()

        gateway.configure({**settings, "jurnal": {}, "log": {"level": "loud"}})
        gateway.start()
        status = gateway.wait_ready()
        refused = status["gateway"]["config_refused"]
        assert refused["count"] == 2
        assert "unknown key; did you mean journal, which is here already" in " ".join(refused["problems"])
        assert refused["running"] == str(gateway.data_dir / NAME)
        assert status["gateway"]["config_digest"] == first["gateway"]["config_digest"]
        assert len(gateway.events("gateway.config.invalid")) == 2
        (told,) = gateway.events("gateway.config.last_valid")
        assert told["level"] == "error"
        wait_until(
            lambda: any("STATUS=THE CONFIGURATION IS INVALID, THE LAST" in each for each in manager.told),
            what="the service manager shows it",
        )
        shown = str(render_text(status))
        assert "THE CONFIGURATION IS INVALID. The last valid one runs, of 20" in shown

        gateway.configure({**settings, "log": {"level": "info", "format": "json"}})
        assert control.call(gateway.data_dir / "control.sock", "reload", timeout_seconds=20)["changed"]
        again = gateway.wait_for(
            lambda status: status["gateway"]["config_refused"] is None, what="the corrected file runs"
        )
        assert again["gateway"]["pid"] == status["gateway"]["pid"]
        assert gateway.terminate() == 0


def render_text(status: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=400)
    console.print(render(status, datetime.now(UTC)))
    output = console.file
    assert isinstance(output, StringIO)
    return output.getvalue()


def test_otherwise_an_invalid_file_ends_the_start(
    processes: Processes, tmp_path: Path, settings: dict[str, Any]
) -> None:
    for options, environ in (
        ((), {"NOTIFY_SOCKET": "", "INVOCATION_ID": ""}),
        (("--strict",), {"NOTIFY_SOCKET": str(tmp_path / "notify")}),
    ):
        gateway = GatewayProcess(processes, tmp_path, settings, environ=environ)
        if not options:
            gateway.start()
            gateway.wait_ready()
            wait_until((gateway.data_dir / NAME).exists, what="it is kept")
            gateway.kill()
        gateway.configure({**settings, "jurnal": {}})
        gateway.start(*options)
        assert gateway.child.wait(timeout_seconds=20) == 2
        assert "jurnal: unknown key; did you mean journal, which is here already" in gateway.child.output
