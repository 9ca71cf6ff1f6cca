"""The published client's environment: a folder of its own under ``.cache``, because both have one import name."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

from clients.processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED: Final = "durable-streams==0.1.0"

_FOLDER: Final = REPOSITORY / ".cache" / "bench-published"


class NotInstallableError(Exception):
    """The published client cannot be had here."""


def published_python() -> Path:
    """Return the interpreter of the environment, which is made if need be. Raises `NotInstallableError`."""
    python, stamp = _FOLDER / "bin" / "python", _FOLDER / "installed"
    if stamp.exists() and stamp.read_text() == f"{_FOLDER} {PUBLISHED}":
        return python
    _run(str(REPOSITORY / "tools" / "make-venv"), str(_FOLDER))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PUBLISHED)
    stamp.write_text(f"{_FOLDER} {PUBLISHED}")
    return python


def _run(*argv: str) -> None:
    environ = {**os.environ, "PIP_CACHE_DIR": str(REPOSITORY / ".cache" / "pip")}
    done = subprocess.run(argv, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstallableError(said[-1] if said else f"{argv[0]} ended with {done.returncode}")
