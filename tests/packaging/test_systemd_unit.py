from __future__ import annotations

import subprocess
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from ds_gateway.config.last_valid import NAME as LAST_VALID
from ds_gateway.config.places import DEFAULT_FILE
from harness.peers import REPOSITORY, require_tool

if TYPE_CHECKING:
    from pathlib import Path

UNIT = REPOSITORY / "systemd" / "ds-gateway.service"
TEMPLATE = REPOSITORY / "systemd" / "ds-gateway@.service"
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


@pytest.fixture(params=[UNIT.name, "ds-gateway@line-7.service"])
def runnable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy that names an existing executable: the service manager refuses one that does not exist.

    Of the unit, and of the template for one of several gateways.
    """
    name: str = request.param
    copy = tmp_path / name
    copy.write_text((TEMPLATE if "@" in name else UNIT).read_text().replace(INSTALLED, "/bin/true"))
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

    def test_and_finds_its_exposure_below_2(self, runnable: Path) -> None:
        # In tenths, and the threshold itself passes; a service without any sandbox has 96.
        judged = _analyze("security", "--offline=true", "--threshold=19", "--no-pager", runnable)
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

    def test_it_is_passed_over_as_long_as_nothing_is_configured(self, unit: dict[str, Settings]) -> None:
        # One of them will do: a file that went missing does not turn off a gateway that has run before.
        assert unit["Unit"]["ConditionPathExists"] == [f"|{DEFAULT_FILE}", f"|/var/lib/ds-gateway/{LAST_VALID}"]


class TestRestart:
    def test_it_is_never_given_up(self, unit: dict[str, Settings], service: Settings) -> None:
        assert service["Restart"] == ["always"]
        assert service["RestartSec"] == ["2"]
        # In [Service] systemd would ignore it, with a warning.
        assert unit["Unit"]["StartLimitIntervalSec"] == ["0"]

    def test_it_has_time_to_drain(self, service: Settings) -> None:
        assert service["KillMode"] == ["mixed"]
        assert service["TimeoutStopSec"] == ["30"]


class TestLimits:
    def test_it_leaves_the_box_to_others(self, service: Settings) -> None:
        assert service["MemoryMax"] == ["512M"]
        assert service["TasksMax"] == ["256"]

    def test_what_hangs_is_told_with_its_place_and_without_its_memory(self, service: Settings) -> None:
        assert service["Environment"] == ["PYTHONFAULTHANDLER=1"]
        assert service["LimitCORE"] == ["0"]


class TestSeveralOnOneBox:
    """The template says the same in other names."""

    def test_each_has_a_configuration_and_folders_of_its_own(self) -> None:
        other = _read(TEMPLATE)
        assert other["Unit"]["ConditionPathExists"] == [
            f"|{DEFAULT_FILE.with_name('%i.yaml')}",
            f"|/var/lib/ds-gateway-%i/{LAST_VALID}",
        ]
        assert other["Service"]["ExecStart"] == [f"{INSTALLED} run --config /etc/ds-gateway/%i.yaml"]
        assert other["Service"]["StateDirectory"] == other["Service"]["RuntimeDirectory"] == ["ds-gateway-%i"]

    def test_nothing_else_is_different(self, unit: dict[str, Settings]) -> None:
        own = {
            "Unit": {"Description", "ConditionPathExists"},
            "Service": {"ExecStart", "EnvironmentFile", "StateDirectory", "RuntimeDirectory"},
            "Install": set[str](),
        }
        other = _read(TEMPLATE)
        assert unit.keys() == other.keys() == own.keys()
        for section, names in own.items():
            assert unit[section].keys() == other[section].keys()
            assert {name for name in unit[section] if unit[section][name] != other[section][name]} == names


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

    def test_it_may_ask_whether_the_clock_is_synchronised(self, service: Settings) -> None:
        # ProtectClock refuses adjtimex even for asking; setting a clock needs a capability that nobody has here.
        assert "ProtectClock" not in service
        assert service["SystemCallFilter"][-1] == "adjtimex clock_adjtime"

    def test_the_rest_of_the_machine_is_out_of_reach(self, service: Settings) -> None:
        assert service["ProtectSystem"] == ["strict"]
        assert service["ProtectHome"] == ["yes"]
        assert service["CapabilityBoundingSet"] == [""]
        assert service["NoNewPrivileges"] == ["yes"]
