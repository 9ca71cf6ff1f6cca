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
_STATE_FOLDERS: Final = Path("/var/lib")
_RUNTIME_FOLDERS: Final = Path("/run")
_SERVICE: Final = "ds-gateway"
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


def service_of(file: Path) -> str | None:
    """The name that systemd gives the folders of the service that runs this file; None: no service does.

    /etc/ds-gateway/gateway.yaml is ds-gateway.service; each other NAME.yaml beside it is ds-gateway@NAME.service.
    """
    if file == DEFAULT_FILE:
        return _SERVICE
    is_beside = file.parent == DEFAULT_FILE.parent and file.suffix == DEFAULT_FILE.suffix
    return f"{_SERVICE}-{file.stem}" if is_beside else None


def default_data_dir(environ: Mapping[str, str], machine: Machine, file: Path) -> str | None:
    """``$STATE_DIRECTORY``, as root that of the file's service, else below the home folder; None without one.

    As root, a file that no service runs has the folder of the first one: /var/lib/ds-gateway.
    """
    state = state_directory(environ)
    if state is not None:
        return str(state)
    if machine.is_root:
        return str(_STATE_FOLDERS / (service_of(file) or _SERVICE))
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

    A service has a runtime folder that the shell's environment does not tell; its file's name does.
    """
    own = control_socket(environ, data_dir)
    service = service_of(file)
    if service is None or "RUNTIME_DIRECTORY" in environ:
        return (own,)
    return (_RUNTIME_FOLDERS / service / _SOCKET, own)


def _first(environ: Mapping[str, str], variable: str) -> Path | None:
    """The first folder of a variable that systemd sets: a list with colons between its entries."""
    first = environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None
