"""Opening a serial port, and saying in an operator's words why that failed.

pyserial opens and configures; reading is done on the descriptor, because its own ``read`` throws away what it has
when the device vanishes, and costs 50 times as much.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import stat
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import serial
import serial.rfc2217
import serial.rs485

from ds_gateway.errors import DeviceError
from ds_gateway.serial_port import usb
from ds_gateway.serial_port.network import Rfc2217Port, SocketPort

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.serial_port import Rs485Settings, SerialSettings, UsbSettings

PARITIES: Final = {
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


def open_port(settings: SerialSettings, *, find_usb: Callable[[UsbSettings], str] = usb.find) -> Port:
    """Open the port for this process alone and set its line up. `DeviceError` with the reason if not possible.

    What the driver had received before is discarded by the opening. A network's port may take `CONNECT_SECONDS`.
    """
    if settings.port is not None and settings.is_network:
        return _open_network(settings.port, settings)
    path = settings.port if settings.usb is None else find_usb(settings.usb)
    assert path is not None, "the settings have one of them"
    port = _open_terminal(path, settings)
    try:
        _check_same(path, port.fileno())
        if settings.usb is not None:
            _check_still(path, settings.usb, find_usb)
        if settings.rs485 is not None:
            _set_rs485(port, path, settings.rs485)
    except BaseException:
        port.close()
        raise
    opened: Port = port
    return opened


def _open_terminal(path: str, settings: SerialSettings) -> serial.Serial:
    try:
        return serial.Serial(
            port=path,
            baudrate=settings.baudrate,
            bytesize=settings.bytesize,
            parity=PARITIES[settings.parity],
            stopbits=settings.stopbits,
            timeout=0,
            exclusive=True,
        )
    # pyserial lets the terminal's own errors through, and a ValueError where a line setting is impossible.
    except (OSError, termios.error, ValueError) as error:
        raise DeviceError(explain(path, error)) from error


def _open_network(url: str, settings: SerialSettings) -> Port:
    try:
        if url.startswith("socket://"):
            return SocketPort(url)
        line = serial.rfc2217.Serial(
            port=None,
            baudrate=settings.baudrate,
            bytesize=settings.bytesize,
            parity=PARITIES[settings.parity],
            stopbits=settings.stopbits,
        )
        line.port = url
        line.open()
        return Rfc2217Port(line)
    except (OSError, ValueError) as error:
        raise DeviceError(f"{url} cannot be reached: {_words(error)}") from error


def _words(error: Exception) -> str:
    """Without what pyserial writes around it, which has the address in it again."""
    return re.sub(r"^Could not open port .*?: ", "", str(error)) or type(error).__name__


def _check_same(path: str, descriptor: int) -> None:
    """A link may lead to another adapter by the time its target is open."""
    try:
        is_same = Path(path).stat().st_rdev == os.fstat(descriptor).st_rdev
    except OSError as error:
        raise DeviceError(f"{path} vanished while it was opened") from error
    if not is_same:
        raise DeviceError(f"{path} became another device while it was opened")


def _check_still(path: str, wanted: UsbSettings, find_usb: Callable[[UsbSettings], str]) -> None:
    if find_usb(wanted) != path:
        raise DeviceError(f"{wanted} moved away from {path} while it was opened")


def _set_rs485(port: serial.Serial, path: str, rs485: Rs485Settings) -> None:
    try:
        port.rs485_mode = serial.rs485.RS485Settings(
            rts_level_for_tx=rs485.rts_level_for_tx,
            rts_level_for_rx=rs485.rts_level_for_rx,
            loopback=rs485.loopback,
            delay_before_tx=rs485.delay_before_tx_seconds,
            delay_before_rx=rs485.delay_before_rx_seconds,
        )
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"{path}: its driver cannot switch an RS-485 line by RTS ({error}): remove rs485 if the adapter "
            "switches by itself, as most USB ones do; else take another port"
        ) from error


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
