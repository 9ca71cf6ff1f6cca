from __future__ import annotations

import subprocess
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from harness.peers import REPOSITORY, require_tool

if TYPE_CHECKING:
    from pathlib import Path

UNIT = REPOSITORY / "systemd" / "ds-gateway.service"
DROP_IN = REPOSITORY / "systemd" / "ds-gateway.service.d" / "credentials.conf.example"
INSTALLED = "/opt/ds-gateway/bin/ds-gateway"

Settings = dict[str, list[str]]


def _read(path: Path) -> dict[str, Settings]:
    """The sections of a unit file, each setting with all its values in order."""
    sections: dict[str, Settings] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            sections[section][name].append(value)
    return sections


@pytest.fixture(scope="module")
def unit() -> dict[str, Settings]:
    return _read(UNIT)


@pytest.fixture(scope="module")
def service(unit: dict[str, Settings]) -> Settings:
    return unit["Service"]


@pytest.fixture
def runnable(tmp_path: Path) -> Path:
    """A copy that names an existing executable: the service manager refuses one that does not exist."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(INSTALLED, "/bin/true"))
    return copy


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require_tool("systemd-analyze"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )


class TestSystemdAcceptsTheUnit:
    def test_without_a_single_complaint(self, runnable: Path) -> None:
        verified = _analyze("verify", runnable)
        assert (verified.returncode, verified.stdout) == (0, "")

    def test_and_would_complain_of_a_mistake(self, runnable: Path) -> None:
        runnable.write_text(runnable.read_text().replace("WatchdogSec=60", "WatchdogSeconds=60"))
        assert "Unknown key" in _analyze("verify", runnable).stdout

    def test_with_the_drop_in_for_credentials(self, runnable: Path) -> None:
        drop_in = runnable.with_name(f"{runnable.name}.d") / "credentials.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(DROP_IN.read_text())
        verified = _analyze("verify", runnable)
        assert (verified.returncode, verified.stdout) == (0, "")

    def test_and_finds_its_exposure_low(self, runnable: Path) -> None:
        # In tenths; a service without any sandbox has 96.
        judged = _analyze("security", "--offline=true", "--threshold=20", "--no-pager", runnable)
        assert judged.returncode == 0, judged.stdout.splitlines()[-1]


class TestStart:
    def test_it_runs_what_make_install_installs(self, service: Settings) -> None:
        assert service["ExecStart"] == [f"{INSTALLED} run"]

    def test_it_says_itself_when_it_is_ready_and_alive(self, service: Settings) -> None:
        assert service["Type"] == ["notify"]
        assert service["NotifyAccess"] == ["main"]
        assert service["WatchdogSec"] == ["60"]

    def test_it_waits_for_the_disk_and_for_nothing_else(self, unit: dict[str, Settings]) -> None:
        assert unit["Unit"]["After"] == ["local-fs.target"]
        ordering = {"Requires", "Requisite", "BindsTo", "Wants", "Upholds", "Conflicts", "Before"}
        assert not ordering & unit["Unit"].keys()

    def test_it_starts_with_the_machine(self, unit: dict[str, Settings]) -> None:
        assert unit["Install"]["WantedBy"] == ["multi-user.target"]


class TestRestart:
    def test_it_is_never_given_up(self, unit: dict[str, Settings], service: Settings) -> None:
        assert service["Restart"] == ["always"]
        assert service["RestartSec"] == ["2"]
        # In [Service] systemd would ignore it, with a warning.
        assert unit["Unit"]["StartLimitIntervalSec"] == ["0"]

    def test_it_has_time_to_drain(self, service: Settings) -> None:
        assert service["KillMode"] == ["mixed"]
        assert service["TimeoutStopSec"] == ["30"]


class TestSandbox:
    def test_it_is_nobody_in_particular_and_owns_two_folders(self, service: Settings) -> None:
        assert service["DynamicUser"] == ["yes"]
        assert service["StateDirectory"] == ["ds-gateway"]
        assert service["RuntimeDirectory"] == ["ds-gateway"]
        assert service["UMask"] == ["0007"]

    def test_it_reaches_serial_ports_and_no_other_device(self, service: Settings) -> None:
        assert service["SupplementaryGroups"] == ["dialout"]
        assert "PrivateDevices" not in service
        assert service["DevicePolicy"] == ["closed"]
        assert service["DeviceAllow"] == [f"char-tty{kind} rw" for kind in ("S", "USB", "ACM", "AMA")]

    def test_usb_ports_are_known_before_one_is_plugged_in(self) -> None:
        loaded = (REPOSITORY / "systemd" / "modules-load.d" / "ds-gateway.conf").read_text().splitlines()
        assert {"usbserial", "cdc_acm"} <= set(loaded)

    def test_the_rest_of_the_machine_is_out_of_reach(self, service: Settings) -> None:
        assert service["ProtectSystem"] == ["strict"]
        assert service["ProtectHome"] == ["yes"]
        assert service["CapabilityBoundingSet"] == [""]
        assert service["NoNewPrivileges"] == ["yes"]
