"""The Debian package on a Debian that is booted, with a real systemd, broker and stream server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from durable_streams.testing import InMemoryStreamServer
from harness.audit import StreamReader, telemetry
from harness.debian import Debian
from harness.mosquitto import Mosquitto
from harness.peers import REPOSITORY, require_tool
from harness.ports import free_port
from harness.publisher import Publisher
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

UNIT: Final = "ds-gateway.service"
WATCHDOG_SECONDS: Final = 5
ASKS: Final = """\
import ctypes, time
timex = (ctypes.c_long * 64)()
assert ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) >= 0, "may not ask"
try:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
except PermissionError:
    raise SystemExit(0)
raise SystemExit("may set it")
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package of this tree, and the same as a later revision."""
    revision = "1"
    made = subprocess.run(
        [REPOSITORY / "tools" / "make-deb"],
        env={**os.environ, "DEB_REVISION": revision},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert made.returncode == 0, made.stdout
    name = re.search(r"Made (\S+)", made.stdout)
    assert name is not None
    package, later = REPOSITORY / name[1], tmp_path_factory.mktemp("later")
    subprocess.run(["dpkg-deb", "--raw-extract", package, later / "root"], check=True)
    control = later / "root" / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)-1$", r"\1-2", control.read_text()))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", later / "root", later / "later.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return package, later / "later.deb"


@pytest.fixture(scope="module")
def debian(packages: tuple[Path, Path]) -> Iterator[Debian]:
    with Debian() as debian:
        for package, name in zip(packages, ("first.deb", "later.deb"), strict=True):
            debian.path(f"/root/{name}").write_bytes(package.read_bytes())
        yield debian


class Plant:
    """A broker, a stream server, and the service on the machine, configured and running."""

    def __init__(self, debian: Debian, folder: Path, unit: str, file: str, stream: str) -> None:
        self.debian, self.unit, self.stream = debian, unit, stream
        self.file = file
        self.server = InMemoryStreamServer()
        self.broker = Mosquitto(folder / "mosquitto")
        self.page = free_port()
        self.sent: list[Any] = []

    def settings(self, **more: Any) -> dict[str, Any]:
        device = {"topic": "sensors/{sensor}", "stream": self.stream}
        return {
            "gateway": {"id": self.stream.replace("/", "-"), "clock": "trusted"},
            "server": {"url": self.server.url("v1")},
            "journal": {"min_free_bytes": 0},
            # The machine has the network of the tests.
            "status": {"listen": f"127.0.0.1:{self.page}"},
            "mqtt": {"hall": {"url": self.broker.url, "packet_ids": "sequential", "devices": [device]}},
            **more,
        }

    def configure(self, **more: Any) -> None:
        self.debian.write(self.file, json.dumps(self.settings(**more)))

    def publish(self, count: int) -> None:
        first = len(self.sent)
        numbers = [{"n": n} for n in range(first, first + count)]
        with Publisher(self.broker.port) as publisher:
            publisher.publish([("sensors/1", json.dumps(number).encode()) for number in numbers])
        self.sent += numbers

    def status(self) -> dict[str, Any]:
        printed = self.debian.run("ds-gateway", "status", "--json", "--config", self.file)
        status: dict[str, Any] = json.loads(printed)
        return status

    def wait_subscribed(self) -> None:
        wait_until(
            lambda: (
                self.debian.show(self.unit, "ActiveState") == "active"
                and "SUBACK" in self.broker.log
                and self.status()["sources"][0]["state"] == "connected"
            ),
            timeout_seconds=60,
            what="the service is connected",
        )

    def arrived(self) -> list[Any]:
        return telemetry(StreamReader(self.server.url(f"v1/{self.stream}")).try_read())

    def wait_arrived(self) -> None:
        """All that was published is in the stream, once and in order."""
        wait_until(lambda: len(self.arrived()) >= len(self.sent), timeout_seconds=60, what="all has arrived")
        assert self.arrived() == self.sent

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def plant(debian: Debian, tmp_path: Path) -> Iterator[Plant]:
    """Started from nothing: an earlier test's journal is gone."""
    if not debian.run("dpkg-query", "-W", "-f", "${Version}", "ds-gateway", check=False).endswith("-1"):
        debian.run("dpkg", "--install", "--force-confold", "/root/first.deb", timeout_seconds=300)
    debian.run("systemctl", "stop", UNIT)
    debian.run("rm", "-rf", "/var/lib/private/ds-gateway", f"/etc/systemd/system/{UNIT}.d")
    plant = Plant(debian, tmp_path, UNIT, "/etc/ds-gateway/gateway.yaml", "telemetry/box")
    with closing(plant), plant.broker:
        plant.configure()
        debian.run("systemctl", "daemon-reload")
        try:
            debian.run("systemctl", "start", UNIT)
            plant.wait_subscribed()
            yield plant
            debian.run("systemctl", "stop", UNIT)
        finally:
            print(debian.log(UNIT)[-6000:])


class TestInstalled:
    def test_without_a_configuration_it_is_enabled_and_does_not_run(self, debian: Debian) -> None:
        said = debian.run("dpkg", "--install", "/root/first.deb", timeout_seconds=300)
        assert "no configuration yet" in said
        assert debian.run("systemctl", "is-enabled", UNIT).strip() == "enabled"
        assert debian.show(UNIT, "ActiveState") == "inactive"
        debian.run("systemctl", "start", UNIT)
        assert (debian.show(UNIT, "ActiveState"), debian.show(UNIT, "ConditionResult")) == ("inactive", "no")
        assert debian.run("systemctl", "--failed", "--no-legend").strip() == ""
        # The sample is complete, and its first line names the schema beside it.
        debian.run("cp", "/usr/share/ds-gateway/gateway.yaml", "/etc/ds-gateway/gateway.yaml.new")
        assert debian.path("/usr/share/ds-gateway/gateway.schema.json").is_file()

    def test_the_environment_is_as_the_package_has_it_and_compiled(self, debian: Debian) -> None:
        assert debian.run("ds-gateway", "--version").startswith("ds-gateway ")
        assert debian.run("durable-streams", "--help")
        modules = debian.path("/opt/ds-gateway/lib/python3.11/site-packages/ds_gateway/__pycache__")
        assert (modules / "gateway.cpython-311.pyc").is_file()

    def test_it_runs_with_its_own_user_folder_and_limits(self, debian: Debian, plant: Plant) -> None:
        plant.publish(20)
        plant.wait_arrived()
        state = debian.path("/var/lib/private/ds-gateway")
        assert (state.stat().st_uid != 0, state.stat().st_mode & 0o777) == (True, 0o700)
        assert debian.path("/run/ds-gateway/control.sock").stat().st_mode & 0o777 == 0o660
        assert debian.show(UNIT, "MemoryMax") == str(512 * 1024 * 1024)
        assert "1 sources, " in debian.show(UNIT, "StatusText")
        # What the unit says that an idle one takes.
        pid = debian.show(UNIT, "MainPID")
        status = debian.path(f"/proc/{pid}/status").read_text()
        used = {name: int(number) for name, number in re.findall(r"(?m)^(VmRSS|Threads):\s*(\d+)", status)}
        print(used)
        assert used["VmRSS"] < 150_000
        assert used["Threads"] <= 20

    def test_it_may_ask_for_the_clock_and_not_set_it(self, debian: Debian, plant: Plant) -> None:
        debian.write("/opt/ds-gateway/asks.py", ASKS)
        drop_in = "[Service]\nExecStartPre=/usr/bin/python3 /opt/ds-gateway/asks.py\n"
        debian.write(f"/etc/systemd/system/{UNIT}.d/asks.conf", drop_in)
        debian.run("systemctl", "daemon-reload")
        debian.run("systemctl", "restart", UNIT)
        debian.run("rm", "/opt/ds-gateway/asks.py")


class TestLife:
    def test_killed_it_comes_back_and_nothing_is_lost_or_repeated(self, debian: Debian, plant: Plant) -> None:
        for restarts in (1, 2):
            plant.publish(200)
            debian.run("systemctl", "kill", "--signal=KILL", UNIT)
            plant.publish(50)
            wait_until(
                lambda restarts=restarts: debian.show(UNIT, "NRestarts") == str(restarts),  # type: ignore[misc]
                what="systemd starts it again",
            )
        plant.wait_arrived()

    def test_a_commit_that_does_not_end_starves_the_watchdog(self, debian: Debian, plant: Plant) -> None:
        drop_in = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n"
        debian.write(f"/etc/systemd/system/{UNIT}.d/watchdog.conf", drop_in)
        debian.run("systemctl", "daemon-reload")
        debian.run("systemctl", "restart", UNIT)
        plant.wait_subscribed()
        pid = debian.pid_here(int(debian.show(UNIT, "MainPID")))
        tracer: list[str | Path] = [
            *(require_tool("strace"), "-f", "-qq", "-o", "/dev/null", "-p", str(pid)),
            # The disk takes no more: whoever syncs waits.
            *("-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=600000000"),
        ]
        status = Path(f"/proc/{pid}/status")
        with subprocess.Popen(tracer) as strace:
            try:
                wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), what="it is traced")
                plant.publish(5)
                wait_until(
                    lambda: "Fatal Python error: Aborted" in debian.log(UNIT),
                    timeout_seconds=60,
                    what="systemd aborts it",
                )
            finally:
                strace.kill()  # which would hold the dead one
        wait_until(lambda: debian.show(UNIT, "NRestarts") == "1", timeout_seconds=60, what="it is started again")
        log = debian.log(UNIT)
        assert "Watchdog timeout" in log
        assert "journal/disk.py" in log, "where every thread stood"
        plant.publish(5)
        plant.wait_arrived()

    def test_reloaded_it_takes_up_a_changed_file_and_refuses_a_wrong_one(
        self, debian: Debian, plant: Plant
    ) -> None:
        pid, before = debian.show(UNIT, "MainPID"), plant.status()["gateway"]["config_digest"]
        plant.configure(jurnal={})
        debian.run("systemctl", "reload", UNIT)
        wait_until(lambda: "refused" in debian.show(UNIT, "StatusText"), what="it has refused it")
        assert "jurnal: unknown key" in debian.show(UNIT, "StatusText")
        assert debian.show(UNIT, "ActiveState") == "active"
        assert plant.status()["gateway"]["config_digest"] == before
        plant.publish(10)
        plant.configure(batch={"parallel": 2})
        debian.run("systemctl", "reload", UNIT)
        wait_until(
            lambda: (
                debian.show(UNIT, "ActiveState") == "active"
                and plant.status()["gateway"]["config_digest"] != before
            ),
            timeout_seconds=60,
            what="it has started anew",
        )
        assert debian.show(UNIT, "MainPID") == pid
        assert debian.show(UNIT, "NRestarts") == "0"
        plant.wait_subscribed()
        plant.publish(10)
        plant.wait_arrived()

    def test_stopped_it_drains_and_ends_well(self, debian: Debian, plant: Plant) -> None:
        plant.publish(500)
        debian.run("systemctl", "stop", UNIT)
        assert debian.show(UNIT, "Result") == "success"
        assert debian.show(UNIT, "ExecMainStatus") == "0"
        arrived = plant.arrived()
        assert arrived == plant.sent[: len(arrived)]
        debian.run("systemctl", "start", UNIT)
        plant.wait_arrived()


class TestDiag:
    def test_the_archive_has_the_log_of_the_unit_and_what_its_events_said(
        self, debian: Debian, plant: Plant
    ) -> None:
        plant.publish(10)
        plant.wait_arrived()
        debian.run("ds-gateway", "diag", "--output", "/root/diag.tar.gz", "--config", plant.file)
        with tarfile.open(debian.path("/root/diag.tar.gz")) as archive:
            member = archive.extractfile("ds-gateway-diag/log.txt")
            assert member is not None
            log = member.read().decode()
        connected = next(line for line in log.splitlines() if "mqtt.connected" in line)
        assert "source=hall" in connected
        assert "Started ds-gateway.service" in log


class TestSeveral:
    def test_two_gateways_on_one_box(self, debian: Debian, plant: Plant, tmp_path: Path) -> None:
        other = Plant(debian, tmp_path / "b", "ds-gateway@b.service", "/etc/ds-gateway/b.yaml", "telemetry/b")
        with closing(other), other.broker:
            other.configure()
            debian.run("systemctl", "start", other.unit)
            other.wait_subscribed()
            for each in (plant, other):
                each.publish(20)
            for each in (plant, other):
                each.wait_arrived()
            assert plant.status()["gateway"]["data_dir"] == "/var/lib/ds-gateway"
            assert other.status()["gateway"]["data_dir"] == "/var/lib/ds-gateway-b"
            debian.run("systemctl", "stop", other.unit)
            debian.run("rm", other.file)


class TestPackage:
    def test_upgraded_and_rolled_back_it_keeps_journal_and_configuration(
        self, debian: Debian, plant: Plant
    ) -> None:
        debian.write("/etc/default/ds-gateway", "DS_GATEWAY__LOG__LEVEL=debug\n")
        for name, version in (("later.deb", "-2"), ("first.deb", "-1")):
            plant.publish(100)
            before = debian.show(UNIT, "MainPID")
            debian.run("dpkg", "--install", "--force-confold", f"/root/{name}", timeout_seconds=300)
            assert debian.run("dpkg-query", "-W", "-f", "${Version}", "ds-gateway").endswith(version)
            assert debian.show(UNIT, "MainPID") != before, "the new program runs"
            plant.wait_subscribed()
            plant.publish(100)
        plant.wait_arrived()
        assert json.loads(debian.path(plant.file).read_text()) == plant.settings()
        assert debian.path("/etc/default/ds-gateway").read_text() == "DS_GATEWAY__LOG__LEVEL=debug\n"

    def test_disabled_by_an_operator_it_stays_so(self, debian: Debian, plant: Plant) -> None:
        debian.run("systemctl", "disable", "--now", UNIT)
        debian.run("dpkg", "--install", "--force-confold", "/root/later.deb", timeout_seconds=300)
        assert debian.run("systemctl", "is-enabled", UNIT, check=False).strip() == "disabled"
        assert debian.show(UNIT, "ActiveState") == "inactive"
        debian.run("systemctl", "enable", UNIT)

    def test_removed_and_purged_it_leaves_the_journal_unless_it_is_told(
        self, debian: Debian, plant: Plant
    ) -> None:
        plant.publish(10)
        plant.wait_arrived()
        debian.run("dpkg", "--remove", "ds-gateway")
        assert debian.run("systemctl", "is-active", UNIT, check=False).strip() == "inactive"
        assert not debian.path("/opt/ds-gateway").exists()
        assert "kept /var/lib/ds-gateway" in debian.run("dpkg", "--purge", "ds-gateway")
        assert debian.path("/var/lib/private/ds-gateway/journal/cache.db").is_file()
        assert debian.path(plant.file).is_file()
        assert not debian.path("/etc/default/ds-gateway").exists()
        # What was kept is what it goes on with.
        debian.run("dpkg", "--install", "/root/first.deb", timeout_seconds=300)
        plant.wait_subscribed()
        plant.publish(10)
        plant.wait_arrived()
        debian.run("dpkg", "--purge", "ds-gateway", DS_GATEWAY_PURGE_DATA="yes")
        for gone in ("/var/lib/private/ds-gateway", "/etc/ds-gateway", "/opt/ds-gateway"):
            assert not debian.path(gone).exists(), gone
        debian.run("dpkg", "--install", "/root/first.deb", timeout_seconds=300)

    def test_it_is_not_mixed_with_what_make_install_made(self, debian: Debian, plant: Plant) -> None:
        debian.run("dpkg", "--purge", "ds-gateway")
        debian.write("/opt/ds-gateway/pyvenv.cfg", "home = /usr/bin\n")
        refused = debian.run("dpkg", "--install", "/root/first.deb", check=False)
        assert "was made by `make install`" in refused
        assert debian.path("/opt/ds-gateway/pyvenv.cfg").read_text() == "home = /usr/bin\n"
        debian.run("rm", "-r", "/opt/ds-gateway")
        debian.run("dpkg", "--install", "/root/first.deb", timeout_seconds=300)
