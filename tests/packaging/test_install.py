"""`make install` into a folder of the test's, with everything it installs."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

# It fetches some thirty packages.
pytestmark = pytest.mark.timeout(300)

PREFIX = "/opt/ds-gateway"


def _install(root: Path, prefix: str = PREFIX) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "tools" / "install-service"],
        env={**os.environ, "DESTDIR": str(root), "PREFIX": prefix, "PYTHON": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=290,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    installed = _install(root)
    assert installed.returncode == 0, installed.stdout
    return root


def test_both_commands_run_from_the_installed_environment(root: Path, tmp_path: Path) -> None:
    for command in ("ds-gateway", "durable-streams"):
        # From another folder: nothing of this tree may be needed.
        ran = subprocess.run(
            [f"{root}{PREFIX}/bin/{command}", "--help"], cwd=tmp_path, capture_output=True, check=False, timeout=60
        )
        assert ran.returncode == 0, ran.stderr.decode()


def test_the_environment_has_the_versions_that_were_tested(root: Path) -> None:
    frozen = subprocess.run(
        [f"{root}{PREFIX}/bin/python", "-m", "pip", "freeze", "--exclude", "ds-gateway"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    pinned = (REPOSITORY / "requirements-dev.txt").read_text().splitlines()
    assert set(frozen.stdout.splitlines()) <= set(pinned)


def test_the_installed_packages_tell_type_checkers_that_they_are_typed(root: Path) -> None:
    installed = (root / PREFIX.lstrip("/") / "lib").glob("python*/site-packages/*/py.typed")
    assert {"ds_gateway", "durable_streams"} <= {marker.parent.name for marker in installed}


def test_the_unit_runs_the_installed_command(root: Path) -> None:
    unit = (root / "etc/systemd/system/ds-gateway.service").read_text()
    assert f"ExecStart={PREFIX}/bin/ds-gateway run\n" in unit
    template = (root / "etc/systemd/system/ds-gateway@.service").read_text()
    assert f"ExecStart={PREFIX}/bin/ds-gateway run --config /etc/ds-gateway/%i.yaml\n" in template
    assert (root / "etc/modules-load.d/ds-gateway.conf").is_file()


def test_a_second_time_it_upgrades_and_keeps_the_configuration(root: Path) -> None:
    configuration = root / "etc/ds-gateway/gateway.yaml"
    assert configuration.read_text() == (REPOSITORY / "config/gateway.yaml").read_text()
    # Its first line names the schema beside it.
    schema = configuration.with_name("gateway.schema.json")
    assert schema.read_text() == (REPOSITORY / "config/gateway.schema.json").read_text()
    configuration.write_text("mine\n")
    again = _install(root)
    assert again.returncode == 0, again.stdout
    assert "Kept" in again.stdout
    assert configuration.read_text() == "mine\n"


def test_a_prefix_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "usr/local/precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    refused = _install(tmp_path, "/usr/local")
    assert refused.returncode == 1
    assert "is left alone" in refused.stdout
    assert precious.exists()
