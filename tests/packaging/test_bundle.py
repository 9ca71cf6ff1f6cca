"""`make bundle`, installed where there is no network."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from harness.peers import REPOSITORY, require_tool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def the_machines_python() -> str:
    """The version of the one that is installed with: a service cannot use one in a home folder."""
    found = subprocess.run(
        [REPOSITORY / "tools" / "find-python"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    asked = [found.stdout.strip(), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked, for this Python alone."""
    made = subprocess.run(
        [REPOSITORY / "tools" / "make-bundle"],
        env={**os.environ, "PYTHONS": the_machines_python()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    name = re.search(r"Made (\S+)", made.stdout)
    assert name is not None, made.stdout
    folder = tmp_path_factory.mktemp("bundle")
    subprocess.run(["tar", "--extract", "--file", REPOSITORY / name[1], "--directory", folder], check=True)
    (unpacked,) = folder.iterdir()
    return unpacked


def install(bundle: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """In a network of its own, which reaches nothing."""
    return subprocess.run(
        [require_tool("unshare"), "--map-root-user", "--net", bundle / "install"],
        env={**os.environ, "DESTDIR": str(root), "PREFIX": "/opt/ds-gateway", "PYTHON": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )


def test_it_installs_the_versions_that_were_tested(bundle: Path, tmp_path: Path) -> None:
    for _ in ("installed", "upgraded"):
        installed = install(bundle, tmp_path)
        assert installed.returncode == 0, installed.stdout
    python = tmp_path / "opt/ds-gateway/bin/python"
    frozen = subprocess.run(
        [python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True, timeout=60
    )
    libraries = {line for line in frozen.stdout.splitlines() if not line.startswith("ds-gateway")}
    assert len(libraries) > 20
    assert libraries <= set((REPOSITORY / "requirements-dev.txt").read_text().splitlines())
    command = tmp_path / "opt/ds-gateway/bin/ds-gateway"
    assert subprocess.run([command, "--version"], check=True, capture_output=True, timeout=60).stdout
    assert (tmp_path / "etc/systemd/system/ds-gateway@.service").is_file()


def test_a_wheel_that_was_changed_on_its_way_is_refused(bundle: Path, tmp_path: Path) -> None:
    (wheel,) = (bundle / "wheels").glob("httpx-*.whl")
    original = wheel.read_bytes()
    wheel.write_bytes(original + b"\0")
    try:
        refused = install(bundle, tmp_path)
    finally:
        wheel.write_bytes(original)
    assert refused.returncode != 0
    assert "DO NOT MATCH" in refused.stdout
