"""A command imports what it needs and nothing else: on a small machine each library takes a tenth of a second."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer
import yaml

from ds_gateway import cli
from harness.ports import free_port
from harness.processes import console_script

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Processes

SERVER: Final = {"uvicorn", "durable_streams.server", "durable_streams.in_process", "ds_gateway.embedded"}
PAGE: Final = {"uvicorn", "prometheus_client", "ds_gateway.page.app", "ds_gateway.metrics"}
CLIENT: Final = {"httpx", "durable_streams", "ds_gateway.uplink"}
GATEWAY: Final = {"ds_gateway.gateway", "ds_gateway.journal", "ds_gateway.mqtt", "ds_gateway.serial_port"}
DEVICES: Final = {"paho", "serial", "pymodbus", "diskcache"}
OTHER_COMMANDS: Final = {
    "ds_gateway.audit",
    "ds_gateway.demo",
    "ds_gateway.listening",
    "ds_gateway.trying",
    "ds_gateway.cli.live",
    "ds_gateway.config.json_schema",
}
CONFIGURATION: Final = {"ds_gateway.config.loader", "pydantic", "yaml"}
INTERPRETER: Final = (sys.executable, "-X", "importtime", console_script("ds-gateway"))
"""It tells each import as it happens; what a process has at its end would miss one that ends without it."""


def imported(output: str) -> set[str]:
    """The modules that the interpreter told."""
    return {line.rpartition("|")[2].strip() for line in output.splitlines() if line.startswith("import time:")}


def ended(*arguments: str) -> tuple[int, set[str]]:
    """The exit status of ``ds-gateway`` with these arguments, and what it imported."""
    command: list[str | Path] = [*INTERPRETER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, imported(done.stderr)


def started(processes: Processes, config: str, until: str = "gateway.started") -> tuple[set[str], set[str]]:
    """What a gateway has imported when it says that it has started, and in all until its end, behind ``until``."""
    process = processes.start([*INTERPRETER, "run", "--config", config], name="gateway")
    process.wait_for_output(until)
    early = imported(process.output.partition("gateway.started")[0])
    assert process.terminate() == 0, process.output
    return early, imported(process.output)


def configuration(
    folder: Path, *, server: str = "http://127.0.0.1:9/v1/stream", page: str = "off", **port: Any
) -> str:
    """A file with one serial port that nothing is plugged into."""
    file = folder / "gateway.yaml"
    values = {
        "gateway": {"id": "box"},
        "data_dir": str(folder / "data"),
        "server": {"url": server, **({"listen": f"127.0.0.1:{free_port()}"} if server == "embedded" else {})},
        "journal": {"min_free_bytes": 0},
        "status": {"listen": page},
        "serial": {"line": {"port": str(folder / "unplugged"), **port}},
    }
    file.write_text(yaml.safe_dump(values))
    return str(file)


class TestCommands:
    def test_the_version_needs_no_part_of_the_gateway(self) -> None:
        status, modules = ended("--version")
        assert status == 0
        assert {each for each in modules if each.startswith("ds_gateway.")} == {
            "ds_gateway.cli",
            "ds_gateway.errors",
        }

    def test_the_list_of_commands_needs_none_of_them(self) -> None:
        status, modules = ended("--help")
        assert status == 0
        assert not modules & CONFIGURATION

    def test_the_status_needs_no_gateway(self, tmp_path: Path) -> None:
        status, modules = ended("status", "--config", configuration(tmp_path, stream="line"))
        assert status == 1, "nobody is there"
        assert "ds_gateway.config.loader" in modules
        assert not modules & (SERVER | CLIENT | GATEWAY | DEVICES | OTHER_COMMANDS)

    def test_checking_a_file_needs_no_gateway(self, tmp_path: Path) -> None:
        status, modules = ended("check", "--config", configuration(tmp_path, stream="line"))
        assert status == 0
        assert not modules & (SERVER | CLIENT | GATEWAY | DEVICES | OTHER_COMMANDS | {"rich"})


class TestTheGateway:
    def test_it_has_no_server_and_no_other_command_in_it(self, processes: Processes, tmp_path: Path) -> None:
        _, modules = started(processes, configuration(tmp_path, stream="line"))
        assert "ds_gateway.journal" in modules
        assert not modules & (SERVER | PAGE | OTHER_COMMANDS | {"pymodbus"})

    def test_it_does_not_wait_for_its_page(self, processes: Processes, tmp_path: Path) -> None:
        page = f"127.0.0.1:{free_port()}"
        early, modules = started(processes, configuration(tmp_path, page=page, stream="line"), "page.listening")
        assert not early & PAGE
        assert modules > PAGE

    def test_nor_has_it_when_the_configuration_is_wrong(self, tmp_path: Path) -> None:
        status, modules = ended("run", "--config", configuration(tmp_path, nonsense="line"))
        assert status == 2
        assert not modules & (SERVER | OTHER_COMMANDS | {"pymodbus"})

    def test_what_is_configured_is_there_from_the_start(self, processes: Processes, tmp_path: Path) -> None:
        asked = {"unit": 1, "registers": [{"name": "voltage", "address": 0}]}
        poll = {"interval_seconds": "1h", "modbus": asked}
        early, _ = started(processes, configuration(tmp_path, server="embedded", stream="line", poll=poll))
        assert early > SERVER | {"pymodbus"}


@pytest.mark.parametrize("name", typer.main.get_group(cli.app).commands)
def test_the_list_says_what_the_command_says_of_itself(name: str) -> None:
    in_the_list = typer.main.get_group(cli.app).commands[name]
    itself = cli._load(name)
    assert in_the_list.get_short_help_str(1000) == itself.get_short_help_str(1000)
