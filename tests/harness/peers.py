"""The real parts that tests talk to, and what happens where one cannot be had.

`make test` provides them: mosquitto and the tools from PATH or unpacked under ``.cache/peers``, npm packages
under ``tests/peers``. A missing one fails the test where ``CI`` is set, and skips it with the reason elsewhere.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, NoReturn

import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]
_PEERS = REPOSITORY / "tests" / "peers"
_UNPACKED = REPOSITORY / ".cache" / "peers"
# A normal user's PATH lacks the folders where Debian keeps daemons.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def require_mosquitto() -> Path:
    """The mosquitto broker's executable."""
    return require_tool("mosquitto")


def require_tool(name: str) -> Path:
    """An executable of the system, or its copy unpacked by `make test`."""
    unpacked = _UNPACKED / name / "bin"
    folders = (os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS, str(unpacked))
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        _unavailable(f"{name} is neither on PATH nor in {unpacked}, where `make test` puts what it can fetch")
    return Path(found)


def require_peer(name: str) -> Path:
    """The folder ``tests/peers/<name>``, with its npm packages installed and node on PATH."""
    folder = _PEERS / name
    require_tool("node")
    if not (folder / "node_modules").is_dir():
        _unavailable(f"{folder} has no node_modules: `make test` installs them where npm is available")
    return folder


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(f"{reason}; it must not be missing where CI is set", pytrace=False)
    pytest.skip(reason)
