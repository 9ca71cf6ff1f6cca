"""The pinned requirements and pyproject.toml say the same."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.peers import REPOSITORY

PINNED = (REPOSITORY / "requirements-dev.txt").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def _pins() -> dict[str, str]:
    lines = [line for line in PINNED.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_line_is_one_exact_version() -> None:
    for line in PINNED.splitlines():
        assert re.fullmatch(r"(#.*|[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*)?", line), line


def test_every_declared_dependency_is_pinned_to_a_version_it_allows() -> None:
    declared = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["trio"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    pins = _pins()
    for requirement in map(Requirement, declared):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin in requirements-dev.txt"
        assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"
