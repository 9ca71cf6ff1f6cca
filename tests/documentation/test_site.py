"""The site: what leads nowhere is an error, and so is what README links to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

# It is a program of its own, and builds everything.
pytestmark = pytest.mark.timeout(300)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder / "site"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the site is made of, to be spoilt."""
    for name in ("docs", "config", "tools"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("data", "__pycache__"))
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def test_every_mistake_is_told_and_the_build_fails(copy: Path) -> None:
    page = copy / "docs/tutorial.md"
    spoilt = "[a](nowhere.md) [b](records.md#nothing) [c](../config/nothing.yaml)\n"
    page.write_text(page.read_text(encoding="utf-8") + spoilt, encoding="utf-8")
    (copy / "docs/orphan.md").write_text("# Orphan\n", encoding="utf-8")
    (copy / "docs/moving.md").unlink()
    built = build(copy)
    assert built.returncode != 0
    for told in ("nowhere.md", "#nothing", "nothing.yaml", "orphan.md", "'moving.md' is included in the 'nav'"):
        assert told in built.stdout, built.stdout


@pytest.mark.parametrize("section", ["How to", "Reference"])
def test_the_overview_leads_to_every_page_of(section: str) -> None:
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    (pages,) = [each[section] for each in nav if section in each]
    overview = (REPOSITORY / "docs/index.md").read_text(encoding="utf-8")
    assert [page for each in pages for page in each.values() if f"({page})" not in overview] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_top_folder_lead_somewhere(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
