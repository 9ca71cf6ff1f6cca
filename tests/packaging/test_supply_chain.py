"""What comes with an installation: pinned to the last package, with known licences, and nothing else.

What this does not say: whether a pinned version has a known weakness. That needs a data base of weaknesses, which
no test without a network has; docs/threat-model.md tells the command.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from typing import TYPE_CHECKING, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable

PROJECT: Final = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS: Final = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}
# Each allows what a plant does with it, without opening its own programs. A new one is a decision: add it here.
LICENCES: Final = frozenset({
    "MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "PSF-2.0", "ISC", "Zlib", "MPL-2.0",
    "EPL-2.0 OR BSD-3-Clause", "MPL-2.0 AND (Apache-2.0 OR MIT)", "Apache-2.0 AND BSD-2-Clause",
})  # fmt: skip
# What packages say that do not say it as SPDX. Where it says less than a licence, the package itself was read.
OTHER_WORDS: Final = {
    "Apache 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "ISC License": "ISC",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}


def closure(declared: Iterable[str]) -> set[str]:
    """The packages that these requirements bring, with all that those need, on this platform."""
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in declared]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found or requirement.extras:
            found.add(name)
            needs = [Requirement(each) for each in metadata.requires(name) or ()]
            waiting += [(each, one) for each in needs for one in requirement.extras or {""}]
    return found


RUNTIME: Final = closure(PROJECT["dependencies"])


def licence(name: str) -> str:
    """As SPDX, as far as the package says."""
    about = metadata.metadata(name).json
    classifiers = [each for each in about.get("classifier", []) if each.startswith("License")]
    told = str(about.get("license_expression") or about.get("license") or "; ".join(classifiers))
    return OTHER_WORDS.get(told, told)


def test_everything_that_is_installed_with_it_is_pinned() -> None:
    assert len(RUNTIME) > 20
    assert sorted(RUNTIME - PINS.keys()) == []


@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_the_tests_run_with_the_pinned_version(name: str) -> None:
    assert metadata.version(name) == PINS[canonicalize_name(name)]


@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_its_licence_is_a_known_one(name: str) -> None:
    assert licence(name) in LICENCES


def test_no_pin_is_left_over() -> None:
    """What nobody needs any more is one more package to trust."""
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    needed = closure([
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["trio"],
        *groups["dependency-groups"]["dev"],
        *groups["build-system"]["requires"],
        "editables",  # hatchling needs it for an installation that can be edited
    ])  # fmt: skip
    assert sorted(PINS.keys() - needed) == []
