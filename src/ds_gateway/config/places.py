"""Where things are when nobody says: the file, the data folder, the control socket."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FILE: Final = Path("/etc/ds-gateway/gateway.yaml")
_SERVICE_DATA_DIR: Final = Path("/var/lib/ds-gateway")
_SERVICE_RUNTIME_DIR: Final = Path("/run/ds-gateway")
_SOCKET: Final = "control.sock"

_EVERYBODYS_NAMES: Final = frozenset({"", "raspberrypi", "debian", "localhost", "ubuntu"})
"""Host names that distributions give to every machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What defaults depend on, beside the environment."""

    host_name: str
    is_root: bool

    @classmethod
    def this(cls) -> Self:
        """The machine and the user of this process."""
        return cls(host_name=socket.gethostname(), is_root=os.geteuid() == 0)

    @property
    def has_own_name(self) -> bool:
        """Whether the host name can stand for this machine alone."""
        return self.host_name.lower().partition(".")[0] not in _EVERYBODYS_NAMES


def default_data_dir(environ: Mapping[str, str], machine: Machine) -> str | None:
    """``$STATE_DIRECTORY``, as root /var/lib/ds-gateway, else below the home folder; None without one."""
    state = state_directory(environ)
    if state is not None:
        return str(state)
    if machine.is_root:
        return str(_SERVICE_DATA_DIR)
    home = environ.get("HOME", "")
    return str(Path(home) / ".local/state/ds-gateway") if home.startswith("/") else None


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """The folder that systemd made for the service's state; None where it made none."""
    return _first(environ, "STATE_DIRECTORY")


def control_socket(environ: Mapping[str, str], data_dir: str) -> Path:
    """Where a gateway in this environment listens."""
    return (_first(environ, "RUNTIME_DIRECTORY") or Path(data_dir)) / _SOCKET


def control_sockets(environ: Mapping[str, str], data_dir: str, file: Path) -> tuple[Path, ...]:
    """Where the gateway of this file may listen, seen from an operator's shell, the likeliest first.

    The service has a runtime folder that the shell's environment does not tell; it belongs to the default file.
    """
    own = control_socket(environ, data_dir)
    if file != DEFAULT_FILE or "RUNTIME_DIRECTORY" in environ:
        return (own,)
    return (_SERVICE_RUNTIME_DIR / _SOCKET, own)


def _first(environ: Mapping[str, str], variable: str) -> Path | None:
    """The first folder of a variable that systemd sets: a list with colons between its entries."""
    first = environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None
