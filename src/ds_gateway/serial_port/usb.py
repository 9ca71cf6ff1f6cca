"""Which terminal a USB adapter is, by what it says of itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from serial.tools import list_ports

from ds_gateway.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ds_gateway.config.serial_port import UsbSettings

_BY_PATH: Final = Path("/dev/serial/by-path")
_MAX_TOLD: Final = 8


class UsbPort(Protocol):
    """A terminal and the adapter behind it, as pyserial finds it in sysfs."""

    @property
    def device(self) -> str:
        """Path of the terminal."""
        ...  # pragma: no cover

    @property
    def vid(self) -> int | None:
        """Vendor; None where it is no USB adapter."""
        ...  # pragma: no cover

    @property
    def pid(self) -> int | None:
        """Product."""
        ...  # pragma: no cover

    @property
    def serial_number(self) -> str | None:
        """What the maker gave it, if anything: many cheap ones have none, or all the same."""
        ...  # pragma: no cover


def all_ports() -> Iterable[UsbPort]:
    """Those of this machine."""
    found: Any = list_ports.comports()
    return found  # type: ignore[no-any-return]


def names_by_path(folder: Path = _BY_PATH) -> Mapping[str, str]:
    """The name that says which socket an adapter is in, by terminal; those that udev has given."""
    try:
        links = sorted(folder.iterdir())
    except OSError:
        return {}
    return {os.path.realpath(link): str(link) for link in links}


def find(
    usb: UsbSettings,
    *,
    ports: Callable[[], Iterable[UsbPort]] = all_ports,
    by_path: Callable[[], Mapping[str, str]] = names_by_path,
) -> str:
    """The path of the terminal. `DeviceError` if no adapter is the one, or several are."""
    there = [port for port in ports() if port.vid is not None and port.pid is not None]
    found = [port for port in there if _is(port, usb)]
    if len(found) == 1:
        return found[0].device
    if not found:
        others = ", ".join(sorted(_shown(port) for port in there)[:_MAX_TOLD])
        raise DeviceError(f"{usb} is not there: unplugged, or another adapter (there is {others or 'none'})")
    names = by_path()
    paths = " and ".join(sorted(names.get(os.path.realpath(port.device), port.device) for port in found))
    numbers = {port.serial_number for port in found if port.serial_number}
    if usb.serial is None and len(numbers) == len(found):
        serials = ", ".join(sorted(numbers))
        raise DeviceError(f"{usb} is there {len(found)} times: {paths}; add usb.serial, one of {serials}")
    raise DeviceError(
        f"{usb} is there {len(found)} times, and nothing tells them apart but their sockets: {paths}; give one of "
        "these as port"
    )


def _is(port: UsbPort, usb: UsbSettings) -> bool:
    is_kind = (port.vid, port.pid) == (int(usb.vid, 16), int(usb.pid, 16))
    return is_kind and (usb.serial is None or port.serial_number == usb.serial)


def _shown(port: UsbPort) -> str:
    serial = f" {port.serial_number}" if port.serial_number else ""
    return f"{port.vid or 0:04x}:{port.pid or 0:04x}{serial} at {port.device}"
