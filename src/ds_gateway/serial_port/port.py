"""Opening a serial port, and saying in an operator's words why that failed.

The only importer of pyserial. It opens and configures; reading is done on the descriptor, because its own
``read`` throws away what it has when the device vanishes, and costs 50 times as much.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
import termios
from typing import TYPE_CHECKING, Final, Protocol

import serial

from ds_gateway.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.serial_port import SerialSettings

_PARITIES: Final = {
    "none": serial.PARITY_NONE,
    "even": serial.PARITY_EVEN,
    "odd": serial.PARITY_ODD,
    "mark": serial.PARITY_MARK,
    "space": serial.PARITY_SPACE,
}


class Port(Protocol):
    """An open port. Once the device is gone its methods raise OSError, or termios.error."""

    def fileno(self) -> int:
        """Its descriptor, which blocks neither a reader nor a writer."""
        ...  # pragma: no cover

    @property
    def out_waiting(self) -> int:
        """Bytes that the driver has taken and not sent yet.

        0 is not the end of the last bit: a UART has some bytes in its chip then, a USB adapter all that it was
        given, and a pseudo-terminal always says 0, because the other side can read at once what was written.
        """
        ...  # pragma: no cover

    def reset_output_buffer(self) -> None:
        """Discard what the driver has taken and not sent yet."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Give it back; never blocks on a device that is gone.

        But it does, for up to 30 s, while flow control holds bytes: discard them before.
        """
        ...  # pragma: no cover


def open_port(settings: SerialSettings) -> Port:
    """Open the port for this process alone and set its line up. `DeviceError` with the reason if not possible.

    What the driver had received before is discarded by the opening.
    """
    if "://" in settings.port:
        raise DeviceError(f"{settings.port} is a URL, which is not supported: give the path of a device")
    try:
        port: Port = serial.Serial(
            port=settings.port,
            baudrate=settings.baudrate,
            bytesize=settings.bytesize,
            parity=_PARITIES[settings.parity],
            stopbits=settings.stopbits,
            timeout=0,
            exclusive=True,
        )
    # pyserial lets the terminal's own errors through, and a ValueError where a line setting is impossible.
    except (OSError, termios.error, ValueError) as error:
        raise DeviceError(explain(settings.port, error)) from error
    return port


def explain(path: str, error: Exception, *, look_at: Callable[[str], os.stat_result] = os.stat) -> str:
    """Why a port could not be opened, and what to do about it."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return f"{path} is not there: unplugged, or it has another name (see /dev/serial/by-id)"
    if number in {errno.EACCES, errno.EPERM}:
        return _explain_permission(path, look_at)
    if number in {errno.EBUSY, errno.EAGAIN}:
        return f"{path} is in use by another program"
    if number in {errno.ENOTTY, errno.EISDIR} or "Inappropriate ioctl" in str(error):
        return f"{path} is not a serial port"
    return f"{path} cannot be opened: {error}"


def _explain_permission(path: str, look_at: Callable[[str], os.stat_result]) -> str:
    try:
        found = look_at(path)
    except OSError:
        return f"permission denied on {path}, even to look at it"
    group = _group_name(found.st_gid)
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o060 != 0o060:
        return (
            f"permission denied on {path}: its mode {mode:04o} lets no group use it; let a udev rule give it to a "
            "group, with mode 0660"
        )
    return (
        f"permission denied on {path}: join the group {group}, by `usermod -aG {group} USER` and a new login, or "
        f"by SupplementaryGroups={group} in the systemd unit"
    )


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
